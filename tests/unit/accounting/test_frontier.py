"""Curves of ε are never below it, and how far a target reaches is exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpft.accounting import MechanismEvent
from dpft.accounting.afford import Target, largest_batch, last_that_holds, most_steps
from dpft.accounting.frontier import epsilons, never_rising, quick_pld
from dpft.accounting.pld import PLD, PldAccountant
from dpft.accounting.rdp import RdpAccountant
from dpft.errors import UsageError

DELTA = 1e-5
# σ, q, steps, δ and exact ε: closed forms, derived as in tests/golden/test_epsilons.py
CLOSED_FORMS = [
    (5.0, 1.0, 1, 1e-5, 0.7255217508577948),
    (40.0, 1.0, 1000, 1e-5, 3.341409469239722),
    (1.0, 0.01, 1, 1e-5, 0.19945044779591503),
    (0.6, 0.05, 1, 1e-6, 4.746038260155178),
]


@pytest.mark.parametrize("row", CLOSED_FORMS)
def test_quick_bounds_are_above_closed_forms_and_near(row: tuple[float, float, int, float, float]) -> None:
    noise, rate, steps, delta, exact = row
    (found,) = epsilons([MechanismEvent(rate, noise, steps)], delta)
    assert found is not None
    assert exact <= found <= exact * 1.01


@pytest.mark.parametrize(("noise", "steps"), [(0.8, 200), (1.5, 30_000), (4.0, 2000)])
def test_quick_bounds_are_near_those_of_a_run(noise: float, steps: int) -> None:
    event = MechanismEvent(0.01, noise, steps)
    (found,) = epsilons([event], DELTA)
    precise = PLD.epsilon([event], DELTA)
    assert found is not None
    assert precise - 1e-6 <= found <= precise * 1.05


def test_the_grid_is_never_finer_than_a_runs_nor_coarser_than_a_hundredth() -> None:
    assert quick_pld(1e4) == PLD
    assert quick_pld(0.01) == PldAccountant(interval=1e-2)
    assert quick_pld(5.0, 0.5) == quick_pld(0.5)


def test_where_there_is_no_epsilon_there_is_no_point() -> None:
    assert epsilons([MechanismEvent(0.5, 1e-3, 10)], DELTA) == [None]
    with pytest.raises(UsageError, match="delta"):
        epsilons([MechanismEvent(0.5, 1.0, 10)], 0.0)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=12))
def test_tightened_bounds_fall_and_stay_bounds(points: list[tuple[float, float]]) -> None:
    truth = sorted((value for value, _ in points), reverse=True)
    bounds = [value + slack for value, (_, slack) in zip(truth, points, strict=True)]
    found = [value for value in never_rising(bounds) if value is not None]
    assert found == sorted(found, reverse=True)
    assert all(low <= new <= old for low, new, old in zip(truth, found, bounds, strict=True))


@given(st.integers(0, 40), st.integers(-3, 60), st.integers(0, 40))
def test_the_search_agrees_with_counting(last: int, start: int, most: int) -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number <= last

    assert last_that_holds(holds, start, most) == min(last, most)
    assert all(1 <= number <= most for number in asked)
    assert len(asked) <= 2 * math.log2(most + 2) + 3


# -- the most steps


def exact(target: Target, step: MechanismEvent, steps: int) -> bool:
    """Whether ``steps`` keep to the target, and one more does not."""
    held = steps == 0 or target.held_by(step.with_steps(steps))
    return held and not target.held_by(step.with_steps(steps + 1))


def coarsely(step: MechanismEvent, target: Target) -> int:
    """A search that stops at the coarse grid."""
    return most_steps(step, replace(target, accountant=PldAccountant(interval=1e-2)))


def by_rdp(step: MechanismEvent, target: Target) -> int:
    """A search with the other accountant."""
    return most_steps(step, replace(target, accountant=RdpAccountant(orders=(2, 4, 8, 16, 32, 64))))


def one_too_many(step: MechanismEvent, target: Target) -> int:
    return most_steps(step, target) + 1


def forgetful(step: MechanismEvent, target: Target) -> int:
    """A search that forgets what was spent."""
    return most_steps(step, Target(target.epsilon, target.delta))


STEP = MechanismEvent(0.02, 4.0, 1)
AFTER = Target(1.0, DELTA, (MechanismEvent(0.05, 5.0, 100),))


@pytest.mark.parametrize("target", [Target(1.0, DELTA), AFTER], ids=["first", "after another"])
def test_the_most_steps_are_exact(target: Target) -> None:
    steps = most_steps(STEP, target)
    assert steps > 100
    assert exact(target, STEP, steps)
    assert target.epsilon_with(STEP.with_steps(steps)) <= target.epsilon


@pytest.mark.parametrize("planted", [coarsely, by_rdp, one_too_many, forgetful])
def test_planted_searches_are_not(planted: Callable[[MechanismEvent, Target], int]) -> None:
    assert not exact(AFTER, STEP, planted(STEP, AFTER))


def test_nothing_may_be_affordable_or_more_than_anybody_asks_for() -> None:
    assert most_steps(MechanismEvent(0.5, 0.5, 1), Target(0.1, DELTA)) == 0
    assert most_steps(STEP, Target(1.0, DELTA, (MechanismEvent(0.05, 1.0, 100),))) == 0
    assert most_steps(MechanismEvent(1e-4, 50.0, 1), Target(8.0, DELTA), most=500) == 500


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, DELTA), (-1.0, DELTA), (math.nan, DELTA), (math.inf, DELTA), (1.0, 1.0)]
)
def test_a_target_out_of_range_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(UsageError, match="target_"):
        Target(epsilon, delta)


# -- the largest batch


@dataclass(frozen=True)
class RuleOfThumb:
    """An accountant at no cost, that has what the search relies on: ε grows with q and with steps."""

    name: str = "thumb"

    def epsilon(self, events: Sequence[MechanismEvent], delta: float) -> float:
        return math.sqrt(sum(e.steps * (e.sample_rate / e.noise_multiplier) ** 2 for e in events))


def largest_of_all(examples: int, steps_of: Callable[[int], int], noise: float, target: Target) -> int:
    """Every batch tried."""
    return max(
        (
            batch
            for batch in range(1, examples + 1)
            if target.held_by(MechanismEvent(batch / examples, noise, steps_of(batch)))
        ),
        default=0,
    )


@pytest.mark.parametrize("epochs", [0.5, 3.0, 10.0])
@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.2, 0.3, 0.9])
def test_the_largest_batch_agrees_with_trying_all(epochs: float, epsilon: float) -> None:
    def steps_of(batch: int) -> int:
        return math.ceil(epochs * 60 / batch)

    target = Target(epsilon, 1 / 120, accountant=RuleOfThumb())
    assert largest_batch(60, steps_of, 5.0, target) == largest_of_all(60, steps_of, 5.0, target)


def test_the_largest_batch_by_the_accountant_of_a_run() -> None:
    def steps_of(batch: int) -> int:
        return math.ceil(2.0 * 12 / batch)

    target = Target(0.75, 1 / 24)
    found = largest_batch(12, steps_of, 2.0, target)
    assert found == largest_of_all(12, steps_of, 2.0, target)
    assert 1 < found < 12
