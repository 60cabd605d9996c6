"""The story of a run, top to bottom."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpft.accounting.pld import PldAccountant
from dpft.engines import ordinary
from dpft.engines.base import Engine, Session
from dpft.errors import DpftError, PrivacyError
from dpft.privacy.plan import OrdinaryPlan, PrivatePlan, make_plan
from dpft.runs.active import ActiveRun, FinalStatus
from dpft.runs.files import publish_dir, write_atomic
from dpft.runs.manifest import safetensors_header
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import RunSpec
from dpft.tables import CLIPPERS, ENGINES
from dpft.training.assemble import Assembled, assemble
from dpft.training.card import card
from dpft.training.declare import declare
from dpft.training.evaluation import Evaluation, evaluate, resting
from dpft.training.facts import facts_of
from dpft.training.loop import Fit, StepReport, fit
from dpft.training.observer import Observer, Progress, RunFacts
from dpft.training.preflight import check_engine, check_reachable, synthetic_batch
from dpft.training.signals import uninterrupted
from dpft.tuning.files import adapter_sha256, stamp

__all__ = ["plan_run", "train"]

_EPSILON_REFRESH = 1 / 20  # of the steps: how often ε so far is computed anew
_QUICK = PldAccountant(interval=1e-2)  # never too low either, and a hundred times faster than what is claimed


def train(spec: RunSpec, observer: Observer | None = None, store: Store | None = None) -> RunRecord:
    """Fine-tune once, and leave a run directory that states what it cost.

    Args:
        spec: what to do, complete.
        observer: hears how it goes.
        store: where the run is kept; None for the user's.

    Returns:
        The finished record: ``completed``, or ``interrupted`` if the user stopped it (what was trained until
        then is saved, with the ε of the steps really taken).

    Raises:
        DpftError: the run could not start, or failed; a run that had started is recorded as failed.
    """
    observer = observer or Observer()
    store = store or Store()
    if spec.hardware.num_threads is not None:
        torch.set_num_threads(spec.hardware.num_threads)
    assembled = assemble(spec, observer)
    plan = _plan(spec, assembled, observer)
    _preflight(spec, assembled)
    with store.create(spec) as active:
        return _Run(spec, assembled, plan, active, observer).go()


def plan_run(spec: RunSpec, observer: Observer | None = None) -> RunFacts:
    """What :func:`train` would do: σ, q, steps and ε, without training or recording anything.

    Raises:
        DpftError: what would stop the run before its first step.
    """
    observer = observer or Observer()
    assembled = assemble(spec, observer)
    plan = _plan(spec, assembled, observer)
    _preflight(spec, assembled)
    return facts_of(spec, assembled, plan, run_id="", name=spec.name or "")


class _Run:
    """One run while it is made."""

    def __init__(
        self,
        spec: RunSpec,
        assembled: Assembled,
        plan: PrivatePlan | OrdinaryPlan,
        active: ActiveRun,
        observer: Observer,
    ) -> None:
        self.spec, self.assembled, self.plan, self.active, self.observer = (
            spec,
            assembled,
            plan,
            active,
            observer,
        )
        self.validation = next(name for name in assembled.data.splits if name != "train")
        self.evaluation: Evaluation | None = None
        self._epsilon: float | None = None
        self._planned_epsilon: float | None = None
        self._epsilon_at = 0
        self._evaluated_at = 0
        self._began = time.monotonic()

    def go(self) -> RunRecord:
        """Train, save, state."""
        facts = facts_of(
            self.spec,
            self.assembled,
            self.plan,
            run_id=self.active.record.run_id,
            name=self.active.record.name,
        )
        self.active.update(
            trainable_parameters=facts.trainable_parameters,
            steps_planned=facts.steps,
            noise_multiplier=facts.noise_multiplier,
            sample_rate=facts.sample_rate,
            delta=facts.delta,
        )
        self._planned_epsilon = facts.planned_epsilon
        before = {name: p.detach().clone() for name, p in self.assembled.parameters.items()}
        try:
            status: FinalStatus = "completed"
            try:
                self.observer.started(facts)
                self._fit()
            except KeyboardInterrupt:
                status = "interrupted"
                self.observer.stopping()
                self._score_what_is_saved()
            with uninterrupted():
                if status == "completed":
                    _check_moved(before, self.assembled.parameters)
                return self._finish(status)
        except BaseException:
            # Whatever went wrong, these steps were taken: they must not look free.
            with uninterrupted(), contextlib.suppress(DpftError):
                self.active.update(steps=self.plan.steps_taken)
            raise

    def _score_what_is_saved(self) -> None:
        """Scores of an interrupted run are of the weights that are saved; a second Ctrl-C does without."""
        if self.plan.steps_taken in (0, self._evaluated_at):
            return
        self.evaluation = None
        with contextlib.suppress(KeyboardInterrupt):
            self.evaluation = self._evaluate()

    def _fit(self) -> None:
        train_split = self.assembled.data.splits["train"]
        with _session(self.spec, self.assembled, self.plan) as session:
            work = Fit(
                plan=self.plan,
                session=session,
                parameters=self.assembled.parameters,
                split=train_split,
                pad_token_id=self.assembled.pad_token_id,
                extra_tokens=self.spec.tuning.num_prepend_tokens or 0,
            )
            fit(work, self.spec.optimisation, self.spec.hardware, self._report)

    def _report(self, report: StepReport) -> None:
        self.active.append_local_only({"step": report.step, **report.private_details})
        last = report.step == self.plan.schedule.steps
        self._refresh_epsilon(report.step, force=last)
        metrics: Mapping[str, float] = {}
        if report.epoch_ended:
            self.evaluation = self._evaluate()
            self._evaluated_at = report.step
            metrics = self.evaluation.metrics
            line: dict[str, Any] = {"step": report.step, **{f"validation_{k}": v for k, v in metrics.items()}}
            if self._epsilon is not None:
                line["epsilon"] = self._epsilon
            self.active.append_metrics(line)
        self.observer.progressed(
            Progress(report.step, self.plan.schedule.steps, report.seconds, self._epsilon, metrics)
        )

    def _refresh_epsilon(self, step: int, *, force: bool) -> None:
        """Keep an ε that covers ``step`` steps: computed for a little ahead, so that it is never too low."""
        if not isinstance(self.plan, PrivatePlan) or self.plan.doubt() is not None:
            return
        if step <= self._epsilon_at and not force:
            return
        steps = self.plan.schedule.steps
        self._epsilon_at = min(steps, step + max(1, int(_EPSILON_REFRESH * steps)) - 1)
        so_far = _QUICK.epsilon([self.plan.event.with_steps(self._epsilon_at)], self.plan.schedule.delta)
        self._epsilon = min(so_far, self._planned_epsilon or so_far)

    def _evaluate(self) -> Evaluation:
        with resting(self.assembled.model):
            return evaluate(
                self.assembled.model,
                self.assembled.data.splits[self.validation],
                self.assembled.task,
                self.assembled.pad_token_id,
                self.spec.hardware,
                self.spec.tuning.num_prepend_tokens or 0,
            )

    def _finish(self, status: FinalStatus) -> RunRecord:
        """Adapter, then manifest: whatever has a manifest has everything the manifest speaks of."""
        staging = self.active.directory / ".adapter"
        try:
            return self._publish(status, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _publish(self, status: FinalStatus, staging: Path) -> RunRecord:
        for parameter in self.assembled.parameters.values():
            parameter.requires_grad_(True)  # an interruption may have left some as the engine had them
        trained = self.plan.steps_taken > 0
        digest = None
        if trained:
            staging.mkdir(mode=0o700)
            self.assembled.mode.save(self.assembled.model, staging)
            digest = adapter_sha256(staging)
        manifest = declare(
            run_id=self.active.record.run_id,
            spec=self.spec,
            assembled=self.assembled,
            parameters=self.assembled.parameters,
            plan=self.plan,
            validation_split=self.validation,
            tensors_sha256=digest,
        )
        if trained:
            stamp(staging, safetensors_header(manifest))
            write_atomic(staging / "README.md", card(self.spec, self.assembled, manifest))
            publish_dir(staging, self.active.adapter_dir)
        scores = self.evaluation
        if scores is not None and scores.collapsed:
            self.observer.warned("every answer is the same label: the model has learnt nothing")
        return self.active.finish(
            status,
            manifest=manifest.to_dict(),
            metrics=dict(scores.metrics) if scores else {},
            baselines={"majority": scores.majority} if scores else {},
            steps=self.plan.steps_taken,
            seconds=round(time.monotonic() - self._began, 3),
        )


def _plan(spec: RunSpec, assembled: Assembled, observer: Observer) -> PrivatePlan | OrdinaryPlan:
    if spec.privacy.enabled:
        observer.working("calibrating the noise")
    return make_plan(assembled.data.splits["train"].rows, spec.optimisation, spec.privacy)


def _preflight(spec: RunSpec, assembled: Assembled) -> None:
    """Compare engine and truth on synthetic text."""
    batch = synthetic_batch(
        assembled.model,
        token_types="token_type_ids" in assembled.tokenizer.model_input_names,
        labels=len(assembled.task.labels),
        pad_token_id=assembled.pad_token_id,
    )
    with resting(assembled.model):
        check_reachable(assembled.model, assembled.parameters, batch)
        if spec.privacy.enabled:
            engine: Engine = ENGINES.get(spec.privacy.engine)
            clipping = CLIPPERS.get(spec.privacy.clipping)
            check_engine(engine, assembled.model, assembled.parameters, batch, clipping)


def _session(
    spec: RunSpec, assembled: Assembled, plan: PrivatePlan | OrdinaryPlan
) -> AbstractContextManager[Session]:
    if not isinstance(plan, PrivatePlan):
        return ordinary.session(assembled.model, assembled.parameters, spec.hardware.precision)
    engine: Engine = ENGINES.get(spec.privacy.engine)
    return engine.session(assembled.model, assembled.parameters, plan.clipper, spec.hardware.precision)


def _check_moved(before: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Every trainable parameter moved, or the run is not what its manifest says.

    Raises:
        PrivacyError: naming those that did not.
    """
    still = [name for name, value in parameters.items() if torch.equal(before[name], value)]
    if still:
        raise PrivacyError(
            f"{len(still)} trainable parameters did not move, {still[0]} among them",
            hint="this mode does not train them on this architecture; choose another --finetune-mode",
        )
