"""What ``dpft compare`` prints."""

from __future__ import annotations

import csv as comma_separated
import io
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from dpft.cli.render import new_table, plainly, stdout
from dpft.cli.views.columns import head, plain
from dpft.cli.wording import NONE, one_line
from dpft.runs.fields import FIELDS

if TYPE_CHECKING:
    from dpft.runs.comparison import Row
    from dpft.runs.record import RunRecord

__all__ = ["csv", "markdown", "table"]

_WIDEST = 40
_EPSILONS = ("replace_one_epsilon", "second_epsilon")


def table(records: Sequence[RunRecord], rows: Sequence[Row], *, equal: int, note: str) -> None:
    """Fields downwards, runs across; as many runs beside each other as fit, the others below.

    Args:
        records: the runs.
        rows: to show.
        equal: how many more rows there are, in which the runs are equal.
        note: on what is not marked.
    """
    console = stdout()
    for number, part in enumerate(_parts(console, records, rows)):
        if number:
            console.print()
        shown = new_table("", *(_name(records[position]) for position in part))
        for row in rows:
            shown.add_row(Text(head(row.field), "dim"), *(_cell(row, position) for position in part))
        plainly(console, shown)
    if not rows:
        console.print(Text("the runs do not differ", "dim"))
    if any(row.best for row in rows):
        console.print(Text("* best", "dim"))
    if note:
        console.print(Text(note, "dim"))
    if equal:
        console.print(Text(f"{equal} equal rows not shown: --all", "dim"))


def csv(records: Sequence[RunRecord], rows: Sequence[Row]) -> None:
    """Full precision; an empty cell where a run has no value."""
    buffer = io.StringIO()
    writer = comma_separated.writer(buffer, lineterminator="\n")
    writer.writerow(["field", *(record.name for record in records)])
    for row in rows:
        values = (" ".join(value) if isinstance(value, list) else value for value in row.values)
        writer.writerow([row.field, *("" if value is None else value for value in values)])
    sys.stdout.write(buffer.getvalue())


def markdown(records: Sequence[RunRecord], rows: Sequence[Row]) -> None:
    """For a pull request: the best in bold."""
    lines = [["", *(_name(record) for record in records)], ["---"] * (len(records) + 1)]
    for row in rows:
        cells = [_words(row, position) for position in range(len(records))]
        bold = [f"**{text}**" if position in row.best else text for position, text in enumerate(cells)]
        lines.append([head(row.field), *bold])
    for line in lines:
        sys.stdout.write("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n")


def _parts(console: Console, records: Sequence[RunRecord], rows: Sequence[Row]) -> Iterator[list[int]]:
    """Positions of runs, in groups that fit the width."""
    first = max([Text(head(row.field)).cell_len for row in rows], default=0)
    part: list[int] = []
    room = console.width - first
    for position, record in enumerate(records):
        cells = [Text(_name(record)), *(_cell(row, position) for row in rows)]
        width = 2 + max(cell.cell_len for cell in cells)
        if part and width > room:
            yield part
            part, room = [], console.width - first
        part.append(position)
        room -= width
    yield part


def _name(record: RunRecord) -> str:
    return one_line(record.name)


def _cell(row: Row, position: int) -> Text:
    words = _words(row, position)
    if len(words) > _WIDEST:
        words = f"{words[: _WIDEST - 1]}…"
    return Text(f"{words} *", "bold green") if position in row.best else Text(words)


def _words(row: Row, position: int) -> str:
    value = row.values[position]
    if isinstance(value, list):
        value = tuple(value)
    if row.field in _EPSILONS:
        return plain("epsilon", value)
    if row.field in FIELDS or row.is_metric:
        return plain(row.field, value)
    return _setting(value)


def _setting(value: Any) -> str:
    if value is None or value == "":
        return NONE
    if isinstance(value, float):
        return f"{value:g}"
    return plain("", value)
