"""``dpft show``: one run, whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpft.cli import options
from dpft.cli.complete import run_references
from dpft.errors import NotFoundError

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord
    from dpft.runs.store import Store

__all__ = ["EXAMPLE", "show"]

EXAMPLE = "Examples: [cyan]dpft show @2[/cyan], [cyan]dpft show --schema > manifest.schema.json[/cyan]"

Shown = Annotated[
    str,
    typer.Argument(
        metavar="[RUN]",
        help="A run's id or the beginning of it, its name, or @2. [dim]\\[default: @latest][/dim]",
        show_default=False,
        autocompletion=run_references,
    ),
]
Schema = Annotated[
    bool,
    typer.Option(
        "--schema",
        help="Print the JSON Schema of privacy.json instead.",
        metavar="",
        rich_help_panel=options.OUTPUT,
        show_default=False,
    ),
]


def show(
    run: Shown = "@latest",
    schema: Schema = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a run promises, what it scored, what ran, and where its files are."""
    from dpft.cli import render
    from dpft.runs.store import Store

    if schema:
        from dpft.runs.manifest import Manifest

        render.document(Manifest.json_schema())
        return
    store = Store()
    record = store.resolve(run)
    if as_json:
        render.document(_document(store, record))
    elif quiet:
        render.ids([record.run_id])
    else:
        from dpft.cli.views import show as view

        view.run(record, store.spec(record), _manifest(store, record))


def _manifest(store: Store, record: RunRecord) -> dict[str, Any] | None:
    try:
        return store.manifest(record)
    except NotFoundError:  # it is running, or came to no end
        return None


def _document(store: Store, record: RunRecord) -> dict[str, Any]:
    """The run as ``list`` has it, its spec, and its manifest if it has one."""
    return {
        **record.to_public_json(),
        "spec": store.spec(record).model_dump(mode="json"),
        "manifest": _manifest(store, record),
    }
