"""How far a target reaches: the most steps, or the largest batch, whose ε keeps to it.

Both searches look where to begin on a coarse grid (:func:`dpft.accounting.frontier.quick_pld`), and settle on
the fine one by which runs are accounted. What they return has been computed there, and keeps to the target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from dpft.accounting.accountant import Accountant, check_delta
from dpft.accounting.event import MechanismEvent
from dpft.accounting.frontier import epsilon_or_none, quick_pld
from dpft.accounting.pld import PLD
from dpft.errors import UsageError

__all__ = ["MOST_STEPS", "Target", "largest_batch", "last_that_holds", "most_steps"]

MOST_STEPS: Final = 10_000_000
"""Where :func:`most_steps` stops to look."""

_Holds = Callable[[int], bool]


@dataclass(frozen=True)
class Target:
    """What has to hold, after whatever was spent before.

    Args:
        epsilon: ε of everything together, finite and above 0.
        delta: δ, in (0, 1).
        spent: events that were released before, or may have been.
        accountant: whose ε it is.

    Raises:
        UsageError: a value out of range.
    """

    epsilon: float
    delta: float
    spent: tuple[MechanismEvent, ...] = ()
    accountant: Accountant = PLD

    def __post_init__(self) -> None:
        check_delta(self.delta, name="target_delta")
        if not 0 < self.epsilon < float("inf"):
            raise UsageError(
                f"target_epsilon is {self.epsilon!r}, not a finite number above 0",
                hint="1 to 8 is customary; smaller protects more",
            )

    def held_by(self, *more: MechanismEvent) -> bool:
        """Whether ε of what was spent and ``more`` together keeps to the target; no, where there is none."""
        found = epsilon_or_none(self.accountant, [*self.spent, *more], self.delta)
        return found is not None and found <= self.epsilon

    def epsilon_with(self, *more: MechanismEvent) -> float:
        """ε of what was spent and ``more`` together, as a run would state it.

        Raises:
            PrivacyError: none can be stated.
        """
        return self.accountant.epsilon([*self.spent, *more], self.delta)


def most_steps(step: MechanismEvent, target: Target, most: int = MOST_STEPS) -> int:
    """The most steps that keep to the target: one more would pass it.

    ε never falls with another step, so there is exactly one such number.

    Args:
        step: sample rate and noise multiplier; its number of steps is of no consequence.
        target: to keep to.
        most: to stop at.

    Returns:
        0 if not even one does.

    Raises:
        UsageError: a value out of range.
    """
    quick = _quickly(target, step.noise_multiplier)
    near = last_that_holds(lambda steps: quick.held_by(step.with_steps(steps)), 1, most)
    return last_that_holds(lambda steps: target.held_by(step.with_steps(steps)), near, most)


def largest_batch(
    examples: int, steps_of: Callable[[int], int], noise_multiplier: float, target: Target
) -> int:
    """The largest expected batch size that keeps to the target, for a given number of epochs.

    Larger batches are fewer steps, a whole number of them. As long as their number is the same, ε grows with
    the batch; where it drops by one, so does ε a little. So the search is for the fewest steps that their
    smallest batch can afford, and then for the largest batch of that many.

    Args:
        examples: n; no batch is larger.
        steps_of: steps of a batch size; never more for a larger one.
        noise_multiplier: σ.
        target: to keep to.

    Returns:
        0 if not even batches of one example do.

    Raises:
        UsageError: a value out of range.
    """

    def event(batch: int) -> MechanismEvent:
        return MechanismEvent(batch / examples, noise_multiplier, steps_of(batch))

    def first_alike(batch: int) -> int:
        """The smallest batch of as many steps."""
        wanted, low, high = steps_of(batch), 0, batch
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if steps_of(middle) == wanted else (middle, high)
        return high

    def first_holds(wanted: Target) -> _Holds:
        return lambda batch: wanted.held_by(event(first_alike(batch)))

    near = last_that_holds(first_holds(_quickly(target, noise_multiplier)), 1, examples)
    last = last_that_holds(first_holds(target), near, examples)
    if not last:
        return 0
    first = first_alike(last)
    return first + last_that_holds(
        lambda more: target.held_by(event(first + more)), last - first, last - first
    )


def last_that_holds(holds: _Holds, start: int, most: int) -> int:
    """The last number up to which something holds: it holds there, and (below ``most``) not at the next.

    Args:
        holds: asked of numbers from 1 to ``most``; once it fails it is taken to fail for all larger ones. It
            is never asked of 0, and taken to hold there.
        start: where to begin; the nearer, the fewer questions.
        most: where to end.

    >>> last_that_holds(lambda number: number * number < 50, 1, 1000), last_that_holds(bool, 1, 9)
    (7, 9)
    """
    if most < 1:
        return 0
    start = min(max(start, 1), most)
    low, high = (start, None) if holds(start) else (0, start)
    stride = 1
    while high is None and low < most:  # gallop upwards
        following = min(low + stride, most)
        low, high = (following, None) if holds(following) else (low, following)
        stride *= 2
    if low == 0 and high is not None:  # or down
        while high > 1:
            following = max(high - stride, 1)
            if holds(following):
                low = following
                break
            high, stride = following, 2 * stride
    while high is not None and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _quickly(target: Target, noise_multiplier: float) -> Target:
    """The same target on a coarse grid."""
    noises = (event.noise_multiplier for event in target.spent)
    return replace(target, accountant=quick_pld(noise_multiplier, *noises))
