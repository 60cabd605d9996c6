"""What the shell offers after a tab: names from tables, references from the store; no heavy imports."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpft.errors import DpftError
from dpft.tables import Table

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord

__all__ = ["names", "resumable_references", "run_references"]


def names(table: Table[Any]) -> Callable[[str], list[str]]:
    """A completion of the table's names; after a comma, of the next one."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in table.names() if name.startswith(last)]

    return complete


def run_references(incomplete: str) -> list[tuple[str, str]]:
    """Ids, names and ``@latest``, each with what the run is; nothing where the store cannot be read."""
    return _references(incomplete, lambda record: True)


def resumable_references(incomplete: str) -> list[tuple[str, str]]:
    """Likewise, of the runs that ended before their last step."""
    return _references(incomplete, lambda record: record.status not in ("completed", "running"))


def _references(incomplete: str, wanted: Callable[[RunRecord], bool]) -> list[tuple[str, str]]:
    from dpft.runs.store import Store

    try:
        records = Store(lock_timeout=1.0).list()
    except DpftError:
        return []
    found = [("@latest", "the newest run")] if records and wanted(records[0]) else []
    for record in filter(wanted, records):
        what = f"{record.dataset}, {record.finetune_mode}, {record.status}"
        found += [(record.name, what), (record.run_id[:8], f"{record.name}: {what}")]
    return [(reference, what) for reference, what in found if reference.startswith(incomplete)]
