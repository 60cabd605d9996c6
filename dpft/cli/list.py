"""``dpft list``: the runs in the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from dpft.cli import options, options_list
from dpft.errors import UsageError
from dpft.tables import TASKS

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord

__all__ = ["EXAMPLE", "list_runs"]

EXAMPLE = "Example: [cyan]dpft list --filter 'accuracy>0.8 and epsilon<=3' --sort epsilon[/cyan]"

_SHOWN = 20


def list_runs(
    status: options.StatusFilter = None,
    dataset: options.DatasetFilter = None,
    filter: options_list.Filter = None,
    sort: options_list.Sort = None,
    all_runs: options.AllRuns = False,
    trash: options_list.Trashed = False,
    columns: options_list.Columns = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List runs, newest first: what they cost in privacy, and what they scored.

    What a run does not have is neither more nor less than anything: such runs come last in every order, and
    are in no comparison of a filter.
    """
    from dpft.cli import render
    from dpft.cli.views import list as view
    from dpft.runs.store import Store

    store = Store()
    stored = [run.record for run in store.trash.runs()] if trash else store.list()
    metrics = {name for record in stored for name in record.metrics}
    _check(status, dataset, stored)
    chosen = view.choose(columns, metrics)
    records = _matching(stored, status, dataset, filter, metrics)
    if sort is not None:
        from dpft.runs.query import sort_runs

        records = sort_runs(records, sort, metrics)
    if as_json:
        render.document({"runs": [record.to_public_json() for record in records]})
    elif quiet:
        render.ids(record.run_id for record in records)
    else:
        shown = records if all_runs else records[:_SHOWN]
        view.runs(
            shown,
            columns=chosen,
            hidden=len(records) - len(shown),
            stored=len(stored),
            sorted_by=sort,
            trash=trash,
        )


def _check(status: str | None, dataset: str | None, stored: Sequence[RunRecord]) -> None:
    """Refuse a status or dataset that no run could have.

    Raises:
        UsageError: there is no such status or dataset.
    """
    from dpft.runs.record import Status

    if status is not None and status not in get_args(Status):
        raise UsageError(f"unknown status {status!r}", hint=f"choose one of: {', '.join(get_args(Status))}")
    if dataset is not None and not any(record.dataset == dataset for record in stored):
        TASKS.check(dataset)


def _matching(
    stored: Sequence[RunRecord],
    status: str | None,
    dataset: str | None,
    expression: str | None,
    metrics: set[str],
) -> list[RunRecord]:
    found = [
        record
        for record in stored
        if (status is None or record.status == status) and (dataset is None or record.dataset == dataset)
    ]
    if expression is None:
        return found
    from dpft.runs.query import Filter

    wanted = Filter(expression, metrics)
    return [record for record in found if wanted(record)]
