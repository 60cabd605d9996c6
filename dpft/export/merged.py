"""``--format merged``: one plain ``transformers`` model, with the adapter multiplied in."""

from __future__ import annotations

from pathlib import Path

from dpft.export.build import build
from dpft.export.plain import PlainFolder
from dpft.export.report import ExportReport
from dpft.runs.record import RunRecord
from dpft.spec import RunSpec
from dpft.tables import MODES

__all__ = ["export"]


def export(record: RunRecord, spec: RunSpec, output: Path, *, overwrite: bool = False) -> ExportReport:
    """Publish a run's model as a plain ``transformers`` folder, merged in float32.

    Args:
        record: the run.
        spec: what it was asked to do.
        output: the folder to be made.
        overwrite: replace an earlier export there.

    Returns:
        What was published. The largest logit difference is at most 1e-4 times the run's largest absolute
        logit (or 1, if that is larger).

    Raises:
        UsageError: the mode cannot be merged, or ``output`` cannot be used.
        NotFoundError: the run has no adapter.
        ExportError: the folder, loaded afresh, does not give the run's logits; nothing is published.
        StoreError: the disk refuses, or the run's files are damaged.
        ModelError: the base model cannot be loaded.
    """
    form = PlainFolder("merged", exact=not MODES.get(spec.tuning.mode).parts)
    return build(form, record, spec, output, overwrite=overwrite)
