"""A row of numbers as a line of small bars."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

__all__ = ["can_draw", "sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=+*#@"
_MOST = 40


def can_draw(console: Console) -> bool:
    """Whether block characters are shown there as what they are."""
    return not console.is_dumb_terminal and (console.encoding or "").startswith("utf")


def sparkline(values: Sequence[float], *, blocks: bool = True) -> str:
    """The lowest value as the lowest bar, the highest as the highest; of many, every so manieth and the last.

    >>> sparkline([0.5, 0.6, 0.7, 0.8]), sparkline([0.5, 0.8], blocks=False), sparkline([1.0, 1.0])
    ('▁▃▆█', '_@', '▁▁')
    """
    levels = _BLOCKS if blocks else _ASCII
    every = -(-len(values) // _MOST) or 1
    chosen = [*values[::-1][::every]][::-1]
    if not chosen:
        return ""
    low, high = min(chosen), max(chosen)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[round((value - low) * scale)] for value in chosen)
