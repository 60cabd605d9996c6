"""The one-run bounds: closed forms, monotone, and true at their level for a mechanism that is as claimed."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from dpft.audit.one_run import (
    critical_count,
    epsilon_delta_p_value,
    epsilon_lower_bound,
    rejects,
    trade_off,
)

LEVEL = 0.05


def gaussian(mu: float) -> object:
    """Exactly the trade-off function of μ-GDP (Dong et al. 2019, eq. 6)."""
    return lambda alpha: float(stats.norm.cdf(stats.norm.ppf(1 - alpha) - mu))


def gaussian_lines(mu: float, epsilons: np.ndarray) -> object:
    """The same from its privacy profile (Balle & Wang 2018, theorem 8)."""
    deltas = stats.norm.cdf(mu / 2 - epsilons / mu) - np.exp(epsilons) * stats.norm.cdf(
        -mu / 2 - epsilons / mu
    )
    return trade_off(epsilons, deltas)


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("guesses", [1, 20, 100])
def test_all_guesses_right_without_delta_is_a_coin_of_known_bias(epsilon: float, guesses: int) -> None:
    accuracy = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert epsilon_delta_p_value(200, guesses, guesses, epsilon, 0.0) == pytest.approx(accuracy**guesses)


def test_lower_bound_of_all_right_has_a_closed_form() -> None:
    """0.05 = (e^ε/(1+e^ε))^r: with r = 100, ε ≥ 3.4930."""
    accuracy = LEVEL ** (1 / 100)
    expected = math.log(accuracy / (1 - accuracy))
    assert expected == pytest.approx(3.4930, abs=1e-4)
    assert epsilon_lower_bound(100, 100, 100, 0.0) == pytest.approx(expected, abs=2e-4)
    assert epsilon_lower_bound(100, 100, 50, 0.0) == 0.0


def test_delta_term_is_the_theorems() -> None:
    """Written out naively: f(v) + 2mδ·max_i (f(v-i) - f(v))/i."""
    m, r, epsilon, delta = 60, 30, 0.8, 1e-3
    tail = lambda v: stats.binom.sf(v - 1, r, 1 / (1 + math.exp(-epsilon)))  # noqa: E731
    for v in (1, 20, 26, 30):
        worst = max((tail(v - i) - tail(v)) / i for i in range(1, m + 1))
        naive = min(1.0, tail(v) + 2 * m * delta * worst)
        assert epsilon_delta_p_value(m, r, v, epsilon, delta) == pytest.approx(naive)


def test_p_values_fall_with_right_guesses_and_rise_with_epsilon() -> None:
    over_counts = [epsilon_delta_p_value(100, 50, v, 1.0, 1e-4) for v in range(51)]
    assert all(a >= b - 1e-12 for a, b in pairwise(over_counts))
    over_epsilons = [epsilon_delta_p_value(100, 50, 45, e, 1e-4) for e in np.linspace(0, 5, 30)]
    assert all(a <= b + 1e-12 for a, b in pairwise(over_epsilons))
    assert epsilon_delta_p_value(100, 50, 45, 1.0, 1e-2) > epsilon_delta_p_value(100, 50, 45, 1.0, 1e-4)


def test_trade_off_of_a_profile_is_the_gaussians() -> None:
    exact, lines = gaussian(1.3), gaussian_lines(1.3, np.linspace(0, 20, 400))
    for alpha in (0.0, 1e-4, 0.02, 0.3, 0.5, 0.9, 1.0):
        assert lines(alpha) == pytest.approx(exact(alpha), abs=2e-4)  # type: ignore[operator]
        assert lines(alpha) <= exact(alpha) + 1e-12  # type: ignore[operator]


def test_rejection_is_monotone_in_count_and_mechanism() -> None:
    counts = [
        critical_count(lambda v, mu=mu: rejects(gaussian(mu), 200, 100, v, LEVEL), 100)
        for mu in (0.1, 0.5, 1, 2, 4)
    ]  # type: ignore[arg-type,misc]
    assert counts == sorted(counts)
    assert counts[0] < 75  # a mechanism that tells nothing
    assert counts[-1] > 100  # one that tells nearly all: no count is too good
    for v in range(counts[1], 101):
        assert rejects(gaussian(0.5), 200, 100, v, LEVEL)  # type: ignore[arg-type]


def test_no_information_is_a_fair_coin() -> None:
    """f(α) = 1 - α. The recursion is never below the exact binomial tail, and close to it."""
    exact = critical_count(lambda v: bool(stats.binom.sf(v - 1, 100, 0.5) <= LEVEL), 100)
    found = critical_count(lambda v: rejects(lambda alpha: 1 - alpha, 100, 100, v, LEVEL), 100)
    assert exact == 59
    assert exact <= found <= 66


def right_counts(mu: float, canaries: int, guesses: int, repeats: int) -> np.ndarray:
    """The best attack on a Gaussian mechanism with one output per canary."""
    generator = np.random.default_rng(0)
    coins = generator.random((repeats, canaries)) < 0.5
    scores = generator.standard_normal((repeats, canaries)) + mu * (coins - 0.5)
    order = np.argsort(-np.abs(scores), axis=1)[:, :guesses]
    guessed = np.take_along_axis(scores, order, 1) > 0
    return (guessed == np.take_along_axis(coins, order, 1)).sum(1)


@pytest.mark.statistical
@pytest.mark.parametrize("mu", [0.5, 1.5])
def test_bounds_hold_for_a_gaussian_mechanism_and_reject_a_weaker_claim(mu: float) -> None:
    m, r, delta = 200, 50, 1e-3
    counts = right_counts(mu, m, r, 400)
    epsilons = np.linspace(0, 20, 4001)
    deltas = stats.norm.cdf(mu / 2 - epsilons / mu) - np.exp(epsilons) * stats.norm.cdf(
        -mu / 2 - epsilons / mu
    )
    true_epsilon = float(epsilons[np.argmax(deltas <= delta)])
    critical = critical_count(lambda v: rejects(gaussian(mu), m, r, v, LEVEL), r)  # type: ignore[arg-type]
    assert (counts >= critical).mean() <= LEVEL
    bounds = [epsilon_lower_bound(m, r, int(v), delta) for v in np.unique(counts)]
    weight = [np.mean(counts == v) for v in np.unique(counts)]
    assert sum(w for w, bound in zip(weight, bounds, strict=True) if bound > true_epsilon) <= LEVEL
    much_less = critical_count(lambda v: rejects(gaussian(mu / 5), m, r, v, LEVEL), r)  # type: ignore[arg-type]
    assert (counts >= much_less).mean() > 0.5  # a claim of a fifth is rejected
