"""The one place that prints: results on stdout; progress, warnings and errors on stderr.

Consoles are made for each call, from what the streams are then. On a terminal there are colours and panels;
elsewhere, or with ``NO_COLOR``, plain text without escape codes, as wide as it needs to be.
"""

from __future__ import annotations

import json
import os
import sys
import traceback as tracebacks
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dpft.cli.views.resumable import resume_command
from dpft.cli.wording import (
    NONE,
    duration,
    expected,
    file_size,
    ledger_effect,
    number_of_examples,
    one_line,
    privacy,
    score,
)
from dpft.runs.statement import round_up_epsilon

if TYPE_CHECKING:
    from dpft.data.prepare import PreparedData
    from dpft.export import ExportReport
    from dpft.runs.record import RunRecord
    from dpft.training.evaluation import Evaluation
    from dpft.training.observer import RunFacts

__all__ = [
    "document",
    "environment",
    "error",
    "evaluation",
    "exported",
    "ids",
    "new_table",
    "panel",
    "plainly",
    "plans",
    "prepared",
    "score_rows",
    "status_text",
    "stderr",
    "stdout",
    "summary",
    "summary_table",
    "traceback",
    "warning",
]

_PANEL_WIDTH = 100
_ANY_WIDTH = 10_000
_STATUS_STYLES = {
    "completed": "green",
    "running": "cyan",
    "interrupted": "yellow",
    "failed": "red",
    "crashed": "red",
    "planned": "cyan",
}
_UNKNOWN = "?"


def stdout() -> Console:
    """The console for results."""
    return _console(sys.stdout)


def stderr() -> Console:
    """The console for progress, warnings and errors."""
    return _console(sys.stderr)


