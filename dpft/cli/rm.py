"""``dpft rm``: move runs to the trash."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dpft.cli import options
from dpft.cli.complete import run_references
from dpft.errors import InterruptedRunError

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord

__all__ = ["EXAMPLE", "Yes", "confirm", "remove"]

EXAMPLE = "Example: [cyan]dpft rm @2 swift-otter[/cyan]"

Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN",
        help="Runs: id or the beginning of it, name, @latest, @2.",
        show_default=False,
        autocompletion=run_references,
    ),
]
Yes = Annotated[
    bool,
    typer.Option(
        "--yes",
        "-y",
        help="Do not ask (without a terminal nothing is asked anyway).",
        metavar="",
        show_default=False,
    ),
]


def remove(runs: Runs, yes: Yes = False, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Move runs to the trash; [cyan]dpft restore[/cyan] brings them back, [cyan]dpft gc[/cyan] empties it.

    The ledger keeps what they spent: what was released cannot be taken back. A run that is being trained is
    not touched (exit code 5).
    """
    from dpft.cli import render
    from dpft.cli.views import housekeeping as view
    from dpft.runs.again import hold_or_refuse
    from dpft.runs.store import Store

    store = Store()
    chosen: dict[str, RunRecord] = {}
    for reference in runs:
        record = store.resolve(reference)
        chosen[record.run_id] = record
    for record in chosen.values():
        with hold_or_refuse(record):  # all or none: a running one is found before the first is moved
            pass
    if not yes and not as_json and not quiet:
        names = ", ".join(record.name for record in chosen.values())
        confirm(f"move {names} to the trash?")
    for record in chosen.values():
        store.trash.put(record)
    if as_json:
        render.document(
            {
                "removed": [{"run_id": r.run_id, "name": r.name} for r in chosen.values()],
                "trash": str(store.trash.folder),
                "refunded": False,
            }
        )
    elif quiet:
        render.ids(chosen)
    else:
        view.removed([*chosen.values()])


def confirm(question: str) -> None:
    """Ask on a terminal; elsewhere nobody is asked.

    Raises:
        InterruptedRunError: the answer is no.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    try:
        agreed = typer.confirm(question, default=False, err=True)
    except typer.Abort:  # Ctrl-C or Ctrl-D
        agreed = False
    if not agreed:
        raise InterruptedRunError("nothing was changed", hint="-y answers yes beforehand")
