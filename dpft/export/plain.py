"""Whole models, as plain ``transformers`` loads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from dpft.errors import ExportError
from dpft.export import snippets
from dpft.export.form import EXACT, MERGED, Form
from dpft.export.source import RestoredRun
from dpft.tuning.files import adapter_sha256, stamp

__all__ = ["PlainFolder", "exported_statement", "statement_in"]


class PlainFolder(Form):
    """``config.json`` and ``model.safetensors``, merged in float32.

    Args:
        format_name: the name it is made under.
        exact: whether the mode trains the model's own parameters, so that nothing is rounded by merging.
    """

    what = "a whole model"

    def __init__(self, format_name: str, *, exact: bool) -> None:
        self.format = format_name
        self.exact = exact

    def tolerance(self, logits: Tensor) -> float:
        """``EXACT``, or ``MERGED`` times the scale of ``logits``."""
        return EXACT if self.exact else MERGED * max(1.0, float(logits.abs().max()))

    def write(self, run: RestoredRun, folder: Path) -> None:
        """Merge and save, with the run's statement and the new tensors' hash in the header.

        Raises:
            UsageError: the mode cannot be merged.
        """
        model = run.source.mode.merge(run.model)
        model.save_pretrained(folder)
        export = {"format": self.format, "tensors_sha256": adapter_sha256(folder)}
        stamp(folder, exported_statement(run.source.adapter, export))

    def load(self, run: RestoredRun, folder: Path) -> Any:
        """From the folder alone."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)

    def loading(self, run: RestoredRun) -> list[str]:
        """The same in words of the card."""
        return snippets.whole_lines()


def statement_in(path: Path) -> str | None:
    """What a safetensors file's header has under ``dpft``."""
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    return metadata.get("dpft")


def exported_statement(adapter: Path, export: Mapping[str, str]) -> str:
    """The run's own, and ``export``: these tensors are not those whose hash the manifest has.

    Args:
        adapter: the run's adapter folder.
        export: the format, and what its weights hash to.

    Raises:
        ExportError: the run's weights carry no statement.
    """
    for path in sorted(adapter.rglob("*.safetensors")):
        statement = statement_in(path)
        if statement is not None:
            return json.dumps({**json.loads(statement), "export": dict(export)}, separators=(",", ":"))
    raise ExportError(
        "the run's adapter carries no privacy statement in its header",
        hint="its files were changed after the run ended; restore them from a backup",
    )
