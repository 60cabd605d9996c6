"""A run's progress on stderr: a bar on a terminal, lines at intervals elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

from dpft.cli import render
from dpft.cli.wording import duration, number_of_examples, privacy
from dpft.runs.statement import round_up_epsilon
from dpft.training.observer import Observer, RunFacts
from dpft.training.observer import Progress as Reached

__all__ = ["TrainingView"]

_LINES = 10  # plain lines per run, besides those at the ends of epochs
_SILENCE = 300.0  # seconds, at most, between plain lines of a run that goes on
_NARROW, _WIDE = 70, 110


class TrainingView(Observer):
    """Shows one run; a context manager, so that the terminal is left tidy however the run ends.

    Args:
        title: what comes before a run's first line, such as "2 of 3"; may be empty.
        quiet: show warnings only.
    """

    def __init__(self, title: str = "", *, quiet: bool = False) -> None:
        self._console = render.stderr()
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._title = title
        self._quiet = quiet
        self._status: Status | None = None
        self._bar: Progress | None = None
        self._accuracy: float | None = None
        self._shown = 0
        self._before = 0
        self._told = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def working(self, what: str) -> None:
        """Say what takes a while."""
        if self._quiet:
            return
        if not self._live:
            self._console.print(Text(f"{what} …"))
        elif self._status is None:
            self._status = self._console.status(Text(f"{what} …"))
            self._status.start()
        else:
            self._status.update(Text(f"{what} …"))

    def started(self, facts: RunFacts) -> None:
        """Say what begins, and show the bar."""
        self._stop()
        self._before = facts.steps_taken
        self._shown = facts.steps_taken * _LINES // facts.steps
        self._told = 0.0
        if self._quiet:
            return
        self._say(facts)
        if self._live:
            self._bar = Progress(*_columns(self._console.width), console=self._console, transient=True)
            self._bar.add_task("", total=facts.steps, completed=facts.steps_taken, epsilon="", accuracy="")
            self._bar.start()

    def progressed(self, progress: Reached) -> None:
        """Move the bar; or write a line at every tenth of the way, every epoch's end, and every 5 minutes."""
        self._accuracy = progress.metrics.get("accuracy", self._accuracy)
        epsilon = "" if progress.epsilon is None else f"ε {round_up_epsilon(progress.epsilon)}"
        accuracy = "" if self._accuracy is None else f"accuracy {self._accuracy:.4f}"
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=progress.step, epsilon=epsilon, accuracy=accuracy
            )
            return
        tenth = progress.step * _LINES // progress.steps
        silent = progress.seconds - self._told < _SILENCE
        if self._quiet or (tenth == self._shown and not progress.metrics and silent):
            return
        self._shown, self._told = tenth, progress.seconds
        rate = (progress.step - self._before) / progress.seconds if progress.seconds > 0 else 0.0
        left = f"{duration((progress.steps - progress.step) / rate)} left" if rate else ""
        width = len(str(progress.steps))
        parts = [
            f"step {progress.step:{width}}/{progress.steps}",
            f"{progress.step / progress.steps:4.0%}",
            _rate(rate),
            left,
            epsilon,
            accuracy,
        ]
        self._console.print(Text("  ".join(part for part in parts if part)))

    def warned(self, message: str) -> None:
        """Show a warning, above the bar if there is one."""
        self._console.print(Text.assemble(("warning: ", "bold yellow"), message), soft_wrap=True)

    def stopping(self) -> None:
        """Say that Ctrl-C was heard."""
        self._stop()
        self.working("stopping: saving what was trained")

    def _say(self, facts: RunFacts) -> None:
        head = Text.assemble(
            (facts.name, "bold"), f": {facts.finetune_mode} on {facts.model}, {facts.dataset}"
        )
        if self._title:
            head.append(f" ({self._title})")
        lines = [
            head,
            Text(
                f"{number_of_examples(facts)}, {facts.steps:,} steps of {facts.expected_batch_size:,}; "
                f"{facts.trainable_parameters:,} of {facts.all_parameters:,} parameters train"
            ),
        ]
        if facts.private:
            noise = f"σ {facts.noise_multiplier:.4f}, C {facts.max_grad_norm:g}: "
            lines.append(Text(noise) + privacy(True, facts.planned_epsilon, facts.delta))
        else:
            lines.append(Text("without differential privacy", "yellow"))
        if facts.steps_taken:
            lines.append(Text(f"goes on after step {facts.steps_taken:,}"))
        for line in lines:
            self._console.print(line)

    def _stop(self) -> None:
        if self._status is not None:
            self._status.stop()
        if self._bar is not None:
            self._bar.stop()
        self._status = self._bar = None


class _RateColumn(ProgressColumn):
    """Steps per second, or seconds per step where that is the larger number."""

    def render(self, task: Task) -> Text:
        """The rate over the last steps."""
        return Text(_rate(task.speed or 0.0), "dim")


def _rate(rate: float) -> str:
    if rate <= 0:
        return ""
    return f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step"


def _columns(width: int) -> list[ProgressColumn]:
    """Bar, steps, rate, time left, ε so far, latest accuracy; less of it where there is no room."""
    narrow = width < _NARROW
    columns: list[ProgressColumn] = [
        BarColumn(bar_width=10 if narrow else 20 if width < _WIDE else 40),
        TextColumn("{task.completed}/{task.total}"),
        _RateColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[epsilon]}"),
        TextColumn("{task.fields[accuracy]}", style="green"),
    ]
    return [column for column in columns if not (narrow and isinstance(column, _RateColumn))]
