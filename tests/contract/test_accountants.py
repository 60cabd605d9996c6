"""What every accountant in the table promises."""

import dataclasses
import inspect
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpft.accounting import MechanismEvent
from dpft.errors import PrivacyError, UsageError
from dpft.tables import ACCOUNTANTS

DELTA = 1e-5
EVENT = MechanismEvent(0.1, 3.0, 100)

# What a bound may add to the truth (rdp: 8 to 20% in these tests).
SLACK = 1.25

everyone = pytest.mark.parametrize("name", ACCOUNTANTS.names())


def analytic_gaussian_epsilon(noise_multiplier, delta):
    """Exact ε of one Gaussian mechanism, by bisection of Balle & Wang 2018, arXiv 1805.06530, Theorem 8."""

    def cdf(x):
        return math.erfc(-x / math.sqrt(2)) / 2

    def exact_delta(epsilon):
        half, shift = 1 / (2 * noise_multiplier), epsilon * noise_multiplier
        return cdf(half - shift) - math.exp(epsilon) * cdf(-half - shift)

    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if exact_delta(middle) > delta else (low, middle)
    return high


@everyone
def test_it_is_named_as_in_the_table_and_cannot_be_changed(name):
    accountant = ACCOUNTANTS.get(name)
    assert accountant.name == name
    assert not inspect.isclass(accountant)
    with pytest.raises(dataclasses.FrozenInstanceError):
        accountant.name = "other"


@everyone
@pytest.mark.parametrize("events", [[], [EVENT.with_steps(0)], [EVENT.with_steps(0)] * 3])
def test_no_steps_cost_exactly_nothing(name, events):
    assert ACCOUNTANTS.get(name).epsilon(events, DELTA) == 0


@everyone
@pytest.mark.parametrize(
    "costly_last",
    [
        [MechanismEvent(0.1, noise, 100) for noise in (20.0, 5.0, 2.0, 1.0)],
        [MechanismEvent(0.1, 3.0, steps) for steps in (1, 10, 100, 101, 1000)],
        [MechanismEvent(rate, 3.0, 100) for rate in (0.001, 0.05, 0.1, 0.5, 0.99, 1.0)],
    ],
    ids=["noise", "steps", "sample-rate"],
)
def test_epsilon_grows_with_less_noise_more_steps_and_denser_sampling(name, costly_last):
    epsilons = [ACCOUNTANTS.get(name).epsilon([event], DELTA) for event in costly_last]
    assert epsilons == sorted(set(epsilons))
    assert all(0 <= epsilon < math.inf for epsilon in epsilons)


@everyone
def test_epsilon_falls_as_delta_grows(name):
    epsilons = [ACCOUNTANTS.get(name).epsilon([EVENT], delta) for delta in (1e-8, 1e-6, 1e-4, 1e-2)]
    assert epsilons == sorted(epsilons, reverse=True)
    assert epsilons[0] > epsilons[-1]


@everyone
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_composing_equal_events_is_one_event_of_all_steps(name, parts):
    accountant = ACCOUNTANTS.get(name)
    together = accountant.epsilon([EVENT.with_steps(parts * 30)], DELTA)
    assert accountant.epsilon([EVENT.with_steps(30)] * parts, DELTA) == pytest.approx(together, rel=1e-9)


@everyone
def test_composing_different_events_lies_between_the_extremes(name):
    accountant = ACCOUNTANTS.get(name)
    events = [MechanismEvent(0.1, 3.0, 50), MechanismEvent(0.1, 3.1, 30), MechanismEvent(0.1, 3.2, 20)]
    mixed = accountant.epsilon(events, DELTA)
    assert accountant.epsilon([MechanismEvent(0.1, 3.2, 100)], DELTA) < mixed
    assert mixed < accountant.epsilon([MechanismEvent(0.1, 3.0, 100)], DELTA)
    assert accountant.epsilon(events[::-1], DELTA) == pytest.approx(mixed, rel=1e-12)


@everyone
def test_sampled_and_full_batches_compose(name):
    accountant = ACCOUNTANTS.get(name)
    full = MechanismEvent(1.0, 30.0, 50)
    both = accountant.epsilon([EVENT, full], DELTA)
    assert both > max(accountant.epsilon([EVENT], DELTA), accountant.epsilon([full], DELTA))
    assert both < accountant.epsilon([EVENT], DELTA / 2) + accountant.epsilon([full], DELTA / 2)


@everyone
@pytest.mark.parametrize(("noise_multiplier", "steps"), [(0.5, 1), (5.0, 1), (20.0, 100), (40.0, 1000)])
@pytest.mark.parametrize("delta", [1e-9, 1e-6, 1e-3])
def test_full_batches_are_never_below_the_closed_form(name, noise_multiplier, steps, delta):
    exact = analytic_gaussian_epsilon(noise_multiplier / math.sqrt(steps), delta)
    found = ACCOUNTANTS.get(name).epsilon([MechanismEvent(1.0, noise_multiplier, steps)], delta)
    assert exact * (1 - 1e-12) <= found <= SLACK * exact + 0.01


@everyone
@pytest.mark.parametrize("delta", [1e-6, 1e-3])
def test_nearly_full_batches_are_never_below_the_closed_form(name, delta):
    # Accounted as sampled: the path of real runs. Their ε is within 1e-9 of the full batch's.
    exact = analytic_gaussian_epsilon(2.0, delta)
    found = ACCOUNTANTS.get(name).epsilon([MechanismEvent(1 - 1e-12, 20.0, 100)], delta)
    assert exact - 1e-9 <= found <= SLACK * exact


@everyone
@pytest.mark.parametrize("delta", [0, 1, -1e-5, 1.5, math.nan])
def test_a_delta_out_of_range_is_refused(name, delta):
    for events in ([EVENT], []):
        with pytest.raises(UsageError, match="delta"):
            ACCOUNTANTS.get(name).epsilon(events, delta)


@everyone
def test_mixed_adjacencies_are_refused(name):
    with pytest.raises(PrivacyError, match="adjacenc"):
        ACCOUNTANTS.get(name).epsilon([EVENT, EVENT.with_adjacency("replace-one")], DELTA)


@everyone
def test_replace_one_is_refused_or_costs_at_least_as_much(name):
    accountant = ACCOUNTANTS.get(name)
    try:
        replaced = accountant.epsilon([EVENT.with_adjacency("replace-one")], DELTA)
    except PrivacyError:
        return
    assert replaced >= accountant.epsilon([EVENT], DELTA)


@everyone
def test_hopeless_noise_is_refused_not_stated(name):
    with pytest.raises(PrivacyError, match="too weak") as caught:
        ACCOUNTANTS.get(name).epsilon([MechanismEvent(0.1, 1e-9, 1000)], DELTA)
    assert caught.value.hint


@everyone
@settings(max_examples=5, deadline=None)
@given(
    events=st.lists(
        st.builds(MechanismEvent, st.floats(1e-3, 1), st.floats(3, 50), st.integers(1, 300)),
        min_size=1,
        max_size=2,
    ),
    delta=st.floats(1e-7, 1e-2),
)
def test_every_event_adds_and_no_subset_costs_more(name, events, delta):
    accountant = ACCOUNTANTS.get(name)
    epsilon = accountant.epsilon(events, delta)
    assert 0 <= epsilon < math.inf
    # Two grids of the same distribution may differ by the interval.
    assert all(accountant.epsilon([event], delta) <= epsilon + 1e-3 for event in events)
    assert accountant.epsilon([*events, events[0]], delta) >= epsilon
