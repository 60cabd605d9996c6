import dataclasses
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpft.accounting import MechanismEvent, calibrate_noise_multiplier, guarantee, round_up
from dpft.accounting.calibrate import _guess, _Point, _search
from dpft.accounting.pld import PLD
from dpft.accounting.rdp import RDP
from dpft.errors import PrivacyError, UsageError

GOOD = {"sample_rate": 0.1, "steps": 512, "target_epsilon": 1.0, "target_delta": 1e-6}


@pytest.mark.parametrize(
    ("sample_rate", "steps", "target_epsilon", "target_delta"),
    [
        (0.1, 512, 1.0, 1e-6),
        (0.06, 165, 3.0, 1e-5),
        (0.2, 100, 0.1, 1e-5),
        (1.0, 1, 8.0, 1e-5),
        pytest.param(0.004, 790, 1.0, 7e-6, marks=pytest.mark.slow),
    ],
)
def test_the_smallest_four_decimal_noise_multiplier_on_the_safe_side(
    sample_rate, steps, target_epsilon, target_delta
):
    found = calibrate_noise_multiplier(
        sample_rate=sample_rate, steps=steps, target_epsilon=target_epsilon, target_delta=target_delta
    )
    assert found.epsilon <= target_epsilon
    assert found.delta == target_delta
    assert found.noise_multiplier == round(found.noise_multiplier, 4)
    event = MechanismEvent(sample_rate, found.noise_multiplier, steps)
    assert PLD.epsilon([event], target_delta) == found.epsilon
    less = dataclasses.replace(
        event, noise_multiplier=found.noise_multiplier - max(1e-4, 2e-5 * event.noise_multiplier)
    )
    assert PLD.epsilon([less], target_delta) > target_epsilon


@pytest.mark.parametrize("steps", [1, 1000, 100_000])
def test_full_batches_need_the_noise_of_the_closed_form(steps):
    from dp_accounting import get_sigma_gaussian

    exact = get_sigma_gaussian(1.0, 1e-5) * math.sqrt(steps)
    found = calibrate_noise_multiplier(sample_rate=1.0, steps=steps, target_epsilon=1.0, target_delta=1e-5)
    assert exact <= found.noise_multiplier <= exact * (1 + 2e-5) + 1e-4


def test_a_looser_tolerance_is_kept_on_the_safe_side():
    exact = calibrate_noise_multiplier(**GOOD).noise_multiplier
    loose = calibrate_noise_multiplier(**GOOD, tolerance=1e-2)
    assert exact <= loose.noise_multiplier <= exact * 1.011
    assert loose.epsilon <= 1.0


def test_an_easy_target_still_gets_the_least_noise():
    found = calibrate_noise_multiplier(sample_rate=1.0, steps=1, target_epsilon=600.0, target_delta=1e-5)
    assert found.noise_multiplier == 0.05
    assert 0 < found.epsilon <= 600


@pytest.mark.parametrize("target_epsilon", [1e-9, 1e-5])
def test_an_unreachable_target_is_refused_with_a_remedy(target_epsilon):
    with pytest.raises(
        PrivacyError, match="no noise multiplier up to 100000 reaches target_epsilon"
    ) as caught:
        calibrate_noise_multiplier(**{**GOOD, "target_epsilon": target_epsilon})
    assert "larger ε" in caught.value.hint


def test_a_delta_beyond_double_precision_is_refused():
    with pytest.raises(PrivacyError, match="too small"):
        calibrate_noise_multiplier(**{**GOOD, "target_delta": 1e-13})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *[("target_epsilon", value) for value in (0, -1.0, math.nan, math.inf)],
        *[("target_delta", value) for value in (0, 1, 1.5, -1e-5, math.nan)],
        *[("sample_rate", value) for value in (0, 1.5, math.nan)],
        *[("steps", value) for value in (0, -1, 2.5)],
        *[("tolerance", value) for value in (0, 0.2, math.nan)],
    ],
)
def test_a_wrong_argument_is_named(argument, value):
    with pytest.raises(UsageError, match=argument) as caught:
        calibrate_noise_multiplier(**{**GOOD, argument: value})
    assert caught.value.hint


