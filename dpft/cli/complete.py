"""What the shell offers after a tab: names from tables, references from the store; no heavy imports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpft.errors import DpftError
from dpft.tables import Table

__all__ = ["names", "run_references"]


def names(table: Table[Any]) -> Callable[[str], list[str]]:
    """A completion of the table's names; after a comma, of the next one."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in table.names() if name.startswith(last)]

    return complete


def run_references(incomplete: str) -> list[tuple[str, str]]:
    """Ids, names and ``@latest``, each with what the run is; nothing where the store cannot be read."""
    from dpft.runs.store import Store

    try:
        records = Store(lock_timeout=1.0).list()
    except DpftError:
        return []
    found = [("@latest", "the newest run")] if records else []
    for record in records:
        what = f"{record.dataset}, {record.finetune_mode}, {record.status}"
        found += [(record.name, what), (record.run_id[:8], f"{record.name}: {what}")]
    return [(reference, what) for reference, what in found if reference.startswith(incomplete)]
