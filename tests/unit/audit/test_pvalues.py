"""The audit's tests are calibrated, and reject what they are for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dpft.audit.pvalues import (
    correlations_p_value,
    lag_one_p_value,
    sampler_p_values,
    two_sided,
    variance_p_value,
)

ALPHA = 1e-4
REPEATS = 400
RATE = 0.125


def noise(generator: np.random.Generator, rows: int = 20, length: int = 60) -> np.ndarray:
    return generator.standard_normal((rows, length))


def poisson(generator: np.random.Generator, rate: float = RATE) -> np.ndarray:
    return generator.random((200, 80)) < rate


def shuffled(generator: np.random.Generator) -> np.ndarray:
    """Epochs of 8 batches of 10."""
    visits = np.zeros((200, 80), dtype=bool)
    for epoch in range(25):
        for part, rows in enumerate(np.split(generator.permutation(80), 8)):
            visits[8 * epoch + part, rows] = True
    return visits


@pytest.mark.statistical
@pytest.mark.parametrize("test", [variance_p_value, lag_one_p_value, correlations_p_value])
def test_noise_tests_reject_true_noise_as_often_as_they_say(test: Callable[[np.ndarray], float]) -> None:
    generator = np.random.default_rng(0)
    found = np.array([test(noise(generator)) for _ in range(REPEATS)])
    for level in (0.05, 0.3):
        expected, spread = level, 4 * np.sqrt(level * (1 - level) / REPEATS)
        assert (found < level).mean() <= expected + spread
        assert (
            found < level
        ).mean() >= 0.6 * expected - spread  # Bonferroni over correlated pairs costs a bit


@pytest.mark.statistical
def test_sampler_tests_reject_a_true_sample_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    found = [sampler_p_values(poisson(generator), RATE) for _ in range(REPEATS)]
    for name in found[0]:
        rejected = np.mean([p_values[name] < 0.05 for p_values in found])
        assert 0.01 <= rejected <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / REPEATS), name


@pytest.mark.statistical
def test_planted_samplers_are_rejected() -> None:
    generator = np.random.default_rng(0)
    of_shuffling = sampler_p_values(shuffled(generator), RATE)
    assert of_shuffling["batch sizes"] < ALPHA
    assert of_shuffling["visits"] < ALPHA
    assert of_shuffling["coming back"] < ALPHA
    assert of_shuffling["mean"] == 1.0  # the rate itself is right
    assert sampler_p_values(poisson(generator, 2 * RATE), RATE)["mean"] < ALPHA
    pairs = np.repeat(generator.random((200, 40)) < RATE, 2, axis=1)  # neighbours always together
    assert sampler_p_values(pairs, RATE)["company"] < ALPHA
    sticky = np.repeat(generator.random((100, 80)) < RATE, 2, axis=0)  # each batch used twice
    assert sampler_p_values(sticky, RATE)["coming back"] < ALPHA


@pytest.mark.statistical
def test_planted_noise_is_rejected() -> None:
    generator = np.random.default_rng(0)
    good = noise(generator, 64, 256)
    for factor in (0.5, 0.9, 1.1, 0.0):
        assert variance_p_value(factor * good) < ALPHA
    repeated = np.tile(good[:1], (64, 1))
    assert correlations_p_value(repeated) < ALPHA
    assert lag_one_p_value(repeated) < ALPHA
    once_more = np.concatenate([good, good[5:6]])  # one step's noise, used again much later
    assert lag_one_p_value(once_more) > ALPHA
    assert correlations_p_value(once_more) < ALPHA
    assert correlations_p_value(np.zeros((4, 100))) == 0.0
    assert variance_p_value(np.array([np.nan, 1.0])) == 0.0


def test_noise_times_nine_tenths_is_caught_almost_surely() -> None:
    """Power at the audit's smallest sizes: 4,096 values, α = 1e-4/3 shared by 200 tensors."""
    from scipy import stats

    values, limit = 4096, 1e-4 / 3 / 200
    lowest = stats.chi2.ppf(limit / 2, values)
    missed = stats.chi2.sf(lowest / 0.81, values)
    assert missed < 1e-3


def test_two_sided_is_the_normal_tail() -> None:
    assert two_sided(0.0) == 1.0
    assert two_sided(-3.890592) == pytest.approx(1e-4, rel=1e-5)
