"""What a verification found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpft.errors import DpftError

__all__ = ["LIMITS", "OWN_HEADER_ONLY", "Check", "Verification", "outcome"]

LIMITS = "this proves arithmetic and integrity, not that training was honest"
OWN_HEADER_ONLY = (
    "bound to their own header only: they cannot be held against the manifest without base model and adapter"
)
_LIMITS_OF_A_MODEL = (
    "whoever rewrote a whole model's tensors and their header, which need no secret, is not found: "
    "verify the run or its adapter, and merge it yourself"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of the check.
        ok: whether it holds.
        detail: what was found, in one line.
    """

    name: str
    ok: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        """As ``verify --json`` prints it."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Verification:
    """All checks of one folder.

    Attributes:
        path: the folder.
        kind: ``run``, ``adapter`` or ``model``.
        run_id: as the manifest has it; None where it cannot be read.
        statement: likewise.
        manifest_sha256: its digest (``runs.manifest.manifest_sha256``), to be compared with one that was
            published elsewhere; likewise.
        checks: in the order in which they were made.
    """

    path: Path
    kind: str
    run_id: str | None
    statement: str | None
    checks: tuple[Check, ...]
    manifest_sha256: str | None = None

    @property
    def limits(self) -> str:
        """What all of it does not prove."""
        return f"{LIMITS}; {_LIMITS_OF_A_MODEL}" if self.kind == "model" else LIMITS

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """Those that do not."""
        return tuple(check for check in self.checks if not check.ok)

    def to_json(self) -> dict[str, Any]:
        """As ``verify --json`` prints it."""
        return {
            "ok": self.ok,
            "checks": [check.to_json() for check in self.checks],
            "path": str(self.path),
            "kind": self.kind,
            "run_id": self.run_id,
            "statement": self.statement,
            "manifest_sha256": self.manifest_sha256,
            "limits": self.limits,
        }


def outcome(name: str, good: str, problems: Iterable[str]) -> Check:
    """One check out of the problems that it yields.

    Args:
        name: of the check.
        good: its detail where there is no problem.
        problems: what is wrong, in one line each; an error of ours that is raised meanwhile counts as one.
    """
    found = list(_caught(problems))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Check(name, not found, " ".join((found[0] + more if found else good).split()))


def _caught(problems: Iterable[str]) -> Iterator[str]:
    try:
        yield from problems
    except DpftError as error:
        yield error.message
