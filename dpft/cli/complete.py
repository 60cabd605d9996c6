"""What the shell offers after a tab: names from tables, references from the store; no heavy imports.

References come from the registry's file as it is: nothing is validated, locked or mended for a tab.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dpft.errors import DpftError
from dpft.tables import Table

__all__ = ["names", "resumable_references", "run_references", "trashed_references"]

_Entries = list[dict[str, Any]]


def names(table: Table[Any]) -> Callable[[str], list[str]]:
    """A completion of the table's names; after a comma, of the next one."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in table.names() if name.startswith(last)]

    return complete


def run_references(incomplete: str) -> list[tuple[str, str]]:
    """Ids, names and ``@latest``, each with what the run is; nothing where the store cannot be read."""
    entries = _entries()
    latest = [("@latest", f"the newest run: {_text(entries[0], 'name')}")] if entries else []
    return _beginning(incomplete, [*latest, *_references(entries)])


def resumable_references(incomplete: str) -> list[tuple[str, str]]:
    """Likewise, of the runs that ended before their last step."""
    entries = _entries()
    wanted = [entry for entry in entries if _can_go_on(entry)]
    latest = [("@latest", "the newest run")] if entries and wanted[:1] == entries[:1] else []
    return _beginning(incomplete, [*latest, *_references(wanted)])


def trashed_references(incomplete: str) -> list[tuple[str, str]]:
    """Ids and names of removed runs."""
    from dpft.runs import glance, paths

    try:
        entries = glance.trashed(paths.home())
    except DpftError:
        return []
    return _beginning(incomplete, _references(entries))


def _entries() -> _Entries:
    from dpft.runs import glance, paths

    try:
        return glance.runs(paths.home())
    except DpftError:
        return []


def _references(entries: _Entries) -> Iterator[tuple[str, str]]:
    for entry in entries:
        name, run_id = _text(entry, "name"), _text(entry, "run_id")[:8]
        what = ", ".join(_text(entry, field) for field in ("dataset", "finetune_mode", "status"))
        yield name, what
        yield run_id, f"{name}: {what}"


def _beginning(incomplete: str, found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    wanted = incomplete.casefold()
    return [(reference, what) for reference, what in found if reference.casefold().startswith(wanted)]


def _text(entry: dict[str, Any], field: str) -> str:
    """A value without what a shell or a terminal would take for more than text."""
    return "".join(character for character in str(entry.get(field, "")) if character.isprintable())


def _can_go_on(entry: dict[str, Any]) -> bool:
    """Ended early; a run marked as running whose lock is free has crashed."""
    status = entry.get("status")
    if status != "running":
        return status != "completed"
    from filelock import FileLock, Timeout

    from dpft.runs import paths

    lock = FileLock(paths.home() / "runs" / str(entry["run_id"]) / ".lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except (OSError, Timeout):
        return False
    lock.release()
    return True