# The search, on curves with the look of ε(σ) and the roughness of a grid.
@settings(max_examples=200, deadline=None)
@given(
    scale=st.floats(1e-2, 1e3),
    fall=st.floats(0.3, 8),
    roughness=st.floats(0, 1e-3),
    target=st.floats(0.1, 20),
    guessed_fall=st.floats(0.2, 20),
)
@example(scale=1.0, fall=1.0, roughness=0.0, target=1.0, guessed_fall=1.0)
def test_the_search_ends_just_on_the_safe_side(scale, fall, roughness, target, guessed_fall):
    def curve(noise):
        wave = math.sin(1e5 * noise)
        return scale * noise**-fall * (1 + roughness * wave)

    exact = (scale / target) ** (1 / fall)
    start = _guess(curve, target)
    found = _search(curve, target, _Point(start.noise_multiplier, target, guessed_fall), 1e-5, safe=True)
    if exact > 9e4:
        return
    assert found.epsilon == curve(found.noise_multiplier) <= target
    slack = roughness / fall + 1e-4 * guessed_fall / fall + 1e-4 * fall / guessed_fall
    assert found.noise_multiplier <= max(exact * (1 + 3 * slack) + 1e-3, 0.05)


def test_the_search_survives_a_curve_that_drops_to_zero():
    found = _search(lambda noise: 0.0 if noise > 7 else 5.0, 1.0, _Point(1.0, 1.0, 1.0), 1e-5, safe=True)
    assert found.epsilon == 0
    assert 7 < found.noise_multiplier < 7.001


def test_the_search_gives_up_at_the_most_noise():
    found = _search(lambda noise: 5.0, 1.0, _Point(1.0, 1.0, 1.0), 1e-5, safe=True)
    assert found.epsilon > 1.0


def test_a_guarantee_states_all_three_epsilons():
    events = [MechanismEvent(0.1, 3.0, 512), MechanismEvent(0.05, 2.0, 100)]
    found = guarantee(events, 1e-6)
    assert found.delta == 1e-6
    assert found.epsilon == PLD.epsilon(events, 1e-6) > guarantee(events[:1], 1e-6).epsilon
    assert found.epsilon_rdp == RDP.epsilon(events, 1e-6) > found.epsilon
    replaced = [event.with_adjacency("replace-one") for event in events]
    assert found.epsilon_replace_one == PLD.epsilon(replaced, 1e-6) > found.epsilon


@pytest.mark.parametrize("events", [[], [MechanismEvent(0.1, 3.0, 0)]])
def test_nothing_released_costs_nothing(events):
    found = guarantee(events, 1e-6)
    assert (found.epsilon, found.epsilon_replace_one, found.epsilon_rdp) == (0, 0, 0)


def test_a_guarantee_is_of_add_or_remove_one_events():
    with pytest.raises(PrivacyError, match="add-or-remove-one"):
        guarantee([MechanismEvent(0.1, 3.0, 512, "replace-one")], 1e-6)


@given(value=st.floats(-1e9, 1e9), digits=st.integers(0, 8))
@example(value=0.1, digits=4)
@example(value=0.30000000000000004, digits=1)
@example(value=9.66183, digits=4)
@example(value=33554432.853515625, digits=8)  # a step of 1e-8 is lost beside it
def test_rounding_up_is_never_below_and_never_a_whole_digit_above(value, digits):
    rounded = round_up(value, digits)
    assert value <= rounded <= value + 10.0**-digits * (1 + 1e-6) + 1e-6 * (abs(value) > 1e6)
    assert round_up(rounded, digits) == rounded == round(rounded, digits)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_cannot_be_rounded(value):
    with pytest.raises(UsageError, match="finite"):
        round_up(value)