def _console(stream: IO[str]) -> Console:
    """What a stream deserves; ``FORCE_COLOR`` alone would make Rich think that any stream is a terminal."""
    terminal = stream.isatty()
    plain = not terminal or bool(os.environ.get("NO_COLOR"))
    return Console(
        file=stream,
        force_terminal=terminal,
        force_interactive=terminal,
        color_system=None if plain else "auto",
        width=None if terminal else _ANY_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def document(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def ids(values: Iterable[str]) -> None:
    """Print one a line."""
    sys.stdout.writelines(f"{value}\n" for value in values)


def error(kind: str, message: str, hint: str, exit_code: int, *, as_json: bool) -> None:
    """Print an error: one line and a hint on stderr, or a JSON document on stdout."""
    message, hint = one_line(message), one_line(hint)
    if as_json:
        document({"error": {"type": kind, "message": message, "hint": hint, "exit_code": exit_code}})
        return
    console = stderr()
    console.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    if hint:
        console.print(Text.assemble(("hint: ", "bold cyan"), hint), soft_wrap=True)


def warning(message: str) -> None:
    """Print a warning on stderr."""
    stderr().print(Text.assemble(("warning: ", "bold yellow"), one_line(message)), soft_wrap=True)


def traceback(problem: BaseException) -> None:
    """Print where an error came from, without any local variable: they hold private text."""
    sys.stderr.write("".join(tracebacks.format_exception(problem)))


def prepared(datasets: Sequence[PreparedData]) -> None:
    """Rows, truncation and cache entry of each dataset."""
    table = new_table("dataset", "split", ">rows", ">truncated")
    for data in datasets:
        for position, (name, split) in enumerate(data.splits.items()):
            share = f"{split.truncated:,} ({split.truncated / split.rows:.1%})" if split.truncated else "0"
            table.add_row(data.task.name if position == 0 else "", name, f"{split.rows:,}", share)
    console = stdout()
    plainly(console, table)
    console.print()
    for data in datasets:
        how = "found in the cache" if data.cached else "new in the cache"
        console.print(Text.assemble((data.task.name, "bold"), f": at most {data.max_length} tokens, {how}"))
        console.print(Text(f"  {data.cache_key}", "dim"))


def plans(facts: Sequence[RunFacts]) -> None:
    """What would run."""
    console = stdout()
    for fact in facts:
        rows: list[tuple[str, RenderableType]] = [
            ("model", fact.model),
            ("trains", f"{fact.trainable_parameters:,} of {fact.all_parameters:,} parameters"),
            ("data", number_of_examples(fact)),
            (
                "steps",
                f"{fact.steps:,} of {fact.expected_batch_size:,} examples"
                + (" (expected)" if fact.private else ""),
            ),
            ("learning rate", f"{fact.learning_rate:g}"),
        ]
        if fact.private:
            rows += [
                ("noise", f"σ {fact.noise_multiplier:.4f}, clipping norm C {fact.max_grad_norm:g}"),
                ("sample rate", f"q {fact.sample_rate:.6g}"),
            ]
        rows.append(("privacy", privacy(fact.private, fact.planned_epsilon, fact.delta)))
        if fact.estimate is not None:
            rows.append(("expected", expected(fact.estimate)))
        if fact.ledger is not None:
            rows.append(("ledger", ledger_effect(fact.ledger, private=fact.private)))
        title = Text.assemble((fact.dataset, "bold"), f" · {fact.finetune_mode} · ", ("planned", "cyan"))
        panel(console, title, rows)
    console.print(Text("Nothing was trained.", "dim"))


def summary(record: RunRecord) -> None:
    """How a run ended, and what to do next."""
    console = stdout()
    rows: list[tuple[str, RenderableType]] = [*score_rows(record.metrics, record.baselines)]
    if not rows:
        rows.append(("accuracy", Text("not scored: it ended before its first epoch did", "yellow")))
    rows.append(("privacy", privacy(record.private, record.epsilon, record.delta, record.steps)))
    if record.noise_multiplier is not None and record.sample_rate is not None:
        rows.append(("noise", f"σ {record.noise_multiplier:.4f}, sample rate q {record.sample_rate:.6g}"))
    rows.append(("steps", f"{record.steps:,} of {record.steps_planned or 0:,} in {duration(record.seconds)}"))
    if record.trainable_parameters is not None:
        rows.append(("trained", f"{record.trainable_parameters:,} parameters"))
    rows.append(("run", f"{record.run_id[:8]}, in {record.run_dir}"))
    following = [f"dpft eval {record.name}", f"dpft export {record.name}"] if record.steps else []
    following += filter(None, [resume_command(record)])
    if following:
        rows.append(("next", Text("\n".join(following), "cyan")))
    title = Text.assemble(
        (record.name, "bold"), f" · {record.dataset} · {record.finetune_mode} · ", status_text(record)
    )
    panel(console, title, rows)


def summary_table(records: Sequence[RunRecord]) -> None:
    """Several runs side by side."""
    table = new_table("run", "dataset", ">accuracy", ">majority", ">ε", "status")
    for record in records:
        table.add_row(
            Text(record.name, "bold"),
            record.dataset,
            score(record.metrics.get("accuracy")),
            score(record.baselines.get("majority")),
            _epsilon_cell(record),
            status_text(record),
        )
    plainly(stdout(), table)


def evaluation(name: str, where: str, found: Evaluation) -> None:
    """Scores, and what a constant answer would get."""
    rows = score_rows(
        found.metrics,
        {"majority": found.majority},
        interval=found.confidence_interval,
        collapsed=found.collapsed,
    )
    rows.append(("rows", f"{found.rows:,}"))
    panel(stdout(), Text.assemble((name, "bold"), f" on {where}"), rows)


def exported(report: ExportReport, name: str) -> None:
    """What was written, and how exactly it computes what the run computes."""
    rows: list[tuple[str, RenderableType]] = [
        ("path", str(report.path)),
        ("files", "\n".join(f"{entry.name}  {file_size(entry.size)}" for entry in report.files)),
        ("checked", f"loaded afresh: logits differ by at most {report.max_logit_difference:.3g}"),
    ]
    if report.format == "peft" and not any(e.name.endswith("adapter_config.json") for e in report.files):
        rows.append(
            ("note", "this mode has no adapter: a whole model, which transformers loads without peft")
        )
    panel(stdout(), Text.assemble((name, "bold"), f" · exported as {report.format}"), rows)


def environment(places: Mapping[str, str], versions: Mapping[str, str]) -> None:
    """Where things are kept, and what is installed."""
    console = stdout()
    for name, place in places.items():
        console.print(f"{name}={place}", soft_wrap=True)
    console.print()
    grid = Table.grid(padding=(0, 2))
    for name, version in versions.items():
        grid.add_row(name, version)
    plainly(console, grid)


def score_rows(
    metrics: Mapping[str, float | None],
    baselines: Mapping[str, float | None],
    *,
    interval: tuple[float, float] | None = None,
    collapsed: bool = False,
) -> list[tuple[str, RenderableType]]:
    """Labelled scores, what a constant answer would get, and a warning where that is no worse."""
    rows: list[tuple[str, RenderableType]] = []
    majority = baselines.get("majority")
    for name, value in metrics.items():
        text = Text(score(value), "bold")
        if name == "accuracy" and interval is not None:
            text.append(f"  (95% interval {interval[0]:.4f} to {interval[1]:.4f})", "not bold")
        rows.append((name, text))
    if metrics and majority is not None:
        rows.append(("majority", f"{majority:.4f}  (always answering the most frequent label)"))
    accuracy = metrics.get("accuracy")
    if collapsed:
        rows.append(
            ("warning", Text("every answer is the same label: the model has learnt nothing", "bold yellow"))
        )
    elif accuracy is not None and majority is not None and not accuracy > majority:
        rows.append(("warning", Text("not better than always giving the most frequent label", "bold yellow")))
    elif interval is not None and majority is not None and not interval[0] > majority:
        rows.append(
            ("warning", Text("not clearly better than always giving the most frequent label", "yellow"))
        )
    return rows


def _epsilon_cell(record: RunRecord) -> Text:
    if not record.private:
        return Text(NONE, "yellow")
    return Text(_UNKNOWN if record.epsilon is None else round_up_epsilon(record.epsilon))


def status_text(record: RunRecord) -> Text:
    """A run's status, in its colour."""
    return Text(record.status, _STATUS_STYLES[record.status])


def panel(console: Console, title: Text, rows: Iterable[tuple[str, RenderableType]]) -> None:
    """Labelled lines: in a frame on a terminal, indented elsewhere."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label if console.is_terminal else f"  {label}", value)
    if console.is_terminal:
        width = min(console.width, _PANEL_WIDTH)
        fits = title.cell_len <= width - 6
        content: RenderableType = grid if fits else Group(title, grid)  # above the rows, rather than cut off
        heading = title if fits else None
        console.print(Panel(content, title=heading, title_align="left", border_style="dim", width=width))
    else:
        console.print(title)
        plainly(console, grid)


def plainly(console: Console, table: Table) -> None:
    """Print a table; off a terminal without the blanks that fill its cells."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    console.file.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def new_table(*heads: str, gap: int = 2) -> Table:
    """A table without rules; a head that begins with ``>`` is of a column of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(
            head.removeprefix(">"), justify="right" if head.startswith(">") else "left", no_wrap=True
        )
    return table
