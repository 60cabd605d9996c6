"""What ``dpft list`` prints: as many columns as fit, and a word on each thing that is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from dpft.cli.render import new_table, plainly, stdout
from dpft.cli.views.columns import UNKNOWN, cell, head, is_number
from dpft.cli.views.resumable import resume_hint
from dpft.cli.wording import NONE
from dpft.errors import UsageError
from dpft.runs.fields import canonical

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord

__all__ = ["choose", "runs"]

_DEFAULT = (
    "id", "name", "dataset", "finetune_mode", "epsilon", "noise_multiplier", "accuracy", "status", "age",
)  # fmt: skip
_BY_IMPORTANCE = (
    "name", "epsilon", "accuracy", "status", "id", "dataset", "finetune_mode", "age", "noise_multiplier",
)  # fmt: skip


def choose(text: str | None, metrics: Iterable[str]) -> list[str] | None:
    """The columns that ``--columns`` names; None where it is not given.

    Raises:
        UsageError: there is none of that name, or none at all.
    """
    if text is None:
        return None
    found = [canonical(name, metrics) for name in text.split(",") if name.strip()]
    if not found:
        raise UsageError("--columns names no column", hint="write them with commas: --columns name,epsilon")
    return [*dict.fromkeys(found)]


def runs(
    records: Sequence[RunRecord],
    *,
    columns: Sequence[str] | None = None,
    hidden: int = 0,
    stored: int = 0,
    sorted_by: str | None = None,
    trash: bool = False,
) -> None:
    """The list of runs.

    Args:
        records: in the order that was asked for.
        columns: fields, in their order; None for the usual ones.
        hidden: how many more runs there are.
        stored: how many runs there are in all, whatever was asked for.
        sorted_by: what they are ordered by; None for newest first.
        trash: whether these are the removed ones.
    """
    console = stdout()
    if not records:
        console.print(Text(_nothing(stored, trash=trash), "dim"), soft_wrap=True)
        return
    left_out = _table(console, records, columns)
    resumable = None if trash else resume_hint(records)
    notes = [*_signs(records, columns, left_out), *filter(None, [resumable])]
    notes += _left_out(left_out, hidden, sorted_by, trash=trash)
    for note in notes:
        console.print(Text(note, "dim"), soft_wrap=not console.is_terminal)


def _table(console: Console, records: Sequence[RunRecord], columns: Sequence[str] | None) -> list[str]:
    """Print the columns that fit; which do not."""
    wanted = columns or _DEFAULT
    cells = {field: [cell(record, field) for record in records] for field in wanted}
    widths = {
        field: 1 + max(Text(head(field)).cell_len, *(text.cell_len for text in cells[field]))
        for field in wanted
    }
    room = console.width + 1
    fitting: list[str] = []
    for field in columns or _BY_IMPORTANCE:
        if widths[field] <= room or not fitting:  # the first is cut rather than left out
            room -= widths[field]
            fitting.append(field)
    shown = [field for field in wanted if field in fitting]
    table = new_table(*(f">{head(field)}" if is_number(field) else head(field) for field in shown), gap=1)
    for row in zip(*(cells[field] for field in shown), strict=True):
        table.add_row(*row)
    plainly(console, table)
    return [field for field in wanted if field not in fitting]


def _nothing(stored: int, *, trash: bool) -> str:
    if trash:
        return "nothing in the trash is like that" if stored else "the trash is empty"
    if stored:
        return "no run is like that: see 'dpft list --all'"
    return "no runs yet: begin with 'dpft train -d demo -m builtin:minilm'"


def _signs(
    records: Sequence[RunRecord], columns: Sequence[str] | None, left_out: Sequence[str]
) -> Iterator[str]:
    if "epsilon" not in (columns or _DEFAULT) or "epsilon" in left_out:
        return
    if any(not record.private for record in records):
        yield f"ε {NONE} is a run without privacy"
    if any(record.private and record.epsilon is None for record in records):
        yield f"ε {UNKNOWN} is a private run of which nothing can be claimed (yet)"


def _left_out(left_out: Sequence[str], hidden: int, sorted_by: str | None, *, trash: bool) -> Iterator[str]:
    if left_out:
        names = ", ".join(head(field) for field in left_out)
        yield f"no room for {names}: widen the terminal, or choose with --columns"
    if hidden:
        which = "more" if sorted_by or trash else "older"
        command = "dpft list --trash --all" if trash else "dpft list --all"
        yield f"{hidden:,} {which} {'run' if hidden == 1 else 'runs'} not shown: {command}"
