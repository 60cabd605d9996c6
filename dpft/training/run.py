"""The story of a run, top to bottom."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpft.errors import DpftError, PrivacyError, RoundingError, StoreError
from dpft.privacy.plan import OrdinaryPlan, PrivatePlan, make_plan
from dpft.privacy.team import Team
from dpft.runs.active import ActiveRun, FinalStatus
from dpft.runs.files import publish_dir, write_atomic
from dpft.runs.manifest import safetensors_header
from dpft.runs.record import RunRecord
from dpft.runs.seal import seal
from dpft.runs.store import Store
from dpft.spec import RunSpec
from dpft.training.assemble import Assembled, assemble, open_session
from dpft.training.card import card
from dpft.training.checkpoint import Checkpoints
from dpft.training.checks import check_before_training, settle
from dpft.training.declare import declare
from dpft.training.estimate import foreseen
from dpft.training.evaluation import Evaluation, evaluate, resting
from dpft.training.facts import facts_of
from dpft.training.frozen import with_features
from dpft.training.keeper import Cadence, Keeper, origin_of
from dpft.training.loop import Fit, StepReport, epoch_ended, fit
from dpft.training.observer import Observer, Progress, RunFacts
from dpft.training.parallel import leading, require_alone
from dpft.training.precision import settled
from dpft.training.resume import Carried, Continued, carry, changed, check_materials
from dpft.training.signals import Deferred, uninterrupted
from dpft.training.so_far import EpsilonSoFar
from dpft.training.spending import Spending
from dpft.tuning.files import adapter_sha256, stamp

__all__ = ["plan_run", "resume", "train"]


def train(
    spec: RunSpec,
    observer: Observer | None = None,
    store: Store | None = None,
    *,
    team: Team | None = None,
) -> RunRecord:
    """Fine-tune once, and leave a run directory that states what it cost.

    Args:
        spec: what to do, complete.
        observer: hears how it goes.
        store: where the run is kept; None for the user's.
        team: the processes to share the work with, this one being rank 0 and the others following; None to
            do it alone.

    Returns:
        The finished record: ``completed``, or ``interrupted`` if the user stopped it (what was trained until
        then is saved, with the ε of the steps really taken).

    Raises:
        DpftError: the run could not start, or failed; a run that had started is recorded as failed.
    """
    if team is None:
        require_alone()
    observer = observer or Observer()
    store = store or Store()
    if spec.hardware.num_threads is not None:
        torch.set_num_threads(spec.hardware.num_threads)
    assembled = assemble(spec, observer)
    plan = _plan(spec, assembled, observer)
    spec, notes = settle(spec, assembled)
    for note in notes:
        observer.warned(note)
    spending = Spending(spec, assembled.data, plan, store, observer)
    spending.check()
    assembled = with_features(spec, assembled, plan.schedule, observer, alone=team is None)
    with store.create(spec) as active:
        return _Run(spec, assembled, plan, spending, active, observer, team=team).go()


def resume(
    reference: str,
    observer: Observer | None = None,
    store: Store | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Go on with a run that ended before its last step, from its newest checkpoint.

    The result is that of the run as if it had never stopped, but for the randomness of the steps to come:
    this process draws a key of its own. So nothing that was released is drawn again, and ε is the same.

    Args:
        reference: the run, as the store resolves it.
        observer: hears how it goes.
        store: where the run is; None for the user's.
        changes: fields of the spec's hardware part, or its budget cap, that may be others than before.

    Returns:
        The record, as :func:`train` does.

    Raises:
        NotFoundError: there is no such run.
        UsageError: it is completed, or ``changes`` has something that decides the result.
        LockedError: a living process has it.
        PrivacyError: spec, data or base model are not what the checkpoint was made with.
        StoreError: the checkpoint is damaged.
        DpftError: as :func:`train`.
    """
    require_alone()
    observer = observer or Observer()
    store = store or Store()
    with store.take(store.resolve(reference)) as taken:
        spec = settled(changed(store.spec(taken.record), changes or {}))
        if spec.hardware.num_threads is not None:
            torch.set_num_threads(spec.hardware.num_threads)
        found = Checkpoints(taken.checkpoints).newest()
        if found is None:
            observer.warned(f"run {taken.record.name} has no checkpoint: it begins again at its first step")
        assembled = assemble(spec, observer)
        continued = check_materials(found, taken.record, spec, assembled, store.home)
        plan = _plan(spec, assembled, observer, continued)
        try:
            notes = check_before_training(spec, assembled)
        except RoundingError as error:
            hint = "go on with it on a machine and with versions like those that began it"
            raise RoundingError(error.message, hint=hint) from error
        for note in notes:
            observer.warned(note)
        carried = carry(found, spec, assembled, plan, observer)
        spending = Spending(spec, assembled.data, plan, store, observer, resumed=taken.record.run_id)
        spending.check()
        assembled = with_features(spec, assembled, plan.schedule, observer)
        with taken.begin(plan.steps_taken) as active:
            return _Run(spec, assembled, plan, spending, active, observer, carried).go()


