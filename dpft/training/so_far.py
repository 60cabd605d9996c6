"""ε so far, for the eyes: quick to compute, and never below the truth."""

from __future__ import annotations

from dpft.accounting.pld import PldAccountant
from dpft.privacy.plan import OrdinaryPlan, PrivatePlan

__all__ = ["EpsilonSoFar"]

_REFRESH = 1 / 20  # of the steps: how often it is computed anew
_QUICK = PldAccountant(interval=1e-2)  # never too low either, and a hundred times faster than what is claimed


class EpsilonSoFar:
    """Keeps an ε that covers the steps taken: computed for a little ahead, so that it is never too low.

    Args:
        plan: what runs; None is said of a plan that nothing can be claimed of.

    Attributes:
        planned: ε of all planned steps, where it is known; it is not exceeded.
    """

    def __init__(self, plan: PrivatePlan | OrdinaryPlan) -> None:
        self.planned: float | None = None
        self._plan = plan
        self._epsilon: float | None = None
        self._covers = 0

    def after(self, step: int) -> float | None:
        """ε of at least ``step`` steps; exactly that of all, after the last."""
        if not isinstance(self._plan, PrivatePlan) or self._plan.doubt() is not None:
            return None
        schedule = self._plan.schedule
        if step > self._covers or step == schedule.steps:
            self._covers = min(schedule.steps, step + max(1, int(_REFRESH * schedule.steps)) - 1)
            so_far = _QUICK.epsilon([self._plan.event.with_steps(self._covers)], schedule.delta)
            self._epsilon = min(so_far, self.planned or so_far)
        return self._epsilon
