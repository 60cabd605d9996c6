"""Thresholds are quantiles of the claimed mechanism, and a claim that is too small shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dpft.accounting.event import MechanismEvent
from dpft.accounting.profile import privacy_profile
from dpft.audit.claim import Claim
from dpft.audit.simulate import (
    Reference,
    f_dp_lower_bound,
    in_minus_out,
    log_likelihood_ratio,
    right_guesses,
    simulate,
)
from dpft.errors import PrivacyError, UsageError

CANARIES, STEPS, SIGMA = 64, 12, 0.8


def claim(**changes: float) -> Claim:
    fields = {
        "examples": 96,
        "expected_batch_size": 12,
        "sensitivity": 1.0,
        "noise_multiplier": SIGMA,
        "steps": STEPS,
        "delta": 5e-3,
    }
    return Claim.of(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return simulate(claim(), CANARIES, 1.0, np.random.default_rng(0))


def test_likelihood_ratio_is_that_of_the_densities() -> None:
    values, q, shift = np.linspace(-6, 9, 40), 0.3, 1.4
    density = lambda x: np.exp(-(x**2) / 2)  # noqa: E731
    expected = np.log((1 - q) * density(values) + q * density(values - shift)) - np.log(density(values))
    np.testing.assert_allclose(log_likelihood_ratio(values, q, shift), expected, atol=1e-12)
    np.testing.assert_allclose(log_likelihood_ratio(values, 1.0, shift), shift * values - shift**2 / 2)
    assert np.isfinite(log_likelihood_ratio(np.array([1e4]), 0.1, 10.0)).all()


def direct_audits(count: int, q: float, sigma: float) -> np.ndarray:
    """Shift and ratio difference, simulated without the pool: whole audits, step by step."""
    generator = np.random.default_rng(7)
    found = []
    for _ in range(count):
        coins = generator.random(CANARIES) < 0.5
        sampled = (generator.random((STEPS, CANARIES)) < q) & coins
        values = (sampled + sigma * generator.standard_normal((STEPS, CANARIES))) / SIGMA
        ratios = log_likelihood_ratio(values, 0.125, 1 / SIGMA).sum(0)
        found.append([in_minus_out(values.mean(0), coins), in_minus_out(ratios, coins)])
    return np.array(found)


@pytest.mark.statistical
def test_thresholds_are_passed_about_once_in_a_thousand(reference: Reference) -> None:
    limits = np.array([reference.shift_threshold, reference.ratio_threshold])
    passed = (direct_audits(6000, 0.125, SIGMA) > limits).any(1).sum()
    assert passed <= 18  # 6 expected; P(Poisson(6) > 18) < 1e-4
    ratio = direct_audits(1000, 0.125, SIGMA)
    near = ratio.mean(0) + 2.0 * ratio.std(0)
    assert (near < limits).all()  # and they are no wider than they need be:
    assert (ratio.mean(0) + 5.0 * ratio.std(0) > limits).all()


@pytest.mark.statistical
def test_planted_clipping_and_sampling_faults_pass_the_thresholds(reference: Reference) -> None:
    limits = np.array([reference.shift_threshold, reference.ratio_threshold])
    four_times = direct_audits(200, 0.5, SIGMA)
    assert (four_times > limits).any(1).mean() > 0.99


def test_one_run_designs_hardly_ever_reject_the_claim(reference: Reference) -> None:
    for design in (reference.f_dp, reference.epsilon_delta):
        assert design.false_alarm_rate <= 1e-4 or design.critical > design.guesses
        assert 1 <= design.guesses <= CANARIES


@pytest.mark.statistical
def test_simulated_delta_agrees_with_the_accountant_and_exposes_a_smaller_epsilon() -> None:
    """An independent look at the accountant: E[max(0, 1 - exp(ε - loss))] at the claimed ε is δ."""
    honest = claim()
    delta, error = simulate(honest, CANARIES, 1.0, np.random.default_rng(1)).least_delta
    assert abs(delta - honest.delta) < 5 * error
    boast = replace(honest, epsilon=0.8 * honest.epsilon)
    delta, error = simulate(boast, CANARIES, 1.0, np.random.default_rng(1)).least_delta
    assert delta - 5 * error > boast.delta


def test_right_guesses_are_counted_on_the_surest() -> None:
    ratios = np.array([5.0, -4.0, 3.0, -0.1, 0.2])
    coins = np.array([True, False, False, True, True])
    assert [int(right_guesses(ratios, coins, r)) for r in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]


def test_f_dp_bound_rises_with_right_guesses_and_is_zero_for_none() -> None:
    bounds = [f_dp_lower_bound(claim(), CANARIES, 32, right) for right in (16, 28, 32)]
    assert bounds[0] == 0.0
    assert 0 < bounds[1] < bounds[2]


def test_profile_is_the_gaussians_for_a_full_batch() -> None:
    from scipy import stats

    sigma, epsilons = 2.0, [0.0, 0.5, 1.5]
    found = privacy_profile([MechanismEvent(1.0, sigma, 1)], epsilons)
    for epsilon, delta in zip(epsilons, found, strict=True):
        mu = 1 / sigma
        exact = stats.norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * stats.norm.cdf(
            -mu / 2 - epsilon / mu
        )
        assert exact <= delta <= exact + 1e-4


def test_profile_refuses_what_it_cannot_state() -> None:
    event = MechanismEvent(0.1, 1.0, 3)
    with pytest.raises(UsageError, match="out of range"):
        privacy_profile([event], [float("nan")])
    with pytest.raises(PrivacyError, match="add-or-remove-one"):
        privacy_profile([event.with_adjacency("replace-one")], [1.0])
