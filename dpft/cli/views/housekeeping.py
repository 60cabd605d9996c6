"""What ``rm``, ``restore``, ``gc``, ``tag`` and ``note`` print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from dpft.cli.render import new_table, plainly, stdout
from dpft.cli.wording import file_size, one_line

if TYPE_CHECKING:
    from dpft.runs.collect import Garbage
    from dpft.runs.record import RunRecord

__all__ = ["garbage", "note", "prepared_data", "removed", "restored", "tags"]


def removed(records: Sequence[RunRecord]) -> None:
    """What is in the trash now, how to have it back, and what is not undone."""
    console = stdout()
    for record in records:
        console.print(Text.assemble("moved to the trash: ", *_called(record)))
    names = " ".join(record.name for record in records)
    console.print(Text.assemble("to undo: ", (f"dpft restore {names}", "cyan")), soft_wrap=True)
    if any(record.private and record.steps for record in records):
        told = "The ledger keeps what was spent on the data: removing a run refunds nothing."
        console.print(Text(told, "dim"), soft_wrap=not console.is_terminal)


def restored(records: Sequence[RunRecord]) -> None:
    """What is back."""
    console = stdout()
    for record in records:
        console.print(Text.assemble("restored: ", *_called(record)))


def garbage(items: Sequence[Garbage], *, done: bool | None) -> None:
    """What is deleted.

    Args:
        items: what.
        done: whether it is deleted already; None where that is about to be asked.
    """
    console = stdout()
    if not items:
        console.print(Text("nothing to delete", "dim"))
        return
    table = new_table("kind", ">size", "what", "why")
    for item in items:
        table.add_row(
            item.kind, file_size(item.size), Text(one_line(_short(item.path))), Text(item.why, "dim")
        )
    plainly(console, table)
    total = file_size(sum(item.size for item in items))
    if done is not None:
        console.print(f"{total} freed" if done else f"{total} would be freed; nothing was deleted")


def prepared_data(folder: Path, size: int) -> None:
    """How much prepared data there is."""
    if size:
        console = stdout()
        told = f"{file_size(size)} of prepared data in {folder} stay: --prepared deletes them too"
        console.print(Text(told, "dim"), soft_wrap=True)


def tags(record: RunRecord) -> None:
    """A run's tags."""
    words = ", ".join(one_line(tag) for tag in record.tags) or "no tags"
    stdout().print(Text.assemble((record.name, "bold"), ": ", words), soft_wrap=True)


def note(record: RunRecord) -> None:
    """A run's note, line by line."""
    console = stdout()
    lines = [one_line(line) for line in record.note.splitlines()] or ["no note"]
    console.print(Text.assemble((record.name, "bold"), ": ", "\n".join(lines)), soft_wrap=True)


def _called(record: RunRecord) -> tuple[tuple[str, str], str]:
    return (record.name, "bold"), f" ({record.run_id[:8]}, {record.dataset}, {record.finetune_mode})"


def _short(path: Path) -> str:
    """Where a file is, from the store's or the cache's own folders on."""
    for folder in path.parents:
        if folder.name in ("runs", "trash", "prepared"):
            return path.relative_to(folder.parent).as_posix()
    return path.name
