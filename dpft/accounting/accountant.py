"""What an accountant is, and what all of them check before and after they compute."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from dpft.accounting.event import MechanismEvent
from dpft.errors import PrivacyError, UsageError

__all__ = ["Accountant", "check_delta", "check_epsilon", "compose"]

# Where double precision serves. Rarer sampling and stronger noise are accounted as these, which can only
# raise ε; weaker noise has an ε in the hundred thousands, and is refused.
_LEAST_SAMPLE_RATE: Final = 1e-9
_MOST_NOISE: Final = 1e6
_LEAST_NOISE: Final = 1e-3


class Accountant(Protocol):
    """Turns events into ε. Implementations are frozen, and listed in ``tables.ACCOUNTANTS``."""

    @property
    def name(self) -> str:
        """The accountant's name in the table."""
        ...

    def epsilon(self, events: Sequence[MechanismEvent], delta: float) -> float:
        """Return an upper bound of the ε of all events together.

        Args:
            events: all of one adjacency; their order is of no consequence.
            delta: δ, in (0, 1).

        Returns:
            ε: finite, at least 0, and exactly 0 if no step was taken.

        Raises:
            UsageError: δ out of range.
            PrivacyError: no finite ε can be stated, or the accountant cannot treat these events.
        """
        ...


def check_delta(delta: float, *, name: str = "delta") -> None:
    """Refuse a δ outside (0, 1), under the argument's ``name``.

    Raises:
        UsageError: δ is 0, 1, beyond them, or NaN.
    """
    if not 0 < delta < 1:
        raise UsageError(
            f"{name} is {delta!r}, not in (0, 1)",
            hint="δ is a small probability of failure: 1/(2n) for n examples is customary",
        )


def compose(events: Sequence[MechanismEvent]) -> tuple[MechanismEvent, ...]:
    """Return the same release in fewest events: equal mechanisms merged, those without steps dropped.

    Returns:
        Events sorted by sample rate and noise multiplier, so that ε depends on what was done, and not on how
        it is written down.

    Raises:
        PrivacyError: the events mix adjacencies, so that no one statement covers them; or a noise multiplier
            is so small (below 0.001) that no ε is worth stating.
    """
    adjacencies = sorted({event.adjacency for event in events})
    if len(adjacencies) > 1:
        raise PrivacyError(
            f"cannot compose events of different adjacencies: {', '.join(adjacencies)}",
            hint="state all of them under one adjacency",
        )
    steps: Counter[MechanismEvent] = Counter()
    for event in events:
        steps[_within_precision(event.with_steps(0))] += event.steps
    merged = (event.with_steps(total) for event, total in steps.items() if total > 0)
    return tuple(sorted(merged, key=lambda event: (event.sample_rate, event.noise_multiplier)))


def _within_precision(event: MechanismEvent) -> MechanismEvent:
    if not event.noise_multiplier >= _LEAST_NOISE:
        raise PrivacyError(
            f"the noise is too weak for a guarantee: noise_multiplier is {event.noise_multiplier!r},"
            f" below {_LEAST_NOISE}",
            hint="use a larger noise multiplier; 0.5 to 10 is customary",
        )
    return replace(
        event,
        sample_rate=max(event.sample_rate, _LEAST_SAMPLE_RATE),
        noise_multiplier=min(event.noise_multiplier, _MOST_NOISE),
    )


def check_epsilon(epsilon: float, *, accountant: str) -> float:
    """Return ``epsilon`` as a plain float if it can be claimed; fail closed if not.

    Raises:
        PrivacyError: it is negative, infinite or NaN.
    """
    if not 0 <= epsilon < math.inf:
        raise PrivacyError(
            f"the {accountant} accountant found ε = {epsilon!r}, which nobody can claim",
            hint="use a larger noise multiplier, fewer steps, a smaller batch, or a larger δ",
        )
    return float(epsilon)
