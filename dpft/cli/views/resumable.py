"""How to go on with a run that ended before its last step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpft.runs.files import CHECKPOINTS

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord

__all__ = ["resume_command", "resume_hint"]


def resume_command(record: RunRecord) -> str | None:
    """What to type; None where there is nothing to go on from."""
    ended_early = record.status not in ("completed", "running")
    if not ended_early or not (record.run_dir / CHECKPOINTS).is_dir():
        return None
    return f"dpft train --resume {record.name}"


def resume_hint(records: Sequence[RunRecord]) -> str | None:
    """A line below a list of runs: of the newest that can go on."""
    found = [command for record in records if (command := resume_command(record)) is not None]
    if not found:
        return None
    more = f" (and so can {len(found) - 1} more)" if len(found) > 1 else ""
    return f"an unfinished run can go on from its checkpoint: {found[0]}{more}"
