"""What an export did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpft.runs.files import FileEntry

__all__ = ["ExportReport"]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """One published export.

    Attributes:
        run_id: of the run that was exported.
        format: a name in ``tables.EXPORT_FORMATS``.
        path: the folder, absolute.
        files: every file in it, by name.
        max_logit_difference: largest absolute difference between a logit of the run's model and of the
            export, loaded afresh, on synthetic text.
        requires: what loading it needs, as pip's requirements.
        opset: of an ONNX file; else None.
    """

    run_id: str
    format: str
    path: Path
    files: tuple[FileEntry, ...]
    max_logit_difference: float
    requires: tuple[str, ...] = ()
    opset: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as ``export --json`` prints it."""
        return {
            "run_id": self.run_id,
            "format": self.format,
            "path": str(self.path),
            "files": [entry.to_json() for entry in self.files],
            "max_logit_difference": self.max_logit_difference,
            "requires": list(self.requires),
            **({"opset": self.opset} if self.opset is not None else {}),
        }
