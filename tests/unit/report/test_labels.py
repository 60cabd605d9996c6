"""Dots that would cover each other, and where their numbers go."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from dpft.report.labels import Box, place_labels, swarm

FRAME = Box(40, 0, 400, 260)
DOTS = st.lists(st.tuples(st.floats(46, 390), st.floats(20, 240), st.floats(0, 30)), min_size=1, max_size=15)


@given(DOTS)
def test_no_number_covers_a_dot_or_another_number(found: list[tuple[float, float, float]]) -> None:
    dots = [(x, y, y - reach, y + reach) for x, y, reach in found]
    labels = place_labels(dots, [str(number + 1) for number in range(len(dots))], FRAME)
    boxes = [
        Box(label.x - 3, label.y - 8, label.x + 3, label.y) for label in labels if label is not None
    ]  # a little smaller than was kept free
    assert not any(one.covers(other) for one, other in combinations(boxes, 2))
    marks = [Box(x - 5, y - 5, x + 5, y + 5) for x, y, _, _ in dots]
    assert not any(box.covers(mark) for box in boxes for mark in marks)
    assert all(FRAME.holds(box) for box in boxes)


def test_a_dot_alone_is_numbered_above_its_interval() -> None:
    (label,) = place_labels([(100, 100, 80, 120)], ["7"], FRAME)
    assert label is not None
    assert label.x == 100
    assert 60 < label.y < 80


def test_where_there_is_no_room_there_is_no_number() -> None:
    labels = place_labels([(100, 100, 100, 100)] * 9, ["10"] * 9, FRAME)
    assert labels.count(None) == 9 - 4


@given(DOTS, st.floats(0, 30))
def test_no_dot_goes_astray(found: list[tuple[float, float, float]], most: float) -> None:
    dots = [(x, y - reach, y + reach) for x, y, reach in found]
    for moved, (x, _, _) in zip(swarm(dots, most, 46, 390), dots, strict=True):
        assert abs(moved - x) <= most + 0.051  # places are rounded to a tenth
        assert 45.9 <= moved <= 390.1


def test_only_dots_of_about_the_same_height_move() -> None:
    apart = [(100.0, 20.0 * number, 20.0 * number + 10) for number in range(9)]
    assert swarm(apart, 18, 0, 400) == [100.0] * 9
    together = swarm([(100.0, 50.0, 60.0)] * 3, 18, 0, 400)
    assert min(abs(one - other) for one, other in combinations(together, 2)) >= 11.5
