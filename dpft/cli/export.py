"""``dpft export``: a run's model for others to load."""

from __future__ import annotations

from pathlib import Path

from dpft.cli import options
from dpft.tables import EXPORT_FORMATS

__all__ = ["EXAMPLE", "export"]

EXAMPLE = "Example: [cyan]dpft export @latest --format merged --output model[/cyan]"


def export(
    run: options.RunReference,
    format: options.Format = "peft",
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Write a run's model to a folder, load it afresh, and compare its answers before it appears there."""
    from dpft.cli import render
    from dpft.cli.progress import TrainingView
    from dpft.cli.stored import trained_run

    EXPORT_FORMATS.check(format)
    record, spec = trained_run(run)
    place = (output if output is not None else Path(f"{record.name}-{format}")).expanduser().absolute()
    with TrainingView() as view:
        view.working("loading libraries")
        write = EXPORT_FORMATS.get(format)
        view.working(f"exporting {record.name}")
        report = write(record, spec, place, overwrite=overwrite)
    if as_json:
        render.document(report.to_json())
    else:
        render.exported(report, record.name)
