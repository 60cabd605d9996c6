"""Pieces in which padding is an example's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dpft.privacy.pieces import Cut, as_they_come, by_own_length, own_width, rows_of

LONGEST = 40


@st.composite
def drawn(draw: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """Lengths of all examples, who was drawn, and a token budget."""
    lengths = np.array(draw(st.lists(st.integers(1, LONGEST), min_size=1, max_size=60)), dtype=np.int32)
    chosen = draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    return lengths, np.flatnonzero(chosen), draw(st.integers(1, 600))


@given(drawn(), st.integers(0, 20))
def test_every_example_is_in_one_piece_and_the_rest_counts_for_nothing(found: Any, extra: int) -> None:
    lengths, indices, budget = found
    counted: list[int] = []
    for piece in by_own_length(lengths, LONGEST, budget, extra)(indices):
        examples = len(piece.rows) - piece.fill
        assert examples >= 1
        assert len(piece.rows) & (len(piece.rows) - 1) == 0
        assert examples > piece.fill
        assert piece.width is not None
        assert len(piece.rows) <= rows_of(piece.width, budget, extra)
        assert len(piece.rows) == 1 or len(piece.rows) * (piece.width + extra) <= budget
        assert (piece.rows[examples:] == piece.rows[0]).all()
        counted += piece.rows.tolist()[:examples]
    assert sorted(counted) == indices.tolist()


def test_few_pieces_and_few_rows_that_count_for_nothing() -> None:
    """75 rows of 16 tokens are 64 and 16, of which 5 are filled: neither 128, nor 64, 8, 2 and 1."""
    pieces = list(by_own_length(np.full(75, 10), LONGEST, 2048)(np.arange(75)))
    assert [(len(piece.rows), piece.fill) for piece in pieces] == [(64, 0), (16, 5)]
    one_token_less = list(by_own_length(np.full(75, 10), LONGEST, 64 * 16 - 1)(np.arange(75)))
    assert [(len(piece.rows), piece.fill) for piece in one_token_less] == [(32, 0), (32, 0), (16, 5)]


def widths(cut: Cut, indices: Any, lengths: Any) -> dict[int, tuple[int, bool]]:
    """Each example's width, and whether some row beside it has padding."""
    found = {}
    for piece in cut(indices):
        width = piece.width or int(lengths[piece.rows].max())
        for row in piece.rows.tolist():
            found[row] = width, bool((lengths[piece.rows] < width).any())
    return found


def depends_on_company(cut: Cut, indices: Any, lengths: Any) -> bool:
    """Whether some example goes through the model otherwise when it is drawn alone."""
    together = widths(cut, indices, lengths)
    return any(widths(cut, np.array([row]), lengths)[row] != together[row] for row in indices.tolist())


@given(drawn())
def test_padding_is_an_examples_own(found: Any) -> None:
    lengths, indices, budget = found
    assert not depends_on_company(by_own_length(lengths, LONGEST, budget), indices, lengths)


def test_planted_padding_to_the_longest_neighbour_is_seen() -> None:
    lengths = np.array([9, 3], dtype=np.int32)
    assert depends_on_company(as_they_come(lengths, 100), np.arange(2), lengths)


def test_planted_width_from_the_data_is_seen() -> None:
    """The longest text of the data in place of what all data are truncated to: a longer one moves others."""
    short, long = np.array([9], dtype=np.int32), np.array([9, 30], dtype=np.int32)
    own = [widths(by_own_length(x, int(x.max()), 100), np.array([0]), x)[0] for x in (short, long)]
    assert own[0] != own[1]
    fixed = [widths(by_own_length(x, LONGEST, 100), np.array([0]), x)[0] for x in (short, long)]
    assert fixed[0] == fixed[1]


@given(st.integers(1, 600), st.integers(1, 512))
def test_a_row_has_padding_where_there_is_room(length: int, longest: int) -> None:
    width = own_width(length, longest)
    assert width >= length
    assert width > length or length >= longest
    assert width <= max(longest, length)
    assert width <= max(8, 1.25 * (length + 1))
