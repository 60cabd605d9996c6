"""Where dots and their numbers go, so that they do not cover each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Box", "Label", "place_labels", "swarm"]

_DIGIT, _HEIGHT = 7.2, 11.0  # of a number in the chart's type
_DOT = 5.5  # half a dot's width
_APART = 12.0  # of two dots beside each other
_STEP = 1.5  # in which places beside are tried
_EXACTNESS = 0.02  # what a step away costs, beside what an overlap of as much does


@dataclass(frozen=True)
class Box:
    """A rectangle, its y growing downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: Box) -> bool:
        """Whether the two have a part in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies inside."""
        return (
            self.left <= other.left
            and self.right >= other.right
            and self.top <= other.top
            and self.bottom >= other.bottom
        )


@dataclass(frozen=True)
class Label:
    """The middle of a number's base line."""

    x: float
    y: float


def place_labels(
    dots: Sequence[tuple[float, float, float, float]], texts: Sequence[str], frame: Box
) -> list[Label | None]:
    """Find room for each dot's number: above its interval, below it, to the right, or to the left.

    Args:
        dots: x, y, top and bottom of each, its interval included.
        texts: their numbers.
        frame: what all stays inside.

    Returns:
        A place for each; None where there is no room left.
    """
    taken = [Box(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y, _, _ in dots]
    found: list[Label | None] = []
    for dot, text in zip(dots, texts, strict=True):
        for label in _candidates(dot, len(text) * _DIGIT / 2):
            box = _box(label, len(text) * _DIGIT / 2)
            if frame.holds(box) and not any(box.covers(other) for other in taken):
                taken.append(box)
                found.append(label)
                break
        else:
            found.append(None)
    return found


def _candidates(dot: tuple[float, float, float, float], half: float) -> Iterator[Label]:
    x, y, top, bottom = dot
    beside, middle = _DOT + 2 + half, y + _HEIGHT / 2 - 2
    yield Label(round(x, 1), round(min(top, y - _DOT) - 4, 1))
    yield Label(round(x, 1), round(max(bottom, y + _DOT) + _HEIGHT, 1))
    yield Label(round(x + beside, 1), round(middle, 1))
    yield Label(round(x - beside, 1), round(middle, 1))


def _box(label: Label, half: float) -> Box:
    return Box(label.x - half, label.y - _HEIGHT + 2, label.x + half, label.y + 1)


def swarm(dots: Sequence[tuple[float, float, float]], most: float, left: float, right: float) -> list[float]:
    """Move dots sideways where they would cover others of about the same height, and nowhere else.

    Args:
        dots: x, top and bottom of each, its interval included.
        most: no dot goes further from its place.
        left: nor beyond this edge.
        right: nor beyond this one.

    Returns:
        The new x of each.

    >>> swarm([(50, 10, 20), (50, 15, 25), (50, 80, 90)], 20, 0, 100)
    [50.0, 38.0, 50.0]
    """
    placed: list[tuple[float, float, float]] = []
    for x, top, bottom in dots:
        near = [other for other, upper, lower in placed if top <= lower and upper <= bottom]
        places = [x + sign * _STEP * count for count in range(int(most / _STEP) + 1) for sign in (-1, 1)]
        inside = [place for place in places if left <= place <= right] or [min(max(x, left), right)]

        def cost(place: float, x: float = x, near: Sequence[float] = near) -> float:
            return sum(max(0.0, _APART - abs(place - other)) for other in near) + _EXACTNESS * abs(place - x)

        placed.append((round(float(min(inside, key=cost)), 1), top, bottom))
    return [place for place, _, _ in placed]
