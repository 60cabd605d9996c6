import math
from dataclasses import replace

import pytest

from dpft.accounting import MechanismEvent
from dpft.accounting.pld import PLD, PldAccountant, _affordable_interval
from dpft.errors import PrivacyError, UsageError

QUICK = PldAccountant(interval=1e-3)


@pytest.mark.parametrize("interval", [0, -1e-4, 1.5, math.nan])
def test_the_interval_is_checked(interval):
    with pytest.raises(UsageError, match="interval"):
        PldAccountant(interval)


def test_a_coarser_grid_only_raises_epsilon():
    event = MechanismEvent(0.05, 2.0, 400)
    fine, quick, rough = (PldAccountant(i).epsilon([event], 1e-5) for i in (1e-4, 1e-3, 1e-2))
    assert fine <= quick <= rough
    assert quick == pytest.approx(fine, rel=2e-3)


@pytest.mark.parametrize(
    ("below_1", "steps", "delta"), [(1e-16, 100_000, 1e-9), (1e-9, 10_000, 1e-10), (1e-9, 1000, 1e-10)]
)
def test_rounding_errors_of_the_convolution_do_not_lower_epsilon(below_1, steps, delta):
    # dp-accounting 0.6.0 alone is below the closed form at the first two: by 4.6e-4 and 7.1e-5. Sample rates
    # just below 1 take the path of the convolution; their ε differs from the full batch's by less than 1e-6.
    from dp_accounting import get_epsilon_gaussian

    event = MechanismEvent(1 - below_1, math.sqrt(steps) / 3, steps)
    exact = get_epsilon_gaussian(1 / 3, delta)
    assert event.sample_rate < 1
    assert exact - 1e-6 <= PLD.epsilon([event], delta) <= 1.005 * exact


def test_a_delta_below_double_precision_is_refused():
    event = MechanismEvent(0.1, 40.0, 1000)
    with pytest.raises(PrivacyError, match="too small to account for 1000 steps") as caught:
        PLD.epsilon([event], 1e-12)
    assert "at least 4.5e-12" in caught.value.hint
    PLD.epsilon([event], 4.6e-12)


def test_full_batches_of_different_noise_are_one_gaussian():
    events = [MechanismEvent(1.0, 10.0, 25), MechanismEvent(1.0, 20.0, 300)]
    assert PLD.epsilon(events, 1e-6) == pytest.approx(
        PLD.epsilon([MechanismEvent(1.0, 1.0, 1)], 1e-6), rel=1e-9
    )


def test_replace_one_of_full_batches_has_twice_the_sensitivity():
    replaced = PLD.epsilon([MechanismEvent(1.0, 4.0, 1, "replace-one")], 1e-6)
    assert replaced == pytest.approx(PLD.epsilon([MechanismEvent(1.0, 2.0, 1)], 1e-6), rel=1e-6)


def test_the_grid_is_left_alone_at_usual_settings():
    for sample_rate, noise_multiplier, steps in [(0.0038, 0.4673, 790), (0.1, 3.0, 512), (0.06, 0.8317, 165)]:
        event = MechanismEvent(sample_rate, noise_multiplier, steps)
        assert _affordable_interval([event], 1e-4) == 1e-4


def test_the_grid_is_coarsened_where_the_noise_is_weak_and_epsilon_stays_an_upper_bound():
    from dp_accounting import get_epsilon_gaussian

    event = MechanismEvent(1.0, 0.1, 1)
    assert _affordable_interval([event], 1e-4) > 2e-4
    exact = get_epsilon_gaussian(0.1, 1e-5)
    assert exact <= PLD.epsilon([event], 1e-5) <= 1.0001 * exact


@pytest.mark.parametrize("event", [MechanismEvent(0.5, 0.002, 1), MechanismEvent(0.5, 0.1, 10**6)])
def test_noise_too_weak_for_any_statement_is_refused_before_memory_runs_out(event):
    with pytest.raises(PrivacyError, match="too weak"):
        QUICK.epsilon([event], 1e-5)


def test_an_overflow_is_a_refusal():
    weak = [
        MechanismEvent(0.955836515775301, 0.4107802602920917, 49, "replace-one"),
        MechanismEvent(1.0, 0.5340143383797192, 49, "replace-one"),
    ]
    with pytest.raises(PrivacyError, match="inf"):
        PldAccountant(interval=1e-2).epsilon(weak, 0.002)


def test_epsilon_is_the_librarys_accountants_to_the_last_bit_and_builds_each_step_once(monkeypatch):
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant, privacy_loss_distribution

    built = []
    build = privacy_loss_distribution.from_gaussian_mechanism
    monkeypatch.setattr(
        privacy_loss_distribution,
        "from_gaussian_mechanism",
        lambda *given, **named: built.append(given) or build(*given, **named),
    )
    first, second = MechanismEvent(0.0123, 0.77, 5), MechanismEvent(0.031, 1.3, 40)
    ours = [QUICK.epsilon(events, 1e-6) for events in ([first], [replace(first, steps=9)], [first, second])]
    assert built == [(0.77,), (1.3,)]

    library = PLDAccountant(value_discretization_interval=QUICK.interval)
    for event in (first, second):
        step = PoissonSampledDpEvent(event.sample_rate, GaussianDpEvent(event.noise_multiplier))
        library.compose(step, event.steps)
    rounding = 2.0**-51 * 45 + 2e-14
    assert ours[2] == library.get_epsilon(1e-6 - rounding)
