"""``dpft plan``: what a run would cost, what more or less noise would change, and how far a target goes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dpft.cli import options, options_files, options_plan
from dpft.errors import PrivacyError, UsageError

if TYPE_CHECKING:
    from dpft.cli.request import Given
    from dpft.runs.ledger import Entry
    from dpft.spec import OptimisationSpec, PrivacySpec
    from dpft.training.observer import LedgerEffect
    from dpft.training.prospect import Affordable, Curve, Frontier, Prospect

__all__ = ["EXAMPLE", "plan"]

EXAMPLE = (
    "Example: [cyan]dpft plan --examples 67349 --frontier[/cyan], or "
    "[cyan]dpft plan sst2 --data-dir glue --afford-epochs --target-epsilon 3 --noise-multiplier 0.8[/cyan]"
)


def plan(
    context: typer.Context,
    dataset_arguments: options.DatasetArguments = None,
    examples: options_plan.Examples = None,
    datasets: options.DatasetOptions = None,
    data_dir: options.DataDir = None,
    data_file: options_files.DataFile = None,
    validation_file: options_files.ValidationFile = None,
    text_column: options_files.TextColumns = None,
    label_column: options_files.LabelColumn = None,
    labels: options_files.Labels = None,
    fingerprint: options_plan.Fingerprint = None,
    batch_size: options.BatchSize = None,
    epochs: options.Epochs = None,
    target_epsilon: options.TargetEpsilon = None,
    target_delta: options.TargetDelta = None,
    noise_multiplier: options.NoiseMultiplier = None,
    afford_epochs: options_plan.AffordEpochs = False,
    afford_batch_size: options_plan.AffordBatch = False,
    show_frontier: options_plan.ShowFrontier = False,
    output: options_plan.Drawing = None,
    overwrite: options_plan.Replace = False,
    as_json: options.Json = False,
) -> None:
    """Answer, before anything is spent: how much noise, what ε, and how far would a target go?

    It needs the number of examples; with -d it counts them. σ and ε are those of 'dpft train'. Nothing is
    loaded, trained or charged.
    """
    from dpft.cli import render
    from dpft.cli.progress import TrainingView
    from dpft.cli.request import Given
    from dpft.cli.views import plan as view

    afford = "epochs" if afford_epochs else "batch_size" if afford_batch_size else None
    given = _consistent(Given.of(context), afford)
    if output is not None:
        from dpft.cli.views import figure

        figure.check(output, overwrite=overwrite)
    with TrainingView() as progress:
        count, entries = examples or 0, _named(fingerprint)
        if examples is None:
            progress.working("counting examples")
            count, entries = _counted(given)
        progress.working("computing ε")
        optimisation, privacy, target = _asked(given)
        affordable: Affordable | None = None
        if afford is not None:
            affordable, optimisation = _afford(count, entries, optimisation, privacy, target, afford)
        prospect = effect = curves = None
        if affordable is None or affordable.steps:
            from dpft.training.composition import effect_of
            from dpft.training.prospect import foresee, frontier

            prospect = foresee(count, optimisation, privacy)
            if entries is not None:
                effect = effect_of(entries, prospect.schedule.delta, prospect.event)
            if show_frontier or output is not None:
                progress.working("computing the frontier")
                curves = frontier(prospect)
    if output is not None and prospect is not None and curves is not None:
        figure.write(output, prospect, curves)
    if as_json:
        render.document(_document(prospect, effect, curves, affordable))
        return
    view.answer(count, prospect, effect, affordable, data=_data_options(given))
    if curves is not None and prospect is not None and show_frontier:
        view.frontier(prospect, curves)
    if output is not None and curves is not None:
        view.written(output)


def _consistent(given: Given, afford: str | None) -> Given:
    """Options that belong together, and those that do not.

    Raises:
        UsageError: naming the option.
    """
    from dpft.cli.request import option_name, settle_privacy

    values = given.values
    if ("examples" in values) == bool({"datasets", "data_file", options.DATASETS_ARGUMENT} & values.keys()):
        raise UsageError(
            "give either --examples or a dataset",
            hint="--examples 67349, say; or -d sst2 --data-dir DIR, to have them counted",
        )
    if "fingerprint" in values and "examples" not in values:
        raise UsageError(
            "--fingerprint has no effect with a dataset, which knows its own", hint="leave it out"
        )
    if afford is None:
        return settle_privacy(given)
    if "afford_epochs" in values and "afford_batch_size" in values:
        raise UsageError("--afford-epochs and --afford-batch-size exclude each other", hint="ask for one")
    if given.strength.get(afford, 0) == 3:
        raise UsageError(
            f"{option_name(afford)} is what --afford-{afford.replace('_', '-')} looks for",
            hint="leave out one of the two",
        )
    for needed in ("target_epsilon", "noise_multiplier"):
        if needed not in values:
            raise UsageError(
                f"--afford-{afford.replace('_', '-')} needs {option_name(needed)}",
                hint="give the ε to keep to, and the σ to train with",
            )
    return given.without(afford)


def _data_options(given: Given) -> str:
    """What names the data in a ``dpft train`` of this plan, and its δ; a blank where only n is known."""
    from dpft.cli.request import option_name

    values = given.values
    words = [*values.get("datasets", ()), *values.get(options.DATASETS_ARGUMENT, ())]
    parts = ["-d", ",".join(words)] if words else []
    for name in ("data_dir", "data_file", "validation_file", "text_column", "label_column", "labels"):
        given_value = values.get(name, ())
        several = given_value if isinstance(given_value, (list, tuple)) else [given_value]
        if name == "labels" and several:
            several = [",".join(map(str, several))]
        for value in several:
            parts += [option_name(name), str(value)]
    if "target_delta" in values:
        parts += ["--target-delta", f"{values['target_delta']:g}"]
    text = shlex.join(parts)
    return text if "examples" not in values else f"-d DATASET {text}".strip()


def _counted(given: Given) -> tuple[int, Sequence[Entry]]:
    """How many training examples a dataset has, and what was charged for them.

    Raises:
        UsageError: several datasets.
        DpftError: it cannot be read, or its ledger cannot be trusted.
    """
    from dpft.cli import render
    from dpft.cli.request import data_specs
    from dpft.data.own_files import task_of
    from dpft.data.sources import read_rows
    from dpft.data.task import TRAIN
    from dpft.runs.ledger import Ledger
    from dpft.runs.secret import keyed_fingerprint
    from dpft.runs.store import Store

    specs = data_specs(given)
    if len(specs) > 1:
        raise UsageError(f"{len(specs)} datasets are given", hint="plan for one at a time")
    folder = specs[0].data_dir
    rows = read_rows(task_of(specs[0]), None if folder is None else Path(folder))
    home = Store().home
    ledger = Ledger(home, warn=render.warning)
    if not ledger.fingerprints():
        return len(rows.splits[TRAIN]), ()  # and no key need be made to say so
    fingerprint = keyed_fingerprint(rows.content_digest, home=home)
    return len(rows.splits[TRAIN]), ledger.entries(fingerprint)


def _named(fingerprint: str | None) -> Sequence[Entry] | None:
    """What was charged for a dataset; None where none is meant.

    Raises:
        UsageError: several datasets have this name.
        DpftError: there is none, or its ledger cannot be trusted.
    """
    from dpft.cli import render
    from dpft.cli.budget import chosen_ledgers
    from dpft.runs.ledger import Ledger
    from dpft.runs.store import Store

    if fingerprint is None:
        return None
    ledger = Ledger(Store().home, warn=render.warning)
    found = chosen_ledgers({name: ledger.entries(name) for name in ledger.fingerprints()}, fingerprint)
    if len(found) > 1:
        several = ", ".join(entries[0].fingerprint[:16] for entries in found)
        raise UsageError(
            f"{fingerprint!r} names several datasets: {several}", hint="give the beginning of one fingerprint"
        )
    return found[0]


def _asked(given: Given) -> tuple[OptimisationSpec, PrivacySpec, float | None]:
    """The specs of a run, as far as they decide what it costs; and the target, where σ is given beside it.

    Raises:
        UsageError: a value out of range.
    """
    from dpft.cli.request import by_option_name
    from dpft.spec import OptimisationSpec, PrivacySpec

    def chosen(*names: str) -> dict[str, Any]:
        return {name: given.values[name] for name in names if name in given.values}

    with by_option_name():
        optimisation = OptimisationSpec(learning_rate=1.0, **chosen("epochs", "batch_size"))
        with_target = PrivacySpec(**chosen("target_epsilon", "target_delta"))
        if "noise_multiplier" not in given.values:
            return optimisation, with_target, None
        with_noise = PrivacySpec(target_epsilon=None, **chosen("noise_multiplier", "target_delta"))
    return optimisation, with_noise, with_target.target_epsilon


def _afford(
    examples: int,
    entries: Sequence[Entry] | None,
    optimisation: OptimisationSpec,
    privacy: PrivacySpec,
    target_epsilon: float | None,
    afford: str,
) -> tuple[Affordable, OptimisationSpec]:
    """The most that the target allows, and the optimisation with it.

    Raises:
        UsageError: a value out of range.
        PrivacyError: no target can hold on this data.
    """
    from dpft.accounting.afford import Target
    from dpft.privacy.schedule import schedule_for
    from dpft.training.composition import events_of, smallest_delta, unprotected_runs
    from dpft.training.prospect import affordable_batch, affordable_epochs

    schedule = schedule_for(examples, optimisation.model_copy(update={"batch_size": 1}), privacy)
    unprotected = unprotected_runs(entries or ())
    if unprotected:
        raise PrivacyError(
            f"no target can hold: {len(unprotected)} on this data went without protection",
            hint="see 'dpft budget'; with --examples and no --fingerprint a run is planned by itself",
        )
    delta = smallest_delta(entries or (), schedule.delta)
    assert delta is not None
    assert target_epsilon is not None
    assert privacy.noise_multiplier is not None
    target = Target(target_epsilon, delta, tuple(events_of(entries or ())))
    if afford == "epochs":
        batch = schedule_for(examples, optimisation, privacy).expected_batch_size
        found = affordable_epochs(examples, batch, privacy.noise_multiplier, target)
        changed = {"epochs": found.epochs, "batch_size": batch}
    else:
        found = affordable_batch(examples, optimisation.epochs, privacy.noise_multiplier, target)
        changed = {"batch_size": found.batch_size}
    return found, optimisation.model_copy(update=changed)


def _document(
    prospect: Prospect | None,
    effect: LedgerEffect | None,
    curves: Frontier | None,
    affordable: Affordable | None,
) -> dict[str, Any]:
    parts = {
        "plan": None if prospect is None else _plan_document(prospect, effect),
        "frontier": None if curves is None else _frontier_document(curves),
        "affordable": None if affordable is None else asdict(affordable),
    }
    return {name: value for name, value in parts.items() if value is not None}


def _plan_document(prospect: Prospect, effect: LedgerEffect | None) -> dict[str, Any]:
    schedule, found = prospect.schedule, prospect.guarantee
    known = {
        "status": "planned",
        "private": True,
        "examples": schedule.examples,
        "batch_size": schedule.expected_batch_size,
        "epochs": prospect.epochs,
        "target_epsilon": prospect.target_epsilon,
        "epsilon": found.epsilon,
        "delta": found.delta,
        "delta_rule": schedule.delta_rule,
        "epsilon_replace_one": found.epsilon_replace_one,
        "epsilon_rdp": found.epsilon_rdp,
        "noise_multiplier": prospect.noise_multiplier,
        "sample_rate": schedule.sample_rate,
        "steps": schedule.steps,
        "ledger": None if effect is None else _stated(asdict(effect)),
    }
    return _stated(known)


def _frontier_document(curves: Frontier) -> dict[str, Any]:
    """ε against σ at the top; against batch size and epochs below."""
    return {
        "noise_multiplier": list(curves.noise.values),
        "epsilon": list(curves.noise.epsilons),
        "by_batch_size": _curve_document("batch_size", curves.batch_size),
        "by_epochs": _curve_document("epochs", curves.epochs),
    }


def _curve_document(quantity: str, curve: Curve) -> dict[str, Any]:
    return {quantity: list(curve.values), "steps": list(curve.steps), "epsilon": list(curve.epsilons)}


def _stated(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
