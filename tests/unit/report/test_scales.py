"""Axes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpft.report.scales import linear, logarithmic, nice_step, whole

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@given(SHARES, st.booleans())
def test_an_axis_holds_its_values_and_its_ticks_lie_on_it(values: list[float], zero: bool) -> None:
    axis = linear(values, 300, 20, ticks=5, zero=zero)
    assert axis.low <= min(values)
    assert axis.high >= max(values)
    assert 2 <= len(axis.ticks) <= 8
    assert all(20 <= tick.place <= 300 for tick in axis.ticks)
    assert len({tick.label for tick in axis.ticks}) == len(axis.ticks)  # no two ticks read the same
    if zero:
        assert axis.ticks[0].label.rstrip("0.") == ""


def test_an_axis_puts_numbers_where_they_belong() -> None:
    axis = linear([0.5, 0.9], 100, 0, ticks=4, top=1.0)
    assert [tick.label for tick in axis.ticks] == ["0.5", "0.6", "0.7", "0.8", "0.9"]
    assert (axis.at(0.5), axis.at(0.7), axis.at(0.9), axis.at(2.0)) == (100, 50, 0, 0)


def test_an_axis_of_shares_does_not_pass_one() -> None:
    assert linear([0.2, 1.0], 100, 0, ticks=3, top=1.0).high == 1.0


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 120, 198, 100_000])
def test_an_axis_of_steps_ends_at_the_last(steps: int) -> None:
    axis = whole(steps, 0, 100, ticks=4)
    assert (axis.ticks[0].label, axis.ticks[-1].label) == ("0", f"{steps:,}")
    assert axis.at(steps) == 100


@given(st.floats(1e-6, 1e6), st.integers(1, 10))
def test_steps_are_round_and_few(span: float, most: int) -> None:
    step = nice_step(span, most)
    assert span / step <= most * (1 + 1e-9)
    assert f"{step:e}"[0] in "125"


def test_a_logarithmic_axis_holds_its_values_at_equal_ratios() -> None:
    axis = logarithmic([0.01, 0.3, 8, 400], 0, 500, ticks=6)
    assert [tick.label for tick in axis.ticks] == ["0.01", "0.1", "1", "10", "100", "1,000"]
    assert [axis.at(value) for value in (0.01, 0.1, 1, 10, 100, 1000)] == [0, 100, 200, 300, 400, 500]


@given(st.lists(st.floats(1e-4, 1e6), min_size=1, max_size=9))
def test_any_logarithmic_axis_holds_its_values(values: list[float]) -> None:
    axis = logarithmic(values, 0, 300, ticks=6)
    assert axis.low <= min(values)
    assert axis.high >= max(values) * (1 - 1e-6)
    assert 2 <= len(axis.ticks) <= 8
    assert [tick.place for tick in axis.ticks] == sorted({tick.place for tick in axis.ticks})
