"""``dpft list``: the runs in the store."""

from __future__ import annotations

from typing import get_args

from dpft.cli import options
from dpft.errors import UsageError
from dpft.tables import TASKS

__all__ = ["EXAMPLE", "list_runs"]

EXAMPLE = "Example: [cyan]dpft list --dataset sst2 --status completed[/cyan]"

_SHOWN = 20


def list_runs(
    status: options.StatusFilter = None,
    dataset: options.DatasetFilter = None,
    all_runs: options.AllRuns = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List runs, newest first: what they cost in privacy, and what they scored."""
    from dpft.cli import render
    from dpft.runs.record import Status
    from dpft.runs.store import Store

    if status is not None and status not in get_args(Status):
        raise UsageError(f"unknown status {status!r}", hint=f"choose one of: {', '.join(get_args(Status))}")
    if dataset is not None:
        TASKS.check(dataset)
    stored = Store().list()
    records = [
        record
        for record in stored
        if (status is None or record.status == status) and (dataset is None or record.dataset == dataset)
    ]
    if as_json:
        render.document({"runs": [record.to_public_json() for record in records]})
    elif quiet:
        render.ids(record.run_id for record in records)
    else:
        shown = records if all_runs else records[:_SHOWN]
        render.runs(shown, hidden=len(records) - len(shown), stored=len(stored))
