"""Axes: numbers to places, round numbers for ticks, and places for dots that would cover each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Axis", "Tick", "linear", "nice_step", "spread", "whole"]

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
    """A linear axis.

    Attributes:
        low: smallest number on it.
        high: largest.
        start: place of the smallest.
        end: place of the largest; above ``start`` for x, below it for y.
        ticks: round numbers on it.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """The place of a number, to a tenth; of one beyond the axis, its nearer end."""
        inside = min(max(value, self.low), self.high)
        share = (inside - self.low) / (self.high - self.low)
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


def whole(most: int, start: float, end: float, *, ticks: int) -> Axis:
    """An axis of counts that begins at 0 and ends at ``most`` itself."""
    step = max(1, round(nice_step(most, ticks)))
    bare = Axis(0.0, float(most), start, end, ())
    numbers = [*range(0, most - step // 2, step), most]
    return Axis(
        0.0, float(most), start, end, tuple(Tick(bare.at(n), f"{n:,}") for n in dict.fromkeys(numbers))
    )


def spread(places: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Move places as little as possible until each is ``apart`` from the next.

    Places in order that are too close become one block, centred on the mean of what is in it (isotonic
    regression by pooling adjacent violators, of each place less its rank times ``apart``).

    Args:
        places: in any order, within [low, high].
        apart: least distance; made smaller where there is not room for so many.
        low: nothing goes below.
        high: nothing goes above.

    Returns:
        The new places, in the order of ``places``, of which equals keep theirs.

    >>> spread([5, 5, 20], 4, 0, 20)
    [3.0, 7.0, 20.0]
    >>> spread([10, 10, 10], 8, 0, 10)
    [0.0, 5.0, 10.0]
    """
    if len(places) < 2:
        return [float(place) for place in places]
    apart = min(apart, (high - low) / (len(places) - 1))
    order = sorted(range(len(places)), key=lambda index: places[index])
    blocks: list[tuple[float, int]] = []  # mean and size
    for rank, index in enumerate(order):
        mean, size = float(places[index] - rank * apart), 1
        while blocks and blocks[-1][0] >= mean:
            before, many = blocks.pop()
            mean, size = (mean * size + before * many) / (size + many), size + many
        blocks.append((mean, size))
    offsets = [mean for mean, size in blocks for _ in range(size)]
    moved = [0.0] * len(places)
    for rank, index in enumerate(order):
        ahead = (len(places) - 1 - rank) * apart
        place = offsets[rank] + rank * apart
        moved[index] = round(float(max(low + rank * apart, min(place, high - ahead))), 1)
    return moved
