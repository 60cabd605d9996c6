"""``dpft gc``: delete for good what nobody needs any more."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from dpft.cli import options
from dpft.cli.rm import Yes, confirm
from dpft.errors import UsageError

__all__ = ["EXAMPLE", "collect_garbage"]

EXAMPLE = "Example: [cyan]dpft gc --dry-run --older-than 7d[/cyan]"

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_DEFAULT = "30d"

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", "-n", help="Only say what would be deleted.", metavar="", show_default=False),
]
OlderThan = Annotated[
    str,
    typer.Option(
        "--older-than",
        help=f"Of the trash, only runs removed so long ago: 30m, 12h, 7d, 2w. "
        f"[dim]\\[default: {_DEFAULT}][/dim]",
        metavar="AGE",
        show_default=False,
    ),
]
Prepared = Annotated[
    bool,
    typer.Option(
        "--prepared",
        help="Prepared (tokenised) datasets too; they are made again when needed.",
        metavar="",
        show_default=False,
    ),
]


def collect_garbage(
    dry_run: DryRun = False,
    older_than: OlderThan = _DEFAULT,
    prepared: Prepared = False,
    yes: Yes = False,
    as_json: options.Json = False,
) -> None:
    """Delete old trash, checkpoints of completed runs, and what killed processes left.

    Ledger, manifests, adapters and keys are never touched, nor are checkpoints that a run can go on from.
    """
    from dpft.cli import render
    from dpft.cli.views import housekeeping as view
    from dpft.runs import paths
    from dpft.runs.collect import collect, delete, size_of

    home, cache = paths.home(), paths.cache()
    found = collect(home, cache, older_than=_seconds(older_than), prepared=prepared)
    if found and not dry_run and not yes and not as_json:
        view.garbage(found, done=None)
        confirm(f"delete {'this' if len(found) == 1 else f'these {len(found)}'} for good?")
    deleted = [] if dry_run else [item for item in found if delete(item, home)]
    shown = found if dry_run else deleted
    if as_json:
        render.document(
            {
                "dry_run": dry_run,
                "items": [item.to_json() for item in shown],
                "bytes": sum(item.size for item in shown),
                "prepared_bytes": size_of(cache / "prepared"),
            }
        )
    else:
        view.garbage(shown, done=not dry_run)
        if not prepared:
            view.prepared_data(cache / "prepared", size_of(cache / "prepared"))


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip().casefold())
    if match is None:
        raise UsageError(f"--older-than {text!r} is no age", hint="write 30m, 12h, 7d or 2w; 0d for all")
    return float(match.group(1)) * _UNITS[match.group(2)]
