"""``--format peft``: the adapter. Modes that have none give the whole model."""

from __future__ import annotations

from pathlib import Path

from dpft.export.adapters import AdapterFolder
from dpft.export.build import build
from dpft.export.form import Form
from dpft.export.plain import PlainFolder
from dpft.export.report import ExportReport
from dpft.runs.record import RunRecord
from dpft.spec import RunSpec
from dpft.tables import MODES

__all__ = ["export"]


def export(record: RunRecord, spec: RunSpec, output: Path, *, overwrite: bool = False) -> ExportReport:
    """Publish a run's adapter as a folder that plain ``peft`` loads on the base model.

    Modes that train the model's own parameters (``full``, ``last-layer``) give a plain ``transformers``
    folder.

    Args:
        record: the run.
        spec: what it was asked to do.
        output: the folder to be made.
        overwrite: replace an earlier export there.

    Returns:
        What was published. The largest logit difference is at most 1e-5.

    Raises:
        NotFoundError: the run has no adapter.
        UsageError: ``output`` cannot be used.
        ExportError: the folder, loaded afresh, does not give the run's logits; nothing is published.
        StoreError: the disk refuses, or the run's files are damaged.
        ModelError: the base model cannot be loaded.
    """
    mode = MODES.get(spec.tuning.mode)
    form: Form = AdapterFolder(mode) if mode.parts else PlainFolder("peft", exact=True)
    return build(form, record, spec, output, overwrite=overwrite)
