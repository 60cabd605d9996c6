"""``dpft tag``: put words on a run, or take them off."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from dpft.cli import options
from dpft.errors import UsageError

__all__ = ["EXAMPLE", "TagCommand", "tag"]

EXAMPLE = "Example: [cyan]dpft tag @latest +baseline[/cyan]"

Changes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[+TAG|-TAG]",
        help="[cyan]+TAG[/cyan] puts it on, [cyan]-TAG[/cyan] takes it off. "
        "[dim]\\[default: show those there are][/dim]",
        show_default=False,
    ),
]


class TagCommand(TyperCommand):
    """Takes ``-draft`` for a tag, not for options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options that there are, and hand on everything else as it is."""
        known = [argument for argument in args if argument.startswith("--") or argument in ("-h", "-q")]
        others = [argument for argument in args if argument not in known]
        return super().parse_args(ctx, [*known, *(["--"] if others else []), *others])


def tag(
    run: options.RunReference,
    changes: Changes = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put tags on a run or take them off; without any, show those it has.

    [cyan]dpft list --filter '"baseline" in tags'[/cyan] finds them.
    """
    from dpft.cli import render
    from dpft.cli.views import housekeeping as view
    from dpft.runs.store import Store

    store = Store()
    record = store.resolve(run)
    added, removed = _split(changes or ())
    absent = [name for name in removed if name not in record.tags]
    if absent:
        has = f"it has {', '.join(record.tags)}" if record.tags else "it has none"
        raise UsageError(f"run {record.name} has no tag {absent[0]!r}", hint=f"{has}; leave out -{absent[0]}")
    if added or removed:
        kept = [name for name in record.tags if name not in removed]
        record = store.annotate(record, tags=tuple(dict.fromkeys([*kept, *added])))
    if as_json:
        render.document({"run_id": record.run_id, "name": record.name, "tags": [*record.tags]})
    elif quiet:
        render.ids(record.tags)
    else:
        view.tags(record)


def _split(changes: tuple[str, ...] | list[str]) -> tuple[list[str], list[str]]:
    """Tags to put on, and to take off."""
    for change in changes:
        if change[:1] not in ("+", "-") or len(change) < 2:
            word = change.lstrip("+-") or "TAG"
            raise UsageError(
                f"{change!r} is no change of tags",
                hint=f"write +{word} to put it on, -{word} to take it off",
            )
    return [c[1:] for c in changes if c[0] == "+"], [c[1:] for c in changes if c[0] == "-"]
