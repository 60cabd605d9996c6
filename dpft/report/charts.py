"""The charts as numbers: where each dot, line and label goes. Templates draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dpft.report.gather import ReportedRun
from dpft.report.labels import Box, Label, place_labels, swarm
from dpft.report.scales import Axis, linear, logarithmic, whole
from dpft.runs.statement import round_up_epsilon

__all__ = ["Dot", "Panel", "Scatter", "Shape", "Whisker", "learning", "scatter", "share", "spent"]

_WIDTH, _HEIGHT = 400.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 16.0, 40.0
_ASTRAY = 12.0  # a dot stands no further from its ε
_WIDE = 30.0  # a ratio of ε's that a linear axis does not show
_PANEL_WIDTH, _PANEL_HEIGHT = 260.0, 150.0
_PANEL_LEFT, _PANEL_RIGHT, _PANEL_TOP, _PANEL_BOTTOM = 40.0, 12.0, 14.0, 32.0

_DIAMOND = "M0-6 6 0 0 6-6 0Z"
_CIRCLE = "M-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0-9.2 0Z"


@dataclass(frozen=True)
class Shape:
    """A kind of dot.

    Attributes:
        path: around (0, 0).
        kind: the name of its colour.
        meaning: for the legend.
    """

    path: str
    kind: str
    meaning: str


PRIVATE = Shape(_CIRCLE, "private", "with differential privacy")
ORDINARY = Shape(_DIAMOND, "ordinary", "without privacy")


@dataclass(frozen=True)
class Whisker:
    """An interval: x, and the y of its ends."""

    x: float
    low: float
    high: float


@dataclass(frozen=True)
class Dot:
    """One run in a chart.

    Attributes:
        x: place.
        y: place.
        number: the run's.
        label: where the number stands; None where there is no room for it.
        shape: what is drawn.
        whisker: its interval, where there is one.
        title: all of it in words.
    """

    x: float
    y: float
    number: int
    label: Label | None
    shape: Shape
    whisker: Whisker | None
    title: str


@dataclass(frozen=True)
class Scatter:
    """ε across, accuracy up.

    Attributes:
        width: of the drawing.
        height: likewise.
        x: axis of ε; None if no run has one.
        y: axis of accuracy.
        dots: one for each run.
        baselines: places of the majority baselines.
        majorities: what they are.
        divide: left edge of the strip for runs without privacy; None where there is none.
        moved: whether dots stand beside their place, so as not to cover each other.
    """

    width: float
    height: float
    x: Axis | None
    y: Axis
    dots: tuple[Dot, ...]
    baselines: tuple[float, ...]
    majorities: tuple[str, ...]
    divide: float | None
    moved: bool

    @property
    def unnumbered(self) -> int:
        """How many dots have no room for their number."""
        return sum(dot.label is None for dot in self.dots)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What the legend explains."""
        return tuple(shape for shape in (PRIVATE, ORDINARY) if any(dot.shape is shape for dot in self.dots))


