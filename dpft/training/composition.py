"""What the charges of a ledger cost together. Imports no torch, so that ``dpft budget`` is quick."""

from __future__ import annotations

from collections.abc import Sequence

from dpft.accounting.accountant import Accountant
from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD
from dpft.errors import PrivacyError
from dpft.runs.ledger import Entry
from dpft.training.observer import LedgerEffect

__all__ = ["composed_epsilon", "effect_of", "events_of", "runs_of", "smallest_delta", "unprotected_runs"]


def events_of(entries: Sequence[Entry]) -> list[MechanismEvent]:
    """What was released, or may have been, as events; charges that no ε covers are not among them."""
    return [MechanismEvent.from_dict(spent) for entry in entries if (spent := entry.spent) is not None]


def composed_epsilon(
    entries: Sequence[Entry],
    delta: float,
    *more: MechanismEvent,
    accountant: Accountant = PLD,
) -> float:
    """ε of all charges together: one adversary who sees every release.

    It is the ε of the one list of all events (adaptive composition of privacy loss distributions, Koskela et
    al. 2020, arXiv 1906.03049). The sum of the runs' ε's would be mostly far more, and would need their δ's
    added up as well. It speaks of those runs alone that an ε covers; see :func:`unprotected_runs`.

    Args:
        entries: charges on one dataset; open ones count with all their planned steps.
        delta: δ of the result.
        more: events not charged yet.
        accountant: by whom it is computed.

    Raises:
        PrivacyError: no finite ε can be stated.
    """
    return accountant.epsilon([*events_of(entries), *more], delta)


def smallest_delta(entries: Sequence[Entry], *more: float | None) -> float | None:
    """The smallest δ that any run asked for: the one that is good enough for all. None where none did."""
    deltas = [delta for delta in (*(entry.delta for entry in entries), *more) if delta is not None]
    return min(deltas, default=None)


def runs_of(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The ids of the runs that were charged, in the order of their first charge."""
    return tuple(dict.fromkeys(entry.run_id for entry in entries))


def unprotected_runs(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The ids of those whose releases no ε covers."""
    return runs_of([entry for entry in entries if not entry.protected])


def effect_of(entries: Sequence[Entry], delta: float | None, event: MechanismEvent | None) -> LedgerEffect:
    """What a run would add to what was spent before.

    Args:
        entries: charges on its data so far.
        delta: the run's; None for one without privacy.
        event: its planned steps; None for a run that no ε covers.
    """
    delta = smallest_delta(entries, delta)
    return LedgerEffect(
        runs=len(runs_of(entries)),
        unprotected_runs=len(unprotected_runs(entries)),
        delta=delta,
        before=None if delta is None else _finite(entries, delta),
        after=None if delta is None or event is None else _finite(entries, delta, event),
    )


def _finite(entries: Sequence[Entry], delta: float, *more: MechanismEvent) -> float | None:
    """Composed ε; None where none can be stated."""
    try:
        return composed_epsilon(entries, delta, *more)
    except PrivacyError:
        return None
