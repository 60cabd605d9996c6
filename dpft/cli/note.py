"""``dpft note``: a run's note."""

from __future__ import annotations

from typing import Annotated

import typer

from dpft.cli import options

__all__ = ["EXAMPLE", "note"]

EXAMPLE = 'Example: [cyan]dpft note @latest "larger batch, same budget"[/cyan]'

Words = Annotated[
    str | None,
    typer.Argument(
        metavar="TEXT",
        help='The note; "" to have none. [dim]\\[default: show it][/dim]',
        show_default=False,
    ),
]


def note(
    run: options.RunReference,
    text: Words = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a note to a run, in place of the one it has; without a text, show it."""
    from dpft.cli import render
    from dpft.cli.views import housekeeping as view
    from dpft.runs.store import Store

    store = Store()
    record = store.resolve(run)
    if text is not None:
        record = store.annotate(record, note=text)
    if as_json:
        render.document({"run_id": record.run_id, "name": record.name, "note": record.note})
    elif quiet:
        render.ids([record.run_id])
    else:
        view.note(record)
