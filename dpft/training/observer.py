"""What a run tells while it goes on. The command line draws it; tests and scripts may ignore it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Estimate", "LedgerEffect", "Observer", "Progress", "RunFacts"]


@dataclass(frozen=True)
class LedgerEffect:
    """What a run would add to what was spent on its data.

    Attributes:
        runs: charged so far.
        unprotected_runs: those of them that no ε covers.
        delta: δ of both ε's: the smallest that any of these runs or this one asked for; None where none did.
        before: composed ε of the runs so far; None where it is not known or not finite.
        after: with this run's planned steps; likewise None, and for a run that no ε covers.
    """

    runs: int
    unprotected_runs: int
    delta: float | None
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Estimate:
    """What a run is likely to take, from a few measured micro-batches.

    Attributes:
        seconds: from the first step to the last score, on this machine as it is now.
        peak_memory_bytes: the process's largest resident size; None where the system does not tell.
    """

    seconds: float
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class RunFacts:
    """What is known when training begins.

    Attributes:
        run_id: empty for a run that is only planned.
        name: likewise.
        dataset: its name.
        finetune_mode: its name.
        model: public id of the base model.
        private: whether training is differentially private.
        examples: n; or the declared public estimate of it.
        steps: planned.
        trainable_parameters: how many numbers train.
        all_parameters: how many the model has.
        expected_batch_size: B.
        sample_rate: q; None without privacy.
        noise_multiplier: σ; None without privacy.
        max_grad_norm: C; None without privacy.
        delta: δ; None without privacy.
        planned_epsilon: ε if every step is taken; None without privacy.
        learning_rate: peak.
        examples_declared: whether ``examples`` is an estimate.
        steps_taken: before, of a run that is resumed.
        ledger: what it would add; known of a run that is only planned.
        estimate: of time and memory; likewise, where it was asked for.
    """

    run_id: str
    name: str
    dataset: str
    finetune_mode: str
    model: str
    private: bool
    examples: int
    steps: int
    trainable_parameters: int
    all_parameters: int
    expected_batch_size: int
    learning_rate: float
    sample_rate: float | None = None
    noise_multiplier: float | None = None
    max_grad_norm: float | None = None
    delta: float | None = None
    planned_epsilon: float | None = None
    examples_declared: bool = False
    steps_taken: int = 0
    ledger: LedgerEffect | None = None
    estimate: Estimate | None = None


@dataclass(frozen=True)
class Progress:
    """How far training is. Nothing here is computed from private examples.

    Attributes:
        step: steps taken.
        steps: steps planned.
        seconds: since the first step began.
        epsilon: ε of the steps taken, refreshed now and then and never below the truth; None without privacy.
        metrics: validation scores, when they have just been computed.
    """

    step: int
    steps: int
    seconds: float
    epsilon: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Observer:
    """Hears of milestones; does nothing with them by default."""

    def working(self, what: str) -> None:
        """Something that takes a while begins ("loading prajjwal1/bert-tiny")."""

    def started(self, facts: RunFacts) -> None:
        """Training begins."""

    def progressed(self, progress: Progress) -> None:
        """A step was taken."""

    def warned(self, message: str) -> None:
        """Something the user should know, which does not stop the run."""

    def stopping(self) -> None:
        """The user interrupted; what was trained is being saved."""
