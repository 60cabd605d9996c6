"""What a run keeps while it goes on, so that it can be continued: when, and with what."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dpft.data.prepare import PreparedSplit
from dpft.errors import PrivacyError
from dpft.privacy.plan import OrdinaryPlan, PrivatePlan
from dpft.runs.manifest_parts import Event
from dpft.runs.secret import keyed_fingerprint
from dpft.spec import RunSpec
from dpft.training.assemble import Assembled
from dpft.training.checkpoint import Checkpoints, CheckpointState, Origin
from dpft.training.declare import software_versions
from dpft.training.learner import Learner

__all__ = ["Cadence", "Keeper", "materials", "origin_of", "spec_digest"]

_MARKS = 20
_SELDOM_SECONDS = 60.0


@dataclass(frozen=True)
class Cadence:
    """When to keep a checkpoint.

    The way is divided by marks: every ``every`` steps, or about twenty of them where that is None. A
    checkpoint is due at each mark; without ``every`` only if the last one is a minute old, so that short runs
    write none.

    Attributes:
        steps: planned.
        every: asked for; None for the default, 0 for none but when the run is stopped.
    """

    steps: int
    every: int | None

    def mark_after(self, step: int) -> int:
        """The first mark beyond ``step``; the last is the last step."""
        return min(self.steps, (step // self._interval + 1) * self._interval)

    def due(self, step: int, seconds: float) -> bool:
        """Whether to keep one after ``step``, the last being ``seconds`` old."""
        at_mark = step == self.steps or step % self._interval == 0
        return at_mark and (bool(self.every) if self.every is not None else seconds >= _SELDOM_SECONDS)

    @property
    def _interval(self) -> int:
        return self.every or max(1, math.ceil(self.steps / _MARKS))


class Keeper:
    """Keeps checkpoints of one run, and asks the ledger before each stretch of steps.

    Args:
        checkpoints: where to.
        origin: what the run is made of.
        cadence: when.
        plan: counts releases.
        learner: applies them.
        parameters: what trains.
        allow: asked, before any of them is taken, for steps up to the one it is given (the ledger's mark).
        seconds: that the run took before this process.
        dropout: whether PyTorch's own generator plays a part, which it may without privacy only.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        origin: Origin,
        cadence: Cadence,
        plan: PrivatePlan | OrdinaryPlan,
        learner: Learner,
        parameters: Mapping[str, nn.Parameter],
        *,
        allow: Callable[[int], None] = lambda upto: None,
        seconds: float = 0.0,
        dropout: bool = False,
    ) -> None:
        self._checkpoints, self._origin, self._cadence = checkpoints, origin, cadence
        self._plan, self._learner, self._parameters, self._allow = plan, learner, parameters, allow
        self._seconds, self._dropout = seconds, dropout
        self._saved = plan.steps_taken
        self._mark = plan.steps_taken
        self._began = self._saved_at = time.monotonic()
        self._random: torch.Tensor | None = None
        self._note_random()

    @property
    def seconds(self) -> float:
        """That the run has taken, in all its processes."""
        return self._seconds + time.monotonic() - self._began

    def begin(self) -> None:
        """Before the first step.

        Raises:
            PrivacyError: weights and accountant disagree on how many steps were taken; or as ``allow``.
        """
        self._check()
        self._advance()

    def after_step(self) -> None:
        """After every step: keep a checkpoint if one is due, and have the next stretch allowed.

        Raises:
            StoreError: the disk is full; no further step may be taken.
        """
        self._note_random()
        step = self._learner.applied
        if self._cadence.due(step, time.monotonic() - self._saved_at):
            self._save()
        self._advance()

    def at_rest(self) -> bool:
        """Whether the weights are those after the last release: not so if its application was torn."""
        return self._learner.applied == self._plan.steps_taken

    def stop(self) -> None:
        """When the run is interrupted: keep where it is, unless it is kept already.

        Raises:
            StoreError: the disk is full.
        """
        if self.at_rest() and self._saved < self._learner.applied:
            self._save()

    def _save(self) -> None:
        self._check()
        state = CheckpointState(
            step=self._learner.applied,
            origin=self._origin,
            learner=self._learner.values(),
            seconds=round(self.seconds, 3),
            software=software_versions(),
        )
        self._checkpoints.write(state, self._parameters, self._learner.tensors(), self._random)
        self._saved, self._saved_at = state.step, time.monotonic()

    def _advance(self) -> None:
        if self._learner.applied == self._mark < self._cadence.steps:
            mark = self._cadence.mark_after(self._mark)
            self._allow(mark)
            self._mark = mark

    def _note_random(self) -> None:
        """As it is between two steps: within one, an interruption would find it elsewhere."""
        if self._dropout:
            self._random = torch.get_rng_state()

    def _check(self) -> None:
        if not self.at_rest():
            raise PrivacyError(
                f"the weights have {self._learner.applied} steps in them, "
                f"the accountant has {self._plan.steps_taken}",
                hint="nothing can be claimed of them; report it",
            )


def materials(spec: RunSpec, assembled: Assembled, home: Path) -> dict[str, str]:
    """Digests of what a run is made of, by their names in :class:`dpft.training.checkpoint.Origin`.

    Those of private rows are under the key of the store ``home``.
    """
    return {
        "spec": spec_digest(spec),
        "dataset": keyed_fingerprint(assembled.data.content_digest, home=home),
        "examples": keyed_fingerprint(_examples_digest(assembled.data.splits["train"]), home=home),
        "base_model": assembled.base.sha256,
    }


def origin_of(
    spec: RunSpec, assembled: Assembled, plan: PrivatePlan | OrdinaryPlan, run_id: str, home: Path
) -> Origin:
    """What the run is made of, so that another process can tell whether it has the same."""
    return Origin(
        run_id=run_id,
        steps_planned=plan.schedule.steps,
        event=Event(**plan.planned_event.to_dict()) if isinstance(plan, PrivatePlan) else None,
        **materials(spec, assembled, home),
    )


def spec_digest(spec: RunSpec) -> str:
    """Digest of all that decides the result: not of speed, and not of labels.

    Defaults are left out, so that a field that a later version adds changes nothing.
    """
    elsewhere = {"name", "tags", "note", "hardware", "schema_version"}
    document = spec.model_dump(mode="json", exclude=elsewhere, exclude_defaults=True)
    document["precision"] = spec.hardware.precision
    document["privacy"].pop("budget_cap", None)  # it can stop a run, and decides nothing else
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _examples_digest(split: PreparedSplit) -> bytes:
    """Digest of the tokenised examples in their order; private, to be keyed."""
    digest = hashlib.sha256()
    for array in (split.input_ids, split.offsets, split.labels, split.token_type_ids):
        if array is not None:
            digest.update(f"{array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.digest()
