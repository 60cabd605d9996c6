"""ε as a curve: what more noise, fewer steps or smaller batches would buy. Quick, and never too low.

Every point is an upper bound by the pld accountant, on a grid as fine as its noise allows in a fraction of a
second (:func:`quick_pld`); a run itself is accounted on a finer one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from dpft.accounting.accountant import Accountant
from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD, PldAccountant
from dpft.errors import PrivacyError

__all__ = ["epsilon_or_none", "epsilons", "never_rising", "quick_pld"]

_CELLS: Final = 15_000
_COARSEST: Final = 1e-2


def quick_pld(*noise_multipliers: float) -> PldAccountant:
    """An accountant that takes a fraction of a second.

    One step's privacy loss reaches over some 1/(2σ²) + 10/σ nats, and building its distribution is what takes
    time: so the interval is that over 15,000 cells, but between 1e-4 (a run's own) and 1e-2. Strong noise,
    where ε is small, gets a fine grid; weak noise, where losses are large, a coarse one.

    Args:
        noise_multipliers: σ of every event that will be accounted together; at least one.
    """
    weakest = min(noise_multipliers)
    width = 0.5 / weakest**2 + 10 / weakest
    return PldAccountant(interval=min(max(PLD.interval, width / _CELLS), _COARSEST))


def epsilons(events: Sequence[MechanismEvent], delta: float) -> list[float | None]:
    """An upper bound of ε for each event by itself, quickly.

    Args:
        events: one point of a curve each.
        delta: δ of all of them.

    Returns:
        ε in the order of ``events``; None where no finite ε can be stated.

    Raises:
        UsageError: δ out of range.
    """
    return [epsilon_or_none(quick_pld(event.noise_multiplier), [event], delta) for event in events]


def epsilon_or_none(accountant: Accountant, events: Sequence[MechanismEvent], delta: float) -> float | None:
    """ε of all ``events`` together; None where no finite ε can be stated.

    Raises:
        UsageError: δ out of range.
    """
    try:
        return accountant.epsilon(events, delta)
    except PrivacyError:
        return None


def never_rising(bounds: Sequence[float | None]) -> list[float | None]:
    """Tighten upper bounds of values that are known not to rise, such as ε over growing noise.

    A bound at one point holds at every later one too, since what it bounds does not rise: so each becomes the
    least of those up to it. Wobbles, where neighbours have different grids, go; no bound falls too low.

    Args:
        bounds: in the order of the curve; None where there is none.

    >>> never_rising([None, 3.0, 3.1, 2.0])
    [None, 3.0, 3.0, 2.0]
    """
    tightened: list[float | None] = []
    least = math.inf
    for bound in bounds:
        if bound is not None:
            least = min(least, bound)
        tightened.append(None if bound is None else least)
    return tightened
