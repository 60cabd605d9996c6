"""The statement that stands while a run goes on: of the adapter that an earlier process of it left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpft.errors import DpftError
from dpft.runs.confine import read_bounded, read_json
from dpft.runs.layout import ADAPTER
from dpft.runs.seal import MANIFEST

__all__ = ["published_steps", "standing_fields"]

_MOST = 64 << 20


def standing_fields(run_dir: Path) -> dict[str, Any] | None:
    """What the record must say as long as the run's manifest and the adapter it speaks of are in place.

    Args:
        run_dir: the run's folder.

    Returns:
        ``epsilon``, ``delta`` and ``steps`` of a private run's manifest, nothing of an ordinary one's; None
        where there is no manifest, or no adapter that carries the same one.
    """
    from dpft.runs.manifest import Manifest

    try:
        document = read_json(run_dir / MANIFEST)
        sealed = read_bounded(run_dir / ADAPTER / MANIFEST, _MOST)
        if sealed != read_bounded(run_dir / MANIFEST, _MOST):
            return None
        found = Manifest.model_validate(document).record_fields()
    except (DpftError, ValidationError):
        return None
    if found.get("run_id") != run_dir.name:
        return None
    return {name: found[name] for name in ("epsilon", "delta", "steps") if name in found}


def published_steps(run_dir: Path) -> int:
    """Noisy steps in the adapter that lies in a run's folder, as its own manifest counts them; else 0."""
    try:
        document = read_json(run_dir / ADAPTER / MANIFEST)
        return sum(int(event["steps"]) for event in document.get("events", ()))
    except (DpftError, AttributeError, KeyError, TypeError, ValueError):
        return 0
