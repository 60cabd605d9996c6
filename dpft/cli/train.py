"""``dpft train``: fine-tune, one run per dataset."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from dpft.cli import (
    options,
    options_budget,
    options_disclosure,
    options_files,
    options_plan,
    options_resume,
    team,
)
from dpft.errors import DpftError, InterruptedRunError, PrivacyError

if TYPE_CHECKING:
    from dpft.cli.request import Given
    from dpft.runs.record import RunRecord
    from dpft.spec import RunSpec
    from dpft.training.observer import RunFacts

__all__ = ["EXAMPLE", "train"]

EXAMPLE = (
    "Example: [cyan]dpft train --datasets qnli qqp --finetune-mode ia3 --enable-dp --target-epsilon 8.0 "
    "--max-grad-norm 0.1[/cyan]"
)


def train(
    context: typer.Context,
    dataset_arguments: options.DatasetArguments = None,
    datasets: options.DatasetOptions = None,
    data_dir: options.DataDir = None,
    data_file: options_files.DataFile = None,
    validation_file: options_files.ValidationFile = None,
    text_column: options_files.TextColumns = None,
    label_column: options_files.LabelColumn = None,
    labels: options_files.Labels = None,
    model_checkpoint: options.ModelCheckpoint = None,
    base_data_overlap: options_disclosure.BaseDataOverlap = None,
    max_length: options.MaxLength = None,
    finetune_mode: options.FinetuneMode = None,
    learning_rate: options.LearningRate = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lora_r: options.LoraR = None,
    lora_alpha: options.LoraAlpha = None,
    lora_dropout: options.LoraDropout = None,
    num_prepend_tokens: options.NumPrependTokens = None,
    seed: options.Seed = None,
    enable_dp: options.EnableDp = None,
    target_epsilon: options.TargetEpsilon = None,
    target_delta: options.TargetDelta = None,
    public_n: options_disclosure.PublicN = None,
    noise_multiplier: options.NoiseMultiplier = None,
    max_grad_norm: options.MaxGradNorm = None,
    clipping: options.Clipping = None,
    engine: options.Engine = None,
    budget_cap: options_budget.BudgetCap = None,
    micro_batch_tokens: options.MicroBatchTokens = None,
    precision: options.Precision = None,
    name: options.Name = None,
    tags: options.Tags = None,
    note: options.Note = None,
    config: options.Config = None,
    checkpoint_every: options_resume.CheckpointEvery = None,
    resume: options_resume.Resume = None,
    plan: options.Plan = False,
    no_probe: options_plan.NoProbe = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fine-tune on private text, with differential privacy: one run per dataset.

    What one example can reveal is bounded by ε and δ, which the run states together with the evidence.
    Ctrl-C stops a run early and keeps what was trained, with the ε of the steps really taken; --resume goes
    on with it, or with a run whose process died.
    """
    from dpft.cli import render
    from dpft.cli.progress import TrainingView
    from dpft.cli.request import Given, run_specs

    options_plan.check(plan=plan, no_probe=no_probe)
    if resume is not None:
        team.refuse("--resume")
        record = _resume(resume, Given.of(context), quiet=quiet)
        if not as_json:
            _show(record, quiet=quiet)
        _report([record], as_json=as_json, quiet=quiet)
        return
    if team.following():
        quiet = True
    with TrainingView(quiet=quiet) as view:
        specs = run_specs(Given.of(context), lambda: view.working("loading libraries"))
        from dpft.training.run import plan_run
    if plan:
        team.refuse("--plan")
        facts = []
        for spec in specs:
            with TrainingView(quiet=quiet) as view:
                facts.append(plan_run(spec, view, probe=not no_probe))
        if as_json:
            render.document({"runs": [_planned(fact) for fact in facts]})
        else:
            render.plans(facts)
        return
    records: list[RunRecord] = []
    with _terminating_gently(), team.gathered(specs) as call:
        for position, spec in enumerate(specs, start=1):
            title = f"run {position} of {len(specs)}" if len(specs) > 1 else ""
            records.append(_run(spec, title, quiet, kept=bool(records), shared=call(position - 1)))
            if not as_json:
                _show(records[-1], quiet=quiet)
            if records[-1].status == "interrupted":
                break
    _report(records, as_json=as_json, quiet=quiet)


