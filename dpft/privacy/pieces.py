"""How a logical batch is cut where the padding of an example must not depend on who else was drawn.

At float32, padding and the number of rows change an example's gradient in the last bits, if at all. At
bfloat16 they can change it by a hundredth: another width makes attention add up in another order, sums that
differ in their last bits round to neighbouring bfloat16 numbers, and whoever brings the longer text has moved
everybody's gradient. No clipping bounds that. So there an example is padded to a width that its own length
alone decides, and goes through the model beside others of that width, in a number of rows that is a power of
two. Missing rows are copies of the first, whose loss counts for nothing. That none of these few numbers of
rows changes a bit of what any row gives is seen before the first step (:mod:`dpft.training.rounding`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dpft.privacy.sampling import micro_batches

__all__ = ["Cut", "Piece", "as_they_come", "by_own_length", "own_width", "rows_of"]

Indices = npt.NDArray[np.int64]

_CALL = 128  # tokens in whose time a piece more could be begun; 60 or 250 cut much the same


@dataclass(frozen=True, eq=False)
class Piece:
    """Examples that go through the model together.

    Attributes:
        rows: which examples, the first of them ``fill`` times more at the end.
        width: tokens to pad to; None for those of the longest row.
        fill: how many of the last rows count for nothing.
    """

    rows: Indices
    width: int | None = None
    fill: int = 0


Cut = Callable[[Indices], Iterator[Piece]]
"""Cuts a logical batch into pieces."""


def as_they_come(lengths: npt.NDArray[np.integer], token_budget: int) -> Cut:
    """Length-sorted pieces, as wide as their longest row: :func:`dpft.privacy.sampling.micro_batches`."""
    return lambda indices: (Piece(rows) for rows in micro_batches(indices, lengths, token_budget))


def by_own_length(
    lengths: npt.NDArray[np.integer], longest: int, token_budget: int, extra_tokens: int = 0
) -> Cut:
    """Pieces as wide as the own length of each of their rows says, of a power of two of them.

    Args:
        lengths: tokens of every example, virtual ones not counted.
        longest: what no example's length can pass, whatever the data: it must not come from them.
        token_budget: tokens that may go through the model at once; one row may have more.
        extra_tokens: virtual tokens that the model puts before each row.

    Returns:
        A cut; widest pieces first. Where a width has room for padding every row has some, so that a mask is
        never dropped for want of it; rows of the full length have none, and go together.
    """

    def cut(indices: Indices) -> Iterator[Piece]:
        own = lengths[indices]
        widths = np.array([own_width(int(length), longest) for length in own], dtype=np.int64)
        full = own >= widths
        for width, unpadded in sorted({*zip(widths.tolist(), full.tolist(), strict=True)}, reverse=True):
            group = indices[(widths == width) & (full == unpadded)]
            room = rows_of(width, token_budget, extra_tokens)
            for rows in np.split(group, np.cumsum(_parts(len(group), room, width))[:-1]):
                fill = _filled(len(rows)) - len(rows)
                yield Piece(np.concatenate([rows, np.repeat(rows[:1], fill)]), width, fill)

    return cut


def rows_of(width: int, token_budget: int, extra_tokens: int = 0) -> int:
    """The most rows of a piece of that width: a power of two.

    >>> [rows_of(width, 2048) for width in (8, 24, 128, 4096)]
    [256, 64, 16, 1]
    """
    room = token_budget // (width + extra_tokens)
    return 1 << (max(1, room).bit_length() - 1)


def _parts(rows: int, most: int, width: int) -> list[int]:
    """How many of ``rows`` go into each piece, pieces weighed against rows left to fill.

    >>> _parts(75, 128, 16), _parts(75, 32, 16), _parts(120, 128, 16)
    ([64, 11], [32, 32, 11], [120])
    """
    whole, rest = [most] * (rows // most), rows % most
    powers = [1 << place for place in reversed(range(rest.bit_length())) if rest >> place & 1]
    choices = [[*whole, *powers[:kept], rest - sum(powers[:kept])] for kept in range(len(powers))]
    return min(choices or [whole], key=lambda parts: sum(_filled(part) * width + _CALL for part in parts))


def _filled(rows: int) -> int:
    """The next power of two."""
    return 1 << (rows - 1).bit_length()


def own_width(length: int, longest: int) -> int:
    """The width for a row: the next step above its length, so that the last token is padding if it can be.

    Steps are of 8 tokens up to 64, of an eighth of the next power of two beyond.

    >>> [own_width(length, 128) for length in (1, 7, 8, 63, 64, 100, 127, 128)]
    [8, 8, 16, 64, 80, 112, 128, 128]
    """
    step = 8
    while step * 8 <= length:
        step *= 2
    return min((length // step + 1) * step, max(longest, length))