@dataclass(frozen=True)
class Panel:
    """A small chart of one run: something over its steps.

    Attributes:
        width: of the drawing.
        height: likewise.
        x: axis of steps.
        y: axis of the quantity.
        points: places.
        band: outline of the 95% interval, as an SVG path; empty where there is none.
        baseline: place of the majority baseline.
        end: the last value, as a label.
    """

    width: float
    height: float
    x: Axis
    y: Axis
    points: tuple[tuple[float, float], ...]
    band: str
    baseline: float | None
    end: str

    @property
    def line(self) -> str:
        """The points as SVG writes them."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.points)


def share(value: float) -> str:
    """An accuracy for people: 4 decimals, as everywhere."""
    return f"{value:.4f}"


def scatter(runs: Sequence[ReportedRun]) -> Scatter | None:
    """Privacy against accuracy, for runs on one dataset.

    Args:
        runs: those without an accuracy, and private ones without a valid ε, are not drawn.

    Returns:
        The chart; None if there is nothing to draw.
    """
    claimed = [
        run for run in runs if run.accuracy is not None and run.record.private and run.epsilon is not None
    ]
    ordinary = [run for run in runs if run.accuracy is not None and not run.record.private]
    if not claimed and not ordinary:
        return None
    both = [*claimed, *ordinary]
    right = _WIDTH - _RIGHT
    strip = min(130.0, max(74.0, (len(ordinary) + 1) * 14.0)) if ordinary else 0.0
    if not claimed:
        strip = right - _LEFT
    divide = right - strip if ordinary and claimed else None
    y = _accuracy_axis(both, _HEIGHT - _BOTTOM, _TOP + 12, ticks=6)
    x, end = None, right
    if claimed:
        end = (divide if divide is not None else right) - _ASTRAY - 6
        x = _epsilon_axis([run.epsilon or 0.0 for run in claimed], end)
    exact = [x.at(run.epsilon or 0.0) for run in claimed] if x is not None else []
    places = swarm(_bodies(claimed, exact, y), _ASTRAY, _LEFT, end + _ASTRAY)
    centre = [right - strip / 2] * len(ordinary)
    beside = swarm(_bodies(ordinary, centre, y), strip / 2, right - strip + 8, right - 8)
    pairs = sorted(zip(both, [*places, *beside], strict=True), key=lambda pair: pair[0].number)
    dots = _numbered([_dot(run, place, y) for run, place in pairs])
    majorities = sorted({run.majority for run in both if run.majority is not None})
    return Scatter(
        width=_WIDTH,
        height=_HEIGHT,
        x=x,
        y=y,
        dots=dots,
        baselines=tuple(y.at(value) for value in majorities),
        majorities=tuple(share(value) for value in majorities),
        divide=divide,
        moved=any(abs(new - old) > 2 for new, old in zip(places, exact, strict=True)),
    )


def _bodies(
    runs: Sequence[ReportedRun], places: Sequence[float], y: Axis
) -> list[tuple[float, float, float]]:
    """x, top and bottom of each dot, before it is drawn."""
    bodies = []
    for run, x in zip(runs, places, strict=True):
        low, high = run.interval or (run.accuracy or 0.0,) * 2
        bodies.append(
            (x, min(y.at(high), y.at(run.accuracy or 0.0) - 5), max(y.at(low), y.at(run.accuracy or 0.0) + 5))
        )
    return bodies


def _dot(run: ReportedRun, x: float, y: Axis) -> Dot:
    accuracy = run.accuracy or 0.0
    bounds = run.interval
    whisker = None if bounds is None else Whisker(x, y.at(bounds[0]), y.at(bounds[1]))
    words = f"{run.number}: {run.record.name}, {run.record.finetune_mode}, accuracy {share(accuracy)}"
    if bounds is not None:
        words += f" (95% interval {share(bounds[0])} to {share(bounds[1])})"
    words += f", ε ≤ {round_up_epsilon(run.epsilon)}" if run.epsilon is not None else ", without privacy"
    return Dot(
        x=x,
        y=y.at(accuracy),
        number=run.number,
        label=None,
        shape=PRIVATE if run.record.private else ORDINARY,
        whisker=whisker,
        title=words,
    )


def _numbered(dots: Sequence[Dot]) -> tuple[Dot, ...]:
    bodies = [
        (dot.x, dot.y, dot.whisker.high if dot.whisker else dot.y, dot.whisker.low if dot.whisker else dot.y)
        for dot in dots
    ]
    frame = Box(_LEFT, 0, _WIDTH, _HEIGHT - _BOTTOM)
    labels = place_labels(bodies, [str(dot.number) for dot in dots], frame)
    return tuple(replace(dot, label=label) for dot, label in zip(dots, labels, strict=True))


def _epsilon_axis(epsilons: Sequence[float], end: float) -> Axis:
    if min(epsilons) > 0 and max(epsilons) > _WIDE * min(epsilons):
        return logarithmic(epsilons, _LEFT, end, ticks=6)
    return linear(epsilons, _LEFT, end, ticks=5, zero=True)


def _accuracy_axis(runs: Sequence[ReportedRun], start: float, end: float, *, ticks: int) -> Axis:
    """Of everything that charts of these runs show: so that charts of one dataset can be compared."""
    values = [
        value
        for run in runs
        for value in (run.accuracy, run.majority, *(run.interval or ()))
        if value is not None
    ]
    for run in runs:
        for score in run.scores:
            values += [value for value in (score.accuracy, *(score.interval or ())) if value is not None]
    return linear(values, start, end, ticks=ticks, top=1.0)


def learning(run: ReportedRun, together: Sequence[ReportedRun]) -> Panel | None:
    """Validation accuracy over the steps of a run.

    Args:
        run: the run.
        together: all runs on its dataset, which share an axis.

    Returns:
        The chart; None if it was never scored.
    """
    scores = [score for score in run.scores if score.accuracy is not None]
    if not scores:
        return None
    drawn = [other for other in together if other.scores or other.accuracy is not None]
    x = _steps_axis(max(run.record.steps, scores[-1].step, 1))
    y = _accuracy_axis(drawn, _PANEL_HEIGHT - _PANEL_BOTTOM, _PANEL_TOP, ticks=4)
    points = tuple((x.at(score.step), y.at(score.accuracy or 0.0)) for score in scores)
    bounds = [(x.at(score.step), score.interval) for score in scores if score.interval is not None]
    upper = [f"{place:g} {y.at(ends[1]):g}" for place, ends in bounds]
    lower = [f"{place:g} {y.at(ends[0]):g}" for place, ends in reversed(bounds)]
    return Panel(
        width=_PANEL_WIDTH,
        height=_PANEL_HEIGHT,
        x=x,
        y=y,
        points=points,
        band=f"M{' L'.join([*upper, *lower])}Z" if bounds else "",
        baseline=y.at(run.majority) if run.majority is not None else None,
        end=share(scores[-1].accuracy or 0.0),
    )


def spent(run: ReportedRun, together: Sequence[ReportedRun]) -> Panel | None:
    """ε over the steps of a run.

    Args:
        run: the run.
        together: all runs that share its axis.

    Returns:
        The chart; None if no ε is claimed, or no step was taken.
    """
    if not run.spent:
        return None
    x = _steps_axis(max(run.spent[-1].step, 1))
    most = [point.epsilon for other in together for point in other.spent]
    y = linear(most, _PANEL_HEIGHT - _PANEL_BOTTOM, _PANEL_TOP, ticks=4, zero=True)
    return Panel(
        width=_PANEL_WIDTH,
        height=_PANEL_HEIGHT,
        x=x,
        y=y,
        points=tuple((x.at(point.step), y.at(point.epsilon)) for point in run.spent),
        band="",
        baseline=None,
        end=f"ε ≤ {round_up_epsilon(run.spent[-1].epsilon)}",
    )


def _steps_axis(steps: int) -> Axis:
    return whole(steps, _PANEL_LEFT, _PANEL_WIDTH - _PANEL_RIGHT, ticks=4)