def plan_run(spec: RunSpec, observer: Observer | None = None, *, probe: bool = False) -> RunFacts:
    """What :func:`train` would do: σ, q, steps, ε, ledger and, by ``probe``, time; records nothing.

    Raises:
        DpftError: what would stop the run before its first step.
    """
    observer = observer or Observer()
    assembled = assemble(spec, observer)
    plan = _plan(spec, assembled, observer)
    spec, notes = settle(spec, assembled)
    for note in notes:
        observer.warned(note)
    return foreseen(spec, assembled, plan, observer, probe=probe)


class _Run:
    """One run while it is made."""

    def __init__(
        self,
        spec: RunSpec,
        assembled: Assembled,
        plan: PrivatePlan | OrdinaryPlan,
        spending: Spending,
        active: ActiveRun,
        observer: Observer,
        carried: Carried | None = None,
        team: Team | None = None,
    ) -> None:
        self.spec, self.assembled, self.plan = spec, assembled, plan
        self.spending, self.active, self.observer, self.team = spending, active, observer, team
        carried = carried or carry(None, spec, assembled, plan, observer)
        self.learner, self.initial = carried.learner, carried.initial
        self.keeper = Keeper(
            Checkpoints(active.checkpoints),
            origin_of(spec, assembled, plan, active.record.run_id, spending.home),
            Cadence(plan.schedule.steps, spec.hardware.checkpoint_every),
            plan,
            self.learner,
            assembled.parameters,
            allow=self.spending.advance,
            seconds=carried.seconds,
            dropout=not spec.privacy.enabled and spec.tuning.lora_dropout > 0,
        )
        self.validation = next(name for name in assembled.data.splits if name != "train")
        self.evaluation: Evaluation | None = None
        self.epsilon = EpsilonSoFar(plan)
        self._evaluated_at = 0

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
        self.epsilon.planned = facts.planned_epsilon
        try:
            status: FinalStatus = "completed"
            try:
                self.observer.started(facts)
                with uninterrupted():  # a charge that is written is a charge that is known here
                    self.spending.charge(facts.run_id, facts.name)
                self._fit()
            except KeyboardInterrupt:
                status = "interrupted"
                self.observer.stopping()
                self._keep_where_it_is()
                self._score_what_is_saved()
            with uninterrupted():
                if status == "completed":
                    _check_moved(self.initial, self.assembled.parameters)
                return self._finish(status)
        except BaseException as error:
            # Whatever went wrong, these steps were taken: they must not look free.
            with uninterrupted():
                with contextlib.suppress(DpftError):
                    self.spending.settle()
                    self.active.update(steps=self.plan.steps_taken)
                self.active.__exit__(type(error), error, error.__traceback__)  # before a second signal
            raise

    def _keep_where_it_is(self) -> None:
        """A checkpoint of an interrupted run; what was trained is saved even where there is no room for it.

        The adapter that is saved next and what a resumed run saves later have these steps in common: together
        they reveal no more than the steps of the longer one, since both are computed from the same releases.
        """
        try:
            with uninterrupted():
                self.keeper.stop()
        except StoreError as error:
            self.observer.warned(error.message)

    def _score_what_is_saved(self) -> None:
        """Scores of an interrupted run are of the weights that are saved; a second Ctrl-C does without."""
        if self.plan.steps_taken in (0, self._evaluated_at):
            return
        self.evaluation = None
        with contextlib.suppress(KeyboardInterrupt):
            self.evaluation = self._evaluate()

    def _fit(self) -> None:
        train_split = self.assembled.data.splits["train"]
        with (
            open_session(self.spec, self.assembled, self.plan.clipper) as session,
            leading(self.plan, self.team, self.spec, self.assembled) as (plan, share),
        ):
            work = Fit(
                plan=plan,
                session=session,
                parameters=self.assembled.parameters,
                split=train_split,
                pad_token_id=self.assembled.pad_token_id,
                extra_tokens=self.spec.tuning.num_prepend_tokens or 0,
                max_length=self.spec.data.max_length,
                features=self.assembled.features,
                share=share,
            )
            with Deferred():
                self.keeper.begin()
            if self.plan.steps_taken and epoch_ended(self.plan, self.plan.steps_taken):
                self._score(self.plan.steps_taken)  # what the process before may not have come to
            fit(work, self.spec.optimisation, self.spec.hardware, self._report, self.learner, self._keep)

    def _keep(self, report: StepReport) -> None:
        self.active.append_local_only({"step": report.step, **report.private_details})
        self.keeper.after_step()

    def _report(self, report: StepReport) -> None:
        metrics = self._score(report.step) if report.epoch_ended else {}
        epsilon = self.epsilon.after(report.step)
        self.observer.progressed(
            Progress(report.step, self.plan.schedule.steps, report.seconds, epsilon, metrics)
        )

    def _score(self, step: int) -> Mapping[str, float]:
        """Scores after ``step`` steps, and their line in ``metrics.jsonl``."""
        self.evaluation = self._evaluate()
        self._evaluated_at = step
        metrics = self.evaluation.metrics
        line: dict[str, Any] = {"step": step, **{f"validation_{k}": v for k, v in metrics.items()}}
        if self.spec.privacy.public_n is None:  # else a split carved off the training rows would tell n
            line["validation_rows"] = self.evaluation.rows
        epsilon = self.epsilon.after(step)
        if epsilon is not None:
            line["epsilon"] = epsilon
        self.active.append_metrics(line)
        return metrics

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
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed here
        try:
            record = self._publish(status, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        if status == "completed":
            Checkpoints(self.active.checkpoints).remove()
        return record

    def _publish(self, status: FinalStatus, staging: Path) -> RunRecord:
        for parameter in self.assembled.parameters.values():
            parameter.requires_grad_(True)  # an interruption may have left some as the engine had them
        self.spending.settle()
        trained, digest = self.plan.steps_taken > 0, None
        if not trained and self.active.stands:  # begun again, and stopped before its first step
            return self.active.finish(status, manifest=None)
        if trained:
            staging.mkdir(mode=0o700)
            self.assembled.mode.save(self.assembled.model, staging)
            digest = adapter_sha256(staging)
        manifest = declare(
            run_id=self.active.record.run_id,
            home=self.spending.home,
            spec=self.spec,
            assembled=self.assembled,
            parameters=self.assembled.parameters,
            plan=self.plan,
            validation_split=self.validation,
            tuning=self.spending.tuning(self.active.record.superseded_steps),
            tensors_sha256=digest,
        )
        if trained:
            stamp(staging, safetensors_header(manifest))
            write_atomic(staging / "README.md", card(self.spec, self.assembled, manifest))
            seal(staging, manifest.to_json())
            self.active.retire_statement()
            publish_dir(staging, self.active.adapter_dir, overwrite=True)
        scores = self.evaluation
        if scores is not None and scores.collapsed:
            self.observer.warned("every answer is the same label: the model has learnt nothing")
        return self.active.finish(
            status,
            manifest=manifest.to_dict(),
            metrics=dict(scores.metrics) if scores else {},
            baselines={"majority": scores.majority} if scores else {},
            steps=self.plan.steps_taken,
            seconds=round(self.keeper.seconds, 3),
        )


def _plan(
    spec: RunSpec, assembled: Assembled, observer: Observer, origin: Continued | None = None
) -> PrivatePlan | OrdinaryPlan:
    examples = assembled.data.splits["train"].rows
    if origin is not None:
        return make_plan(examples, spec.optimisation, origin.privacy, steps_taken=origin.step)
    if spec.privacy.enabled:
        observer.working("calibrating the noise")
    plan = make_plan(examples, spec.optimisation, spec.privacy)
    if plan.schedule.declared and examples > plan.schedule.examples:
        # No refusal: that would tell how many there are. This line stays with whoever trains.
        observer.warned("there are more examples than --public-n: batches are larger than expected, δ is lax")
    return plan


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
