"""A curve, drawn with characters: braille dots where the stream has them, asterisks elsewhere.

Drawn here rather than by a plotting library: those for the terminal write escape codes of their own, past the
rules of :mod:`dpft.cli.render` (``NO_COLOR``, width, dumb terminals), for what is a hundred lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

__all__ = ["Axis", "chart", "ticks"]

_WIDE_SPAN = 8.0  # from this ratio on, an axis is logarithmic
_DOTS_ACROSS, _DOTS_DOWN = 2, 4  # in a braille cell
_BRAILLE = 0x2800
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by dot row and column
_LEAST_WIDTH = 10


@dataclass(frozen=True)
class Axis:
    """A scale from ``low`` to ``high``: logarithmic where they are far apart.

    Attributes:
        low: least value shown.
        high: largest.
    """

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Axis:
        """One that holds ``values``, and has some width even if they are all alike."""
        low, high = min(values), max(values)
        if not high > low:
            low, high = (low / 2, high * 2) if low > 0 else (low - 1, high + 1)
        return cls(low, high)

    @property
    def logarithmic(self) -> bool:
        """Whether ratios, and not differences, are equally long."""
        return self.low > 0 and self.high / self.low >= _WIDE_SPAN

    def at(self, value: float) -> float:
        """Where a value is: 0 at ``low``, 1 at ``high``."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def ticks(axis: Axis, most: int) -> list[float]:
    """Round numbers on an axis, as many as there are room for: 2 to ``most``, if there are.

    >>> ticks(Axis(0.18, 19.0), 3), ticks(Axis(1.0, 6.0), 3)
    ([1.0, 10.0], [2.0, 4.0, 6.0])
    """
    candidates = _round_logarithms(axis) if axis.logarithmic else _round_steps(axis)
    fitting = [found for found in candidates if len(found) <= most]
    return max(fitting, key=len, default=[])


def _round_logarithms(axis: Axis) -> list[list[float]]:
    decades = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    return [
        [
            value
            for decade in decades
            for lead in leads
            if axis.low <= (value := lead * 10.0**decade) <= axis.high
        ]
        for leads in ((1.0, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))
    ]


def _round_steps(axis: Axis) -> list[list[float]]:
    magnitude = math.floor(math.log10(axis.high - axis.low))
    found = []
    for exponent in (magnitude - 1, magnitude, magnitude + 1):
        for lead in (1.0, 2.0, 5.0):
            step = lead * 10.0**exponent
            first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
            found.append([round(count * step, 12) for count in range(first, last + 1)])
    return found


def chart(
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    width: int,
    height: int,
    mark: int | None = None,
    plain: bool = False,
) -> list[Text]:
    """Draw ``ys`` over ``xs``, with straight lines between the points.

    Args:
        xs: ascending.
        ys: one for each; finite.
        width: columns in all, labels included.
        height: rows of the curve itself.
        mark: which point gets a marker.
        plain: ASCII only.

    Returns:
        Lines, none wider than ``width`` (but 10 columns are drawn in any case).
    """
    across, down = Axis.of(xs), Axis.of(ys)
    at_left = {
        round((1 - down.at(value)) * (height - 1)): _number(value) for value in ticks(down, height // 2)
    }
    margin = max((len(label) for label in at_left.values()), default=0)
    columns = max(_LEAST_WIDTH, width - margin - 2)
    cells = _rasterised(xs, ys, across, down, columns, height, plain)
    wall, notch, corner, floor, foot = ("|", "+", "+", "-", "+") if plain else ("│", "┤", "└", "─", "┬")
    lines = []
    for row in range(height):
        label = at_left.get(row, "")
        lines.append(
            Text.assemble(
                (f"{label:>{margin}} ", "dim"),
                (notch if label else wall, "dim"),
                ("".join(cells[row]).rstrip(), "cyan"),
            )
        )
    if mark is not None:
        row = round((1 - down.at(ys[mark])) * (height - 1))
        column = round(across.at(xs[mark]) * (columns - 1))
        _stamp(lines[row], margin + 2 + column, "o" if plain else "●", "bold yellow")
    lines += _below(across, columns, margin, (corner, floor, foot))
    return lines


def _rasterised(
    xs: Sequence[float], ys: Sequence[float], across: Axis, down: Axis, columns: int, height: int, plain: bool
) -> list[list[str]]:
    per_column, per_row = (1, 1) if plain else (_DOTS_ACROSS, _DOTS_DOWN)
    wide, high = columns * per_column, height * per_row
    dots = [[False] * wide for _ in range(high)]
    places = [(across.at(x) * (wide - 1), (1 - down.at(y)) * (high - 1)) for x, y in zip(xs, ys, strict=True)]
    for (x, y), (following_x, following_y) in zip(places, places[1:] or places, strict=False):
        pieces = max(1, math.ceil(2 * max(abs(following_x - x), abs(following_y - y))))
        for piece in range(pieces + 1):
            part = piece / pieces
            dots[round(y + part * (following_y - y))][round(x + part * (following_x - x))] = True
    cell: Callable[[int, int], str] = (
        (lambda row, column: "*" if dots[row][column] else " ")
        if plain
        else (lambda row, column: _braille(dots, row, column))
    )
    return [[cell(row, column) for column in range(columns)] for row in range(height)]


def _braille(dots: Sequence[Sequence[bool]], row: int, column: int) -> str:
    bits = sum(
        bit
        for down, pair in enumerate(_BITS)
        for across, bit in enumerate(pair)
        if dots[row * _DOTS_DOWN + down][column * _DOTS_ACROSS + across]
    )
    return chr(_BRAILLE + bits) if bits else " "


def _below(axis: Axis, columns: int, margin: int, parts: tuple[str, str, str]) -> list[Text]:
    """The axis and its numbers, none of which touches another."""
    corner, floor, foot = parts
    line, labels = [floor] * columns, [" "] * (margin + 2 + columns)
    taken = 0
    for value in ticks(axis, max(2, columns // 9)):
        column, label = round(axis.at(value) * (columns - 1)), _number(value)
        start = max(0, min(margin + 2 + column - len(label) // 2, len(labels) - len(label)))
        if start < taken:
            continue
        line[column] = foot
        labels[start : start + len(label)] = label
        taken = start + len(label) + 1
    return [
        Text(f"{' ' * margin} {corner}{''.join(line)}", "dim"),
        Text("".join(labels).rstrip(), "dim"),
    ]


def _stamp(line: Text, column: int, character: str, style: str) -> None:
    """Put a character into a line, which grows if it is shorter."""
    if len(line) <= column:
        line.append(" " * (column + 1 - len(line)))
    before, after = line[:column], line[column + 1 :]
    line.plain = ""
    line.spans.clear()
    line.append_text(before).append(character, style).append_text(after)


def _number(value: float) -> str:
    """Short: ``1e-05`` stays, ``10,000`` gets its comma.

    >>> _number(0.5), _number(20000.0), _number(0.30000000000000004)
    ('0.5', '20,000', '0.3')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
