"""``dpft compare``: several runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dpft.cli import options
from dpft.cli.complete import run_references
from dpft.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from dpft.runs.comparison import Subject
    from dpft.runs.store import Store

__all__ = ["EXAMPLE", "compare"]

EXAMPLE = "Example: [cyan]dpft compare @1 @2 swift-otter --md[/cyan]"

Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN",
        help="Two or more runs: id or the beginning of it, name, @latest, @2.",
        show_default=False,
        autocompletion=run_references,
    ),
]
AllFields = Annotated[
    bool,
    typer.Option("--all", "-a", help="Equal rows too.", metavar="", show_default=False),
]
Csv = Annotated[
    bool,
    typer.Option("--csv", help="As CSV.", metavar="", rich_help_panel=options.OUTPUT, show_default=False),
]
Markdown = Annotated[
    bool,
    typer.Option(
        "--md", help="As a Markdown table.", metavar="", rich_help_panel=options.OUTPUT, show_default=False
    ),
]


def compare(
    runs: Runs,
    all_fields: AllFields = False,
    as_csv: Csv = False,
    as_markdown: Markdown = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare runs: the rows in which they differ, the best value marked.

    Best is the largest score on the same dataset, the smallest ε at the same δ, the shortest time.
    """
    from dpft.cli import render
    from dpft.cli.views import compare as view
    from dpft.runs import comparison
    from dpft.runs.store import Store

    if as_csv + as_markdown + as_json > 1:
        raise UsageError("--csv, --md and --json exclude each other", hint="give one of them")
    store = Store()
    subjects = _subjects(store, runs)
    every = comparison.compare(subjects)
    rows = every if all_fields else [row for row in every if row.differs]
    records = [subject.record for subject in subjects]
    if as_json:
        named = [{"run_id": record.run_id, "name": record.name} for record in records]
        render.document({"runs": named, "rows": [row.to_json() for row in rows]})
    elif quiet:
        render.ids(record.run_id for record in records)
    elif as_csv:
        view.csv(records, rows)
    elif as_markdown:
        view.markdown(records, rows)
    else:
        view.table(records, rows, equal=len(every) - len(rows), note=comparison.not_comparable(subjects))


def _subjects(store: Store, references: list[str]) -> list[Subject]:
    """The runs that are meant, each once.

    Raises:
        UsageError: there is only one.
        NotFoundError: there is no such run.
    """
    from dpft.runs.comparison import Subject

    records = {record.run_id: record for record in map(store.resolve, references)}
    if len(records) < 2:
        (only,) = records.values()
        raise UsageError(
            f"there is only run {only.name} to compare", hint="name two runs or more; 'dpft show' shows one"
        )
    subjects = []
    for record in records.values():
        try:
            manifest = store.manifest(record)
        except NotFoundError:  # it is running, or came to no end
            manifest = None
        subjects.append(Subject(record, store.spec(record), manifest))
    return subjects
