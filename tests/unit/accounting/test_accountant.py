import math

import pytest

from dpft.accounting import MechanismEvent
from dpft.accounting.accountant import check_delta, check_epsilon, compose
from dpft.errors import PrivacyError, UsageError


@pytest.mark.parametrize("epsilon", [math.inf, -math.inf, math.nan, -1e-12])
def test_an_epsilon_nobody_can_claim_fails_closed(epsilon):
    with pytest.raises(PrivacyError, match="pld") as caught:
        check_epsilon(epsilon, accountant="pld")
    assert caught.value.hint


def test_a_good_epsilon_comes_back_as_a_plain_float():
    numpy = pytest.importorskip("numpy")
    assert type(check_epsilon(numpy.float64(1.5), accountant="pld")) is float


@pytest.mark.parametrize("delta", [0, 1, -1e-5, 2, math.nan, math.inf])
def test_delta_is_a_probability_strictly_between_0_and_1(delta):
    with pytest.raises(UsageError, match="target_delta"):
        check_delta(delta, name="target_delta")


def test_equal_mechanisms_are_merged_and_empty_ones_dropped():
    a, b = MechanismEvent(0.1, 2.0, 3), MechanismEvent(0.1, 1.0, 4)
    assert compose([a, b.with_steps(0), b, a.with_steps(5)]) == (b, a.with_steps(8))
    assert compose([]) == compose([a.with_steps(0)]) == ()


def test_order_is_of_no_consequence():
    events = [MechanismEvent(q, s, 3) for q in (0.2, 0.1) for s in (5.0, 1.0)]
    assert compose(events) == compose(events[::-1])


def test_mixed_adjacencies_are_refused_even_without_steps():
    event = MechanismEvent(0.1, 2.0, 3)
    with pytest.raises(PrivacyError, match="adjacencies: add-or-remove-one, replace-one"):
        compose([event, event.with_steps(0).with_adjacency("replace-one")])


def test_what_is_beyond_precision_is_rounded_to_the_private_side():
    (rare,) = compose([MechanismEvent(1e-300, 1e300, 3)])
    assert rare.sample_rate > 1e-300
    assert rare.noise_multiplier < 1e300
    with pytest.raises(PrivacyError, match="too weak"):
        compose([MechanismEvent(0.1, 1e-4, 3)])
