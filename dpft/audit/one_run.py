"""Privacy bounds from one run with many canaries, each included by its own fair coin.

Two theorems bound how often the coins can be guessed from the outcome of a private mechanism:

* Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846, theorem 5.2): for (ε, δ)-DP, of r guesses, v or more are
  right with probability at most P(W ≥ v) + 2mδ·maxᵢ P(v > W ≥ v - i)/i, where W ~ Bin(r, e^ε/(1 + e^ε)).
* Mahloujifar, Melis & Chaudhuri 2024 (arXiv 2410.22235, algorithm 3): for an f-DP mechanism, a recursion over
  the number of right guesses with the inverse blow-up function f̄⁻¹(y) = f(1 - y).

Either turns a count of right guesses into a rejection of a claim, and into a lower bound of ε. Neither is
sharp with few hundred canaries: an unrejected claim says little, which is why the audit does not rest on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "TradeOff",
    "critical_count",
    "epsilon_delta_p_value",
    "epsilon_lower_bound",
    "rejects",
    "trade_off",
]


@dataclass(frozen=True, eq=False)
class TradeOff:
    """The trade-off function of a mechanism: least type II error of any test at type I error α.

    It is the supremum of the lines of all (ε, δ) that the mechanism satisfies, and symmetric.

    Attributes:
        growth: e^ε of each line, (k).
        deltas: δ of each line, (k).
    """

    growth: npt.NDArray[np.float64]
    deltas: npt.NDArray[np.float64]

    def __call__(self, alpha: float) -> float:
        """f(α) for α in [0, 1]."""
        shallow = (1 - self.deltas - alpha) / self.growth
        steep = 1 - self.deltas - self.growth * alpha
        return max(0.0, float(shallow.max()), float(steep.max()))


def trade_off(epsilons: npt.NDArray[np.float64], deltas: npt.NDArray[np.float64]) -> TradeOff:
    """The trade-off function of a privacy profile δ(ε), given at some ε ≥ 0."""
    return TradeOff(np.exp(epsilons), deltas)


def rejects(f: Callable[[float], float], canaries: int, guesses: int, correct: int, level: float) -> bool:
    """Whether so many right guesses reject, at ``level``, that the mechanism is f-DP.

    Args:
        f: trade-off function, symmetric.
        canaries: m, each included by its own fair coin.
        guesses: made out of m, fixed beforehand.
        correct: right ones among them.
        level: probability of rejecting a true f, at most.
    """
    right, wrong = level * correct / canaries, level * (guesses - correct) / canaries
    ceiling = guesses / canaries
    for i in range(correct - 1, -1, -1):
        if not right + wrong <= ceiling:
            return True
        grown = max(wrong, f(1 - min(right, 1.0)))
        right += i / (guesses - i) * (grown - wrong)
        wrong = grown
    return right + wrong > ceiling


def epsilon_delta_p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """How likely ``correct`` or more right guesses are at most, for an (ε, δ)-DP mechanism.

    >>> epsilon_delta_p_value(10, 10, 10, 0.0, 0.0) == 2.0**-10
    True
    """
    from scipy import stats

    accuracy = 1 / (1 + np.exp(-epsilon))
    tail = float(stats.binom.sf(correct - 1, guesses, accuracy))
    if delta == 0 or correct == 0:
        return min(1.0, tail)
    counts = np.arange(1, correct + 1)
    just_below = np.cumsum(stats.binom.pmf(correct - counts, guesses, accuracy))
    return float(min(1.0, tail + 2 * canaries * delta * float((just_below / counts).max())))


def critical_count(reject: Callable[[int], bool], guesses: int) -> int:
    """The least count of right guesses that rejects; ``guesses + 1`` if none does.

    Args:
        reject: whether a count rejects; monotone.
        guesses: the most there can be.
    """
    low, high = 0, guesses + 1  # low does not reject, high does or is out of reach
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reject(middle) else (middle, high)
    return high


def epsilon_lower_bound(
    canaries: int, guesses: int, correct: int, delta: float, *, level: float = 0.05, most: float = 50.0
) -> float:
    """The largest ε such that (ε, δ)-DP is rejected at ``level``; 0 if none is."""
    low, high = 0.0, most
    if epsilon_delta_p_value(canaries, guesses, correct, low, delta) > level:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if epsilon_delta_p_value(canaries, guesses, correct, middle, delta) <= level:
            low = middle
        else:
            high = middle
    return low
