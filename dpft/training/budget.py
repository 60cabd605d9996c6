"""What was spent on a dataset, over all its runs. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpft.accounting.rdp import RDP
from dpft.errors import PrivacyError
from dpft.runs.ledger import Entry
from dpft.runs.record import RunRecord
from dpft.training.composition import composed_epsilon, runs_of, smallest_delta, unprotected_runs

__all__ = ["Budget", "RunCost", "budget_of"]


@dataclass(frozen=True)
class RunCost:
    """One run's part.

    Attributes:
        run_id: the run's.
        entries: its charges: one, or several if it was resumed.
        epsilon: ε of it alone, at the budget's δ; None where none can be stated.
        state: ``settled``; or, of a run whose charge still stands for all its planned steps, what became of
            it: ``running``, ``crashed`` …, or ``gone``.
    """

    run_id: str
    entries: tuple[Entry, ...]
    epsilon: float | None
    state: str

    @property
    def name(self) -> str:
        """The run's."""
        return self.entries[-1].name

    @property
    def protected(self) -> bool:
        """Whether an ε covers all that it released."""
        return all(entry.protected for entry in self.entries)


@dataclass(frozen=True)
class Budget:
    """What was spent on one dataset.

    Attributes:
        fingerprint: of the dataset.
        names: what runs called it, the latest first.
        runs: all that were charged, oldest first.
        delta: δ of every ε here; None where no run has one.
        epsilon: composed ε of all runs but the unprotected; None where none can be stated.
        second_epsilon: the same by the rdp accountant.
        unprotected: runs that no ε covers.
        why_not: why there is no ε, where there should be one.
    """

    fingerprint: str
    names: tuple[str, ...]
    runs: tuple[RunCost, ...]
    delta: float | None
    epsilon: float | None
    second_epsilon: float | None
    unprotected: tuple[str, ...]
    why_not: str | None = None

    @property
    def largest(self) -> RunCost | None:
        """The run that cost most by itself."""
        known = [run for run in self.runs if run.epsilon]
        return max(known, key=lambda run: run.epsilon or 0.0, default=None)

    @property
    def still_charged(self) -> tuple[RunCost, ...]:
        """Runs that are charged for all their planned steps, since nobody said how many they took."""
        return tuple(run for run in self.runs if run.state != "settled")


def budget_of(entries: Sequence[Entry], delta: float | None, records: Mapping[str, RunRecord]) -> Budget:
    """Compose the charges of one dataset.

    Args:
        entries: all of them, oldest first; at least one.
        delta: δ to state ε at; None for the smallest that any run asked for.
        records: by run id, of the runs that are still in the store.
    """
    delta = delta if delta is not None else smallest_delta(entries)
    composed, second, why_not = None, None, None
    if delta is not None:
        try:
            composed = composed_epsilon(entries, delta)
        except PrivacyError as error:
            why_not = error.message
        with contextlib.suppress(PrivacyError):
            second = composed_epsilon(entries, delta, accountant=RDP)
    runs = []
    for run_id in runs_of(entries):
        own = tuple(entry for entry in entries if entry.run_id == run_id)
        record = records.get(run_id)
        state = "settled"
        if any(entry.settled is None for entry in own):
            state = "gone" if record is None else record.status
        runs.append(RunCost(run_id, own, _alone(own, delta, record), state))
    return Budget(
        fingerprint=entries[0].fingerprint,
        names=tuple(dict.fromkeys(entry.dataset for entry in reversed(entries))),
        runs=tuple(runs),
        delta=delta,
        epsilon=composed,
        second_epsilon=second,
        unprotected=unprotected_runs(entries),
        why_not=why_not,
    )


def _alone(entries: Sequence[Entry], delta: float | None, record: RunRecord | None) -> float | None:
    """ε of one run."""
    if delta is None or not all(entry.protected for entry in entries):
        return None
    if record is not None and record.epsilon is not None:
        stated = (record.delta, record.steps)
        if len(entries) == 1 and (delta, entries[0].settled) == stated:
            return record.epsilon  # as the run says itself: computing it anew takes a second
    try:
        return composed_epsilon(entries, delta)
    except PrivacyError:
        return None
