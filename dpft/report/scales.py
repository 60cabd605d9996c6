"""Axes: numbers to places, and round numbers for ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Axis", "Tick", "linear", "logarithmic", "nice_step", "whole"]

_MOST_DIGITS = 15
_LEAST_SPAN = 1e-3  # of an axis, whose labels then have few enough digits


@dataclass(frozen=True)
class Tick:
    """A mark on an axis.

    Attributes:
        place: in the chart's units.
        label: the number.
    """

    place: float
    label: str


@dataclass(frozen=True)
class Axis:
    """An axis, linear or logarithmic.

    Attributes:
        low: smallest number on it.
        high: largest.
        start: place of the smallest.
        end: place of the largest; above ``start`` for x, below it for y.
        ticks: round numbers on it.
        log: whether equal distances are equal ratios.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a number, to a tenth; of one beyond the axis, its nearer end."""
        inside = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.log:
            low, high, inside = math.log(low), math.log(high), math.log(inside)
        share = (inside - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides ``span`` into at most ``most`` parts.

    >>> nice_step(0.37, 5), nice_step(8, 4), nice_step(198, 4)
    (0.1, 2.0, 50.0)
    """
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return float(f"{step:.{_MOST_DIGITS}g}")


def linear(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    ticks: int,
    zero: bool = False,
    top: float | None = None,
) -> Axis:
    """An axis that holds all ``values`` and begins and ends at round numbers.

    Args:
        values: at least one, all finite.
        start: place of its low end.
        end: place of its high end.
        ticks: at most so many parts.
        zero: begin at 0; the values are then at least 0.
        top: a number that the axis need not pass, 1 for shares.
    """
    low, high = (0.0 if zero else min(values)), max(values)
    high = max(high, low + _LEAST_SPAN * max(abs(high), 1.0))
    step = nice_step(high - low, ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if top is not None and last * step > top >= high:
        last = math.floor(top / step + 1e-9)
    ends = (min(low, first * step), max(high, last * step))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    bare = Axis(*ends, start, end, ())
    marks = tuple(
        Tick(bare.at(number * step), f"{number * step:,.{digits}f}") for number in range(first, last + 1)
    )
    return Axis(*ends, start, end, marks)


def logarithmic(values: Sequence[float], start: float, end: float, *, ticks: int) -> Axis:
    """An axis from a power of ten to a round number, for values whose ratios matter.

    Args:
        values: at least one, all above 0.
        start: place of its low end.
        end: place of its high end.
        ticks: at most about so many.
    """
    low = 10.0 ** math.floor(math.log10(min(values)) + 1e-9)
    decades = max(1, math.ceil(math.log10(max(values) / low) - 1e-9))
    rounds = (1, 2, 5) if decades * 3 <= ticks else (1,)
    marks = [float(f"{low * 10.0**power * factor:.3g}") for power in range(decades + 1) for factor in rounds]
    high = next((mark for mark in marks[1:] if mark >= max(values)), marks[-1])
    bare = Axis(low, high, start, end, (), log=True)
    shown = [mark for mark in marks if mark <= high]
    every = math.ceil(len(shown) / (ticks + 1))
    return Axis(
        low, high, start, end, tuple(Tick(bare.at(mark), f"{mark:,g}") for mark in shown[::every]), log=True
    )


def whole(most: int, start: float, end: float, *, ticks: int) -> Axis:
    """An axis of counts that begins at 0 and ends at ``most`` itself."""
    step = max(1, round(nice_step(most, ticks)))
    bare = Axis(0.0, float(most), start, end, ())
    numbers = [*range(0, most - step // 2, step), most]
    return Axis(
        0.0, float(most), start, end, tuple(Tick(bare.at(n), f"{n:,}") for n in dict.fromkeys(numbers))
    )
