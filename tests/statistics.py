"""Tests with power: p-values for what a private run must look like.

Each returns a p-value under the hypothesis that the mechanism is right. Callers reject below ``ALPHA``; with
fixed keys the outcome is the same in every run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

ALPHA = 1e-4


def batch_size_p_value(draws: Sequence[npt.NDArray[np.int64]], examples: int, rate: float) -> float:
    """Realised batch sizes are Bin(n, q): two-sided χ² of the squared deviations, T degrees of freedom."""
    sizes = np.array([len(draw) for draw in draws], dtype=float)
    statistic = ((sizes - examples * rate) ** 2).sum() / (examples * rate * (1 - rate))
    below = stats.chi2.cdf(statistic, len(draws))
    return float(2 * min(below, 1 - below))


def visits_p_value(draws: Sequence[npt.NDArray[np.int64]], examples: int, rate: float) -> float:
    """Visits per example are Bin(T, q): two-sided χ² over examples, n degrees of freedom."""
    visits = np.bincount(np.concatenate(draws), minlength=examples)
    steps = len(draws)
    statistic = ((visits - steps * rate) ** 2).sum() / (steps * rate * (1 - rate))
    below = stats.chi2.cdf(statistic, examples)
    return float(2 * min(below, 1 - below))


def variance_p_value(values: npt.NDArray[np.float64], standard_deviation: float) -> float:
    """Values are N(0, sd²): two-sided χ² on their sum of squares."""
    statistic = float(np.square(values / standard_deviation).sum())
    below = stats.chi2.cdf(statistic, len(values))
    return float(2 * min(below, stats.chi2.sf(statistic, len(values))))


def normality_p_value(values: npt.NDArray[np.float64], standard_deviation: float) -> float:
    """Values are N(0, sd²): Kolmogorov-Smirnov."""
    return float(stats.kstest(values / standard_deviation, "norm").pvalue)


def correlation_p_value(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Two noise vectors are independent: two-sided test of their correlation."""
    return float(stats.pearsonr(first, second).pvalue)
