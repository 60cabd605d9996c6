"""The runs as the registry has them, for completions: no validation, no locks, no mending, nothing heavy.

What is read here is shown and typed, never trusted: whatever uses a run asks :class:`dpft.runs.store.Store`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["runs", "trashed"]


def runs(home: Path) -> list[dict[str, Any]]:
    """The registry's entries whose folder is there, newest first; none where it cannot be read."""
    try:
        document = json.loads((home / "registry.json").read_bytes())
        present = {path.name for path in (home / "runs").iterdir()}
        entries = [entry for entry in document["runs"].values() if entry["run_id"] in present]
        return sorted(entries, key=lambda entry: (entry["created"], entry["run_id"]), reverse=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def trashed(home: Path) -> list[dict[str, Any]]:
    """The records in the trash, in no order; those that cannot be read are left out."""
    found = []
    for path in (home / "trash").glob("*/run.json"):
        try:
            entry = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("run_id"), str):
            found.append(entry)
    return found
