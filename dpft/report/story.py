"""A report's order: which runs, dataset by dataset, and the charts of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dpft import __version__
from dpft.report.charts import Panel, Scatter, learning, scatter, spent
from dpft.report.gather import ReportedRun
from dpft.report.words import short_epsilon

__all__ = ["CAUTIONS", "Curve", "Group", "Story", "tell"]

CAUTIONS = (
    "Each ε speaks of its run alone. Runs on the same data compose: whoever sees several, or the best, "
    "learns more than any one ε allows; 'dpft budget' composes them.",
    "Accuracy is measured on the validation split, exactly: it is not covered by ε.",
    "What stands here was stated when the runs ended; 'dpft verify' recomputes it.",
)


@dataclass(frozen=True)
class Curve:
    """One run's small chart."""

    run: ReportedRun
    panel: Panel


@dataclass(frozen=True)
class Group:
    """The runs on one dataset.

    Attributes:
        dataset: its name.
        runs: in the report's order.
        scatter: privacy against accuracy; None where nothing can be drawn.
        undrawn: which runs are not in it, and why.
        learning: validation accuracy over steps, of the runs that were scored.
    """

    dataset: str
    runs: tuple[ReportedRun, ...]
    scatter: Scatter | None
    undrawn: tuple[str, ...]
    learning: tuple[Curve, ...]


@dataclass(frozen=True)
class Story:
    """All that a report says, in its order.

    Attributes:
        runs: all of them, numbered.
        chosen: which they are, in a sentence.
        groups: by dataset, in the order of their newest runs.
        spending: ε over steps, of the runs that claim one.
        made: the day, UTC.
        version: of dpft.
    """

    runs: tuple[ReportedRun, ...]
    chosen: str
    groups: tuple[Group, ...]
    spending: tuple[Curve, ...]
    made: str
    version: str = __version__

    @property
    def private(self) -> int:
        """How many runs claim an ε."""
        return sum(run.epsilon is not None for run in self.runs)

    @property
    def unfinished(self) -> bool:
        """Whether any run is not completed."""
        return any(run.record.status != "completed" for run in self.runs)


def tell(runs: Sequence[ReportedRun], chosen: str, now: datetime | None = None) -> Story:
    """Arrange runs for a report.

    Args:
        runs: numbered, at least one.
        chosen: which they are, in a sentence.
        now: the moment; None for this one.
    """
    by_dataset: dict[str, list[ReportedRun]] = {}
    for run in runs:
        by_dataset.setdefault(run.record.dataset, []).append(run)
    return Story(
        runs=tuple(runs),
        chosen=chosen,
        groups=tuple(_group(dataset, members) for dataset, members in by_dataset.items()),
        spending=tuple(Curve(run, panel) for run in runs if (panel := spent(run, runs)) is not None),
        made=(now or datetime.now(UTC)).strftime("%Y-%m-%d"),
    )


def _group(dataset: str, runs: Sequence[ReportedRun]) -> Group:
    return Group(
        dataset=dataset,
        runs=tuple(runs),
        scatter=scatter(runs),
        undrawn=tuple(reason for run in runs if (reason := _why_undrawn(run)) is not None),
        learning=tuple(Curve(run, panel) for run in runs if (panel := learning(run, runs)) is not None),
    )


def _why_undrawn(run: ReportedRun) -> str | None:
    if run.accuracy is None:
        return f"{run.number} (not scored)"
    if run.record.private and run.epsilon is None:
        return f"{run.number} ({short_epsilon(run)})"
    return None
