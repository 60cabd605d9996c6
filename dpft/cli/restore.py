"""``dpft restore``: bring removed runs back."""

from __future__ import annotations

from typing import Annotated

import typer

from dpft.cli import options
from dpft.cli.complete import trashed_references
from dpft.errors import AmbiguousError, NotFoundError, UsageError

__all__ = ["EXAMPLE", "restore"]

EXAMPLE = "Example: [cyan]dpft restore swift-otter[/cyan]"

Removed = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN",
        help="Removed runs: id or the beginning of it, name, or @latest for the last removed.",
        show_default=False,
        autocompletion=trashed_references,
    ),
]
NewName = Annotated[
    str | None,
    typer.Option("--name", help="Another name, where its own is taken by now.", show_default=False),
]


def restore(
    runs: Removed,
    name: NewName = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Bring removed runs back from the trash, whole; [cyan]dpft list --trash[/cyan] shows what is there."""
    from dpft.cli import render
    from dpft.cli.views import housekeeping as view
    from dpft.runs.references import find
    from dpft.runs.store import Store

    if name is not None and len(runs) > 1:
        raise UsageError("--name is for one run", hint="restore them one by one")
    trash = Store().trash
    removed = {run.record.run_id: run for run in trash.runs()}
    records = [run.record for run in removed.values()]
    try:
        wanted = dict.fromkeys(find(reference, records).run_id for reference in runs)
    except AmbiguousError:
        raise
    except NotFoundError as error:
        hint = (
            error.hint if error.hint.startswith("did you mean") else "'dpft list --trash' shows what there is"
        )
        raise NotFoundError(f"{error.message} in the trash", hint=hint) from error
    back = [trash.restore(removed[run_id], name) for run_id in wanted]
    if as_json:
        render.document({"runs": [record.to_public_json() for record in back]})
    elif quiet:
        render.ids(record.run_id for record in back)
    else:
        view.restored(back)
