"""What a plan says is what a run would do, and its curves are never below the truth."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dpft.accounting import MechanismEvent, guarantee
from dpft.accounting.afford import Target
from dpft.accounting.pld import PLD
from dpft.errors import PrivacyError, UsageError
from dpft.privacy.plan import PrivatePlan, make_plan
from dpft.spec import OptimisationSpec, PrivacySpec
from dpft.training import prospect as module
from dpft.training.prospect import Curve, affordable_batch, affordable_epochs, foresee, frontier

# The noise is strong here: its distributions are quick to build.
OPTIMISATION = OptimisationSpec(learning_rate=1.0, epochs=2.0, batch_size=50)
STRONG = PrivacySpec(noise_multiplier=6.0, target_epsilon=None)
SLACK = 1e-6  # two upper bounds of one ε on different grids


@pytest.mark.parametrize(
    "privacy", [STRONG, PrivacySpec(target_epsilon=0.5), PrivacySpec(target_epsilon=0.5, target_delta=1e-6)]
)
def test_a_plan_is_what_a_run_would_do(privacy: PrivacySpec) -> None:
    planned = foresee(1000, OPTIMISATION, privacy)
    run = make_plan(1000, OPTIMISATION, privacy)
    assert isinstance(run, PrivatePlan)
    assert planned.event == run.planned_event
    assert planned.schedule == run.schedule
    assert planned.guarantee == guarantee([run.planned_event], run.schedule.delta)


def test_an_impossible_plan_is_refused() -> None:
    with pytest.raises(UsageError, match="larger than"):
        foresee(10, OPTIMISATION, STRONG)
    with pytest.raises(PrivacyError, match="delta"):
        foresee(1000, OPTIMISATION, STRONG.model_copy(update={"target_delta": 0.5}))


@pytest.fixture(scope="module")
def planned() -> Any:
    return foresee(1000, OPTIMISATION, STRONG)


def truth(planned: Any, quantity: str, value: float) -> float:
    """ε as a run would state it."""
    noise, batch, epochs = planned.noise_multiplier, 50, planned.epochs
    if quantity == "noise":
        noise = value
    elif quantity == "batch_size":
        batch = int(value)
    else:
        epochs = value
    steps = math.ceil(epochs * 1000 / batch)
    return PLD.epsilon([MechanismEvent(batch / 1000, noise, steps)], planned.schedule.delta)


def never_below(planned: Any, quantity: str, curve: Curve) -> bool:
    return all(
        epsilon >= truth(planned, quantity, value) - SLACK
        for value, epsilon in zip(curve.values, curve.epsilons, strict=True)
    )


def test_the_frontier_is_ordered_and_never_below_what_a_run_would_state(planned: Any) -> None:
    curves = frontier(planned)
    for quantity in ("noise", "batch_size", "epochs"):
        curve = getattr(curves, quantity)
        assert never_below(planned, quantity, curve)
        assert list(curve.values) == sorted(set(curve.values))
        assert 10 <= len(curve.values) <= 15
        assert all(round(epsilon, 4) == epsilon for epsilon in curve.epsilons)
        assert planned.guarantee.epsilon <= curve.epsilons[curve.planned] <= planned.guarantee.epsilon + 1e-4
    assert list(curves.noise.epsilons) == sorted(curves.noise.epsilons, reverse=True)
    assert list(curves.epochs.epsilons) == sorted(curves.epochs.epsilons)
    assert curves.batch_size.epsilons[0] < curves.batch_size.epsilons[-1]
    chosen = [getattr(curves, name).values[getattr(curves, name).planned] for name in vars(curves)]
    assert chosen == [6.0, 50, 2.0]
    assert curves.batch_size.values[-1] == 400


def test_planted_rounding_to_the_nearest_is_below(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "round_up", lambda value: round(value, 4))
    assert not never_below(planned, "noise", frontier(planned).noise)


def test_planted_curve_of_a_smaller_rate_is_below(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = module.epsilons

    def rarer(events: Any, delta: float) -> Any:
        return genuine(
            [MechanismEvent(e.sample_rate * 0.99, e.noise_multiplier, e.steps) for e in events], delta
        )

    monkeypatch.setattr(module, "epsilons", rarer)
    assert not never_below(planned, "epochs", frontier(planned).epochs)


@pytest.mark.parametrize(("examples", "batch"), [(999, 50), (7, 7)])
def test_affordable_epochs_plan_exactly_the_affordable_steps(examples: int, batch: int) -> None:
    target = Target(0.3, 1 / (4 * examples))
    found = affordable_epochs(examples, batch, 8.0, target)
    assert found.epsilon <= 0.3
    if found.steps == 0:
        assert (found.epochs, found.batch_size) == (0.0, 0)
        return
    asked = OptimisationSpec(learning_rate=1.0, epochs=found.epochs, batch_size=batch)
    planned = foresee(
        examples, asked, PrivacySpec(noise_multiplier=8.0, target_epsilon=None, target_delta=target.delta)
    )
    assert planned.schedule.steps == found.steps
    assert planned.guarantee.epsilon == found.epsilon
    assert not target.held_by(planned.event.with_steps(found.steps + 1))


@pytest.mark.parametrize(("examples", "batch"), [(1000, 50), (999, 50), (7, 7), (67_349, 1024), (1000, 1)])
@pytest.mark.parametrize("steps", [1, 2, 19, 1000, 99_999])
def test_epochs_are_few_decimals_of_so_many_steps(examples: int, batch: int, steps: int) -> None:
    epochs = module._epochs_of(steps, examples, batch)
    assert math.ceil(epochs * examples / batch) == steps
    assert len(f"{epochs:.12g}") <= 13
    assert math.ceil(float(f"{epochs:.12g}") * examples / batch) == steps


def test_the_affordable_batch_size() -> None:
    target = Target(0.5, 1 / 2000)
    found = affordable_batch(1000, 2.0, 6.0, target)
    assert found.epochs == 2.0
    assert found.steps == math.ceil(2000 / found.batch_size)
    assert found.epsilon <= 0.5
    more = found.batch_size + 1
    assert not target.held_by(MechanismEvent(more / 1000, 6.0, math.ceil(2000 / more)))
    nothing = affordable_batch(1000, 2.0, 6.0, Target(1e-4, 1 / 2000))
    assert (nothing.epochs, nothing.batch_size, nothing.steps, nothing.epsilon) == (0, 0, 0, 0)


# QNLI and SST-2 of tests/golden/test_epsilons.py: ε after so many steps is in [low, high] by prv-accountant
# 0.2.0 (eps_error 1e-3). A target of low cannot afford more steps than that, a target of high no fewer.
@pytest.mark.parametrize(
    ("examples", "batch", "noise", "steps", "low", "high"),
    [(104_743, 4096, 1.2153, 256, 2.998746, 3.001123), (67_349, 256, 0.8361, 790, 0.998711, 1.000955)],
)
def test_an_independent_accountant_agrees(
    examples: int, batch: int, noise: float, steps: int, low: float, high: float
) -> None:
    found = [
        affordable_epochs(examples, batch, noise, Target(target, 1 / (2 * examples))).steps
        for target in (low, high)
    ]
    assert steps - 4 <= found[0] <= steps <= found[1] <= steps + 4