def _show(record: RunRecord, *, quiet: bool) -> None:
    """One run that has just ended."""
    from dpft.cli import render

    render.ids([record.run_id]) if quiet else render.summary(record)


def _report(records: Sequence[RunRecord], *, as_json: bool, quiet: bool) -> None:
    """All of them, and the exit code that they amount to."""
    from dpft.cli import render

    if as_json:
        render.document({"runs": [record.to_public_json() for record in records]})
    elif len(records) > 1 and not quiet:
        render.summary_table(records)
    if records[-1].status == "interrupted":
        raise typer.Exit(InterruptedRunError.exit_code)
    if any(record.private and record.epsilon is None for record in records):
        render.warning("no valid (ε, δ) can be claimed: see sampling.why_not in the run's privacy.json")
        raise typer.Exit(PrivacyError.exit_code)


def _run(spec: RunSpec, title: str, quiet: bool, *, kept: bool, shared: Mapping[str, Any]) -> RunRecord:
    """Train once; an error names the dataset, and says that runs before it are kept."""
    from dpft.cli.progress import TrainingView
    from dpft.training.run import train as fine_tune

    with TrainingView(title, quiet=quiet) as view:
        try:
            return fine_tune(spec, view, **shared)
        except DpftError as error:
            if not title:
                raise
            hints = [error.hint, "what was trained before is kept: see 'dpft list'" if kept else ""]
            raise type(error)(
                f"{spec.data.dataset} ({title}): {error.message}", hint="; ".join(filter(None, hints))
            ) from error
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"interrupted before anything was saved of the run on {spec.data.dataset}",
                hint="begin again when you like",
            ) from None


def _resume(reference: str, given: Given, *, quiet: bool) -> RunRecord:
    """Go on with a run."""
    from dpft.cli.progress import TrainingView
    from dpft.cli.resume import what_to_resume

    record, changes = what_to_resume(reference, given)
    with _terminating_gently(), TrainingView(quiet=quiet) as view:
        view.working("loading libraries")
        from dpft.training.run import resume

        try:
            return resume(record.run_id, view, changes=changes)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"interrupted before run {record.name} took another step",
                hint=f"'dpft train --resume {record.name}' goes on when you like",
            ) from None


def _planned(facts: RunFacts) -> dict[str, Any]:
    """The keys of a run that are known before it."""
    known = {
        "name": facts.name or None,
        "dataset": facts.dataset,
        "finetune_mode": facts.finetune_mode,
        "model_checkpoint": facts.model,
        "status": "planned",
        "private": facts.private,
        "epsilon": facts.planned_epsilon,
        "delta": facts.delta,
        "noise_multiplier": facts.noise_multiplier,
        "sample_rate": facts.sample_rate,
        "steps": facts.steps,
        "trainable_parameters": facts.trainable_parameters,
        "estimated_seconds": None if facts.estimate is None else round(facts.estimate.seconds, 1),
        "estimated_peak_memory_bytes": None if facts.estimate is None else facts.estimate.peak_memory_bytes,
        "ledger": None if facts.ledger is None else _stated(asdict(facts.ledger)),
    }
    return _stated(known)


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not known, or cannot be claimed."""
    return {name: value for name, value in values.items() if value is not None}


@contextlib.contextmanager
def _terminating_gently() -> Iterator[None]:
    """Let SIGTERM stop a run as Ctrl-C does, and be unheard where Ctrl-C is: while a run is being saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # started in the background by a script

    def stop(number: int, frame: FrameType | None) -> None:
        if deaf or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
