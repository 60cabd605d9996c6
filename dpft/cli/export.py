"""``dpft export``: a run's model for others to load."""

from __future__ import annotations

from pathlib import Path

from dpft.cli import options, options_push
from dpft.errors import UsageError
from dpft.tables import EXPORT_FORMATS

__all__ = ["EXAMPLE", "export"]

EXAMPLE = "Example: [cyan]dpft export @latest --format merged --output model --push me/my-model[/cyan]"


def export(
    run: options.RunReference,
    format: options.Format = "peft",
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    push: options_push.Push = None,
    public: options_push.Public = False,
    allow_unclaimed: options_push.AllowUnclaimed = False,
    as_json: options.Json = False,
) -> None:
    """Write a run's model to a folder, load it afresh, and compare its answers before it appears there."""
    from dpft.cli import render
    from dpft.cli.progress import TrainingView
    from dpft.cli.stored import trained_run
    from dpft.cli.views.export import pushed as show_pushed
    from dpft.runs.store import Store

    EXPORT_FORMATS.check(format)
    if push is None and (public or allow_unclaimed):
        name = "--public" if public else "--allow-unclaimed"
        raise UsageError(f"{name} is about --push", hint="say where to: --push NAMESPACE/NAME")
    record, spec = trained_run(run)
    place = (output if output is not None else Path(f"{record.name}-{format}")).expanduser().absolute()
    pushed = None
    if record.status != "completed":
        told = f"{record.steps:,} of {record.steps_planned or 0:,} steps"
        render.warning(f"run {record.name} is {record.status}: what is exported took {told}")
    with TrainingView() as view:
        if push is not None:  # before anything is loaded
            from dpft.export import push as to_hub

            to_hub.check_claim(Store().manifest(record), allow_unclaimed=allow_unclaimed)
            view.working("asking the hub")
            there = to_hub.destination(push, public=public, overwrite=overwrite)
        view.working("loading libraries")
        write = EXPORT_FORMATS.get(format)
        view.working(f"exporting {record.name}")
        report = write(record, spec, place, overwrite=overwrite)
        if push is not None:
            view.working(f"uploading to {push}")
            pushed = to_hub.push(report, there, allow_unclaimed=allow_unclaimed)
    if as_json:
        render.document(report.to_json() | ({"pushed": pushed.to_json()} if pushed else {}))
        return
    render.exported(report, record.name)
    if pushed is not None:
        show_pushed(pushed)
