"""Tests of what a private step must look like; each returns a p-value under the hypothesis that it is right.

Exact where an exact distribution is at hand. All are two-sided: noise that is too weak breaks the promise,
noise that is too strong is not the mechanism that is accounted for either.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = [
    "correlations_p_value",
    "lag_one_p_value",
    "sampler_p_values",
    "two_sided",
    "variance_p_value",
]

Floats = npt.NDArray[np.float64]
Indicators = npt.NDArray[np.bool_]

_LAGS = 5


def two_sided(z: float) -> float:
    """P(|N(0, 1)| ≥ |z|).

    >>> round(two_sided(1.959964), 6)
    0.05
    """
    return math.erfc(abs(z) / math.sqrt(2.0))


def variance_p_value(values: Floats) -> float:
    """Values are independent N(0, 1): their sum of squares is χ² with as many degrees of freedom."""
    return _chi_square(float(np.square(values).sum()), values.size)


def _chi_square(statistic: float, degrees: int) -> float:
    from scipy import stats

    if not math.isfinite(statistic):
        return 0.0
    below, above = stats.chi2.cdf(statistic, degrees), stats.chi2.sf(statistic, degrees)
    return float(min(1.0, 2.0 * min(below, above)))


def correlations_p_value(vectors: Floats) -> float:
    """Rows are independent vectors of independent normals: the strongest of all pairwise correlations.

    Each pair's correlation has an exact t distribution with L - 2 degrees of freedom; Bonferroni over pairs.

    Args:
        vectors: (rows, L), at least 2 rows, L > 2. A constant row is no noise: p-value 0.
    """
    from scipy import stats

    rows, length = vectors.shape
    centred = vectors - vectors.mean(1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    if not bool((norms > 0).all()):
        return 0.0
    unit = centred / norms
    pairs = np.triu_indices(rows, 1)
    strongest = min(float(np.abs((unit @ unit.T)[pairs]).max()), 1.0 - 1e-15)
    t = strongest * math.sqrt((length - 2) / (1 - strongest**2))
    return float(min(1.0, 2.0 * stats.t.sf(t, length - 2) * len(pairs[0])))


def lag_one_p_value(noise: Floats) -> float:
    """Noise of consecutive steps is independent: Σ x_t x_{t+1}, normal by the central limit theorem.

    Args:
        noise: (steps, coordinates), standard normal if the mechanism is right.
    """
    steps, coordinates = noise.shape
    products = float((noise[1:] * noise[:-1]).sum())
    return two_sided(products / math.sqrt((steps - 1) * coordinates))


def sampler_p_values(visits: Indicators, rate: float) -> dict[str, float]:
    """Every example joins every step by its own coin of probability ``rate``.

    Args:
        visits: (steps, examples), who was in which step.
        rate: q, in (0, 1).

    Returns:
        By name: ``batch sizes`` (their spread is that of Bin(n, q)), ``visits`` (each example's count is
        Bin(T, q)), ``coming back`` (joining is independent over up to five steps), ``company`` (neighbours in
        the dataset join independently), ``mean`` (the rate itself).
    """
    steps, examples = visits.shape
    spread = rate * (1 - rate)
    centred = visits.astype(np.float64) - rate
    per_step, per_example = centred.sum(1), centred.sum(0)
    back = min(
        two_sided(
            float((centred[lag:] * centred[:-lag]).sum()) / (spread * math.sqrt((steps - lag) * examples))
        )
        for lag in range(1, _LAGS + 1)
    )
    company = float((centred[:, 1:] * centred[:, :-1]).sum()) / (spread * math.sqrt(steps * (examples - 1)))
    return {
        "mean": two_sided(float(centred.sum()) / math.sqrt(spread * steps * examples)),
        "batch sizes": _binomial_spread(per_step, examples, rate),
        "visits": _binomial_spread(per_example, steps, rate),
        "coming back": min(1.0, _LAGS * back),
        "company": two_sided(company),
    }


def _binomial_spread(deviations: Floats, trials: int, rate: float) -> float:
    """Σ (X - np)² / (np(1-p)), standardised with the exact fourth moment of the binomial."""
    spread = rate * (1 - rate)
    statistic = float(np.square(deviations).sum()) / (trials * spread)
    count = len(deviations)
    # Var[(X - np)²] / (np(1-p))² = 2 + (1 - 6p(1-p)) / (np(1-p))
    variance = count * (2.0 + (1.0 - 6.0 * spread) / (trials * spread))
    # χ² with the degrees of freedom that give this mean and variance: tails of the right shape when skewed.
    scale = variance / (2.0 * count)
    return _chi_square(statistic / scale, max(1, round(count / scale)))
