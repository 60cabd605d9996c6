"""The claimed mechanism, simulated: how the white-box statistics fall when everything is right.

A canary is seen through its own coordinate alone. If it is in the dataset, the coordinate of a step's
release, in units of the noise, is N(0, 1), moved by d/σ in the steps that sampled it (each by a coin of
probability q); d is the canary's clipped norm in units of the sensitivity. If it is out, it is N(0, 1).
Thresholds are quantiles of simulated audits, so they are right for few canaries and steps too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PldAccountant
from dpft.accounting.profile import privacy_profile
from dpft.audit.claim import Claim
from dpft.audit.one_run import (
    TradeOff,
    critical_count,
    epsilon_delta_p_value,
    rejects,
    trade_off,
)
from dpft.audit.pvalues import two_sided

__all__ = [
    "LEVEL",
    "SHIFT_ALPHA",
    "OneRunDesign",
    "Pool",
    "Reference",
    "f_dp_lower_bound",
    "in_minus_out",
    "log_likelihood_ratio",
    "right_guesses",
    "simulate",
]

Floats = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]

LEVEL = 0.05
"""Of the one-run bounds: they hold with 95% confidence."""

SHIFT_ALPHA = 1e-3
"""Of mean shift and likelihood ratio together: their 99.9% quantile."""

_TRAJECTORIES = 1 << 17
_MOST_DRAWS = 1 << 25  # steps × trajectories: seconds
_AUDITS = 40_000
_AUDITS_THAT_GUESS = 8000
_BLOCK = 1000  # audits simulated at once
_EPSILON_GRID = np.concatenate([np.linspace(0, 4, 81), np.linspace(4.25, 40, 144)])
_ACCEPTABLE = 1e-4  # false alarms of a one-run bound
_LEAST_NOISE, _MOST_NOISE, _FACTOR_PRECISION = 0.25, 64.0, 1.02  # in units of the claim's σ
_COARSE = 1e-2  # of the curves that are searched; pessimistic, as all are
_SHARES = (16, 8, 4, 2, 1)  # canaries per guess that a design may have


def log_likelihood_ratio(values: Floats, sample_rate: float, shift: float) -> Floats:
    """Log p_in(x)/p_out(x) of one coordinate in one step: the subsampled Gaussian against the Gaussian.

    Args:
        values: in units of the noise.
        sample_rate: q.
        shift: d/σ.
    """
    loss = shift * values - shift**2 / 2
    if sample_rate >= 1:
        return loss
    ratio: Floats = np.logaddexp(math.log1p(-sample_rate), math.log(sample_rate) + loss)
    return ratio


@dataclass(frozen=True, eq=False)
class Pool:
    """Many simulated canaries of one kind.

    Attributes:
        means: of the coordinate over the steps, one per canary.
        ratios: log-likelihood ratio over all steps, one per canary.
    """

    means: Floats
    ratios: Floats


@dataclass(frozen=True)
class OneRunDesign:
    """How many guesses are made, and how many right ones reject the claim; settled before the run.

    Attributes:
        guesses: made on the canaries with the largest absolute likelihood ratios.
        critical: right guesses that reject the claim at the 5% level; above ``guesses`` if none can.
        false_alarm_rate: of a rejection under the claim, by simulation.
    """

    guesses: int
    critical: int
    false_alarm_rate: float


@dataclass(frozen=True, eq=False)
class Reference:
    """What the white-box statistics are compared with.

    Attributes:
        shift_threshold: in/out difference of the coordinates' means.
        ratio_threshold: in/out difference of the mean log-likelihood ratios.
        false_alarm_rate: of either threshold being passed under the claim.
        f_dp: design of the f-DP bound.
        epsilon_delta: design of the (ε, δ) bound.
        curve: trade-off function of the claim.
        least_delta: δ that the claimed ε needs at least, by simulation, and the standard error of that.
    """

    shift_threshold: float
    ratio_threshold: float
    false_alarm_rate: float
    f_dp: OneRunDesign
    epsilon_delta: OneRunDesign
    curve: TradeOff
    least_delta: tuple[float, float]


def simulate(claim: Claim, canaries: int, canary_norm: float, generator: np.random.Generator) -> Reference:
    """Thresholds for an audit of ``claim``.

    Args:
        claim: the mechanism.
        canaries: m.
        canary_norm: d, the canaries' clipped norm over the sensitivity; at most 1 if clipping works.
        generator: of the simulation.
    """
    shift = min(1.0, canary_norm) / claim.noise_multiplier
    inside = _pool(claim, shift, generator, sampled=True)
    outside = _pool(claim, shift, generator, sampled=False)
    statistics, counts = _audits(inside, outside, canaries, generator)
    centre, spread = statistics.mean(0), statistics.std(0)
    furthest = ((statistics - centre) / spread).max(1)
    limit = float(np.quantile(furthest, 1 - SHIFT_ALPHA, method="higher"))
    curve = _curve(claim.event)
    return Reference(
        shift_threshold=float(centre[0] + limit * spread[0]),
        ratio_threshold=float(centre[1] + limit * spread[1]),
        false_alarm_rate=SHIFT_ALPHA,
        f_dp=_design(counts, canaries, lambda r, v: rejects(curve, canaries, r, v, LEVEL)),
        epsilon_delta=_design(
            counts,
            canaries,
            lambda r, v: epsilon_delta_p_value(canaries, r, v, claim.epsilon, claim.delta) <= LEVEL,
        ),
        curve=curve,
        least_delta=_least_delta(claim, inside, outside),
    )


def _pool(claim: Claim, shift: float, generator: np.random.Generator, *, sampled: bool) -> Pool:
    """Simulate canaries that are in the dataset (``sampled``) or out of it."""
    count = max(1 << 13, min(_TRAJECTORIES, _MOST_DRAWS // claim.steps))
    totals, ratios = np.zeros(count), np.zeros(count)
    for _ in range(claim.steps):
        values = generator.standard_normal(count)
        if sampled:
            values += shift * (generator.random(count) < claim.sample_rate)
        totals += values
        ratios += log_likelihood_ratio(values, claim.sample_rate, shift)
    return Pool(totals / claim.steps, ratios)


def _audits(
    inside: Pool, outside: Pool, canaries: int, generator: np.random.Generator
) -> tuple[Floats, dict[int, Floats]]:
    """Audits put together from simulated canaries.

    Returns:
        Shift and ratio difference of each audit, (audits, 2); and right guesses of some of them, by guesses.
    """
    statistics = []
    counts: dict[int, list[int]] = {guesses: [] for guesses in _guess_counts(canaries)}
    for block in range(_AUDITS // _BLOCK):
        coins = generator.random((_BLOCK, canaries)) < 0.5
        drawn = generator.integers(0, len(inside.means), (_BLOCK, canaries))
        means = np.where(coins, inside.means[drawn], outside.means[drawn])
        ratios = np.where(coins, inside.ratios[drawn], outside.ratios[drawn])
        statistics.append(np.stack([in_minus_out(means, coins), in_minus_out(ratios, coins)], 1))
        if block < _AUDITS_THAT_GUESS // _BLOCK:
            for guesses, found in counts.items():
                found += right_guesses(ratios, coins, guesses).tolist()
    return np.concatenate(statistics), {guesses: np.array(found, float) for guesses, found in counts.items()}


def in_minus_out(values: Floats, coins: Coins) -> Floats:
    """Mean over the canaries that are in, less the mean over those that are out; over the last axis."""
    inside = (values * coins).sum(-1) / np.maximum(1, coins.sum(-1))
    outside = (values * ~coins).sum(-1) / np.maximum(1, (~coins).sum(-1))
    difference: Floats = np.asarray(inside - outside)
    return difference


def right_guesses(ratios: Floats, coins: Coins, guesses: int) -> npt.NDArray[np.int64]:
    """Guess the coins of the canaries with the largest absolute likelihood ratios, and count the right ones.

    Args:
        ratios: log-likelihood ratios, (…, canaries).
        coins: whether each is in, likewise.
        guesses: how many are guessed.
    """
    order = np.argsort(-np.abs(ratios), axis=-1)[..., :guesses]
    guessed_in = np.take_along_axis(ratios, order, -1) > 0
    right: npt.NDArray[np.int64] = (guessed_in == np.take_along_axis(coins, order, -1)).sum(-1)
    return right


def _guess_counts(canaries: int) -> list[int]:
    return sorted({max(1, canaries // share) for share in _SHARES})


def _design(counts: dict[int, Floats], canaries: int, reject: Callable[[int, int], bool]) -> OneRunDesign:
    """The number of guesses with the most power among those that hardly ever reject a true claim."""
    designs = []
    for guesses, found in counts.items():
        critical = critical_count(partial(reject, guesses), guesses)
        distance = (critical - 0.5 - found.mean()) / max(float(found.std()), 1e-9)
        rate = 0.0 if critical > guesses else max(float((found >= critical).mean()), two_sided(distance) / 2)
        designs.append(
            (critical > guesses, rate > _ACCEPTABLE, distance, OneRunDesign(guesses, critical, rate))
        )
    return min(designs, key=lambda design: design[:3])[3]


def _curve(event: MechanismEvent, interval: float = 1e-3) -> TradeOff:
    deltas = privacy_profile([event], _EPSILON_GRID.tolist(), interval=interval)
    return trade_off(_EPSILON_GRID, np.array(deltas))


def f_dp_lower_bound(claim: Claim, canaries: int, guesses: int, right: int) -> float:
    """The ε of the least private mechanism that so many right guesses reject at the 5% level; 0 if none.

    The hypotheses are the claim's own mechanism with other noise multipliers: q and T stay.
    """

    def rejected(factor: float) -> bool:
        event = replace(claim.event, noise_multiplier=claim.noise_multiplier * factor)
        return rejects(_curve(event, _COARSE), canaries, guesses, right, LEVEL)

    low, high = _LEAST_NOISE, _MOST_NOISE  # of the noise multiplier: more noise is rejected sooner
    if not rejected(high):
        return 0.0
    while high / low > _FACTOR_PRECISION:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rejected(middle) else (middle, high)
    event = replace(claim.event, noise_multiplier=claim.noise_multiplier * high)
    return PldAccountant(interval=1e-3).epsilon([event], claim.delta)


def _least_delta(claim: Claim, inside: Pool, outside: Pool) -> tuple[float, float]:
    """E[max(0, 1 - exp(ε - loss))] at the claimed ε, in the worse direction, and its standard error."""
    found = []
    for losses in (inside.ratios, -outside.ratios):
        excess = np.maximum(0.0, -np.expm1(np.minimum(0.0, claim.epsilon - losses)))
        found.append((float(excess.mean()), float(excess.std()) / math.sqrt(len(excess))))
    return max(found)
