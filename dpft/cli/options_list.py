"""Options of ``list`` and ``compare``: which runs, in which order, and what of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from dpft.runs.fields import FIELDS, METRICS

__all__ = ["Columns", "Filter", "Sort", "Trashed"]

WHICH = "Which runs"
_NAMES = [*METRICS, *(name for name in FIELDS if name not in METRICS)]


def _columns(separator: str) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(separator) if separator else ("", "", incomplete)
        return [f"{before}{comma}{name}" for name in _NAMES if name.startswith(last)]

    return complete


Sort = Annotated[
    str | None,
    typer.Option(
        "--sort",
        "-s",
        help="Order by a column; [cyan]:desc[/cyan] for the largest first. "
        "[dim]\\[default: newest first][/dim]",
        metavar="COLUMN[:desc]",
        rich_help_panel=WHICH,
        show_default=False,
        autocompletion=_columns(""),
    ),
]
Filter = Annotated[
    str | None,
    typer.Option(
        "--filter",
        help="Only runs like this: [cyan]'accuracy>0.8 and epsilon<=3'[/cyan], "
        "[cyan]'mode in (\"lora\", \"ia3\") and not private'[/cyan], [cyan]'epsilon is none'[/cyan], "
        "[cyan]'\"baseline\" in tags'[/cyan], [cyan]'age < \"7d\"'[/cyan].",
        metavar="EXPRESSION",
        rich_help_panel=WHICH,
        show_default=False,
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        "-c",
        help=f"Which, in this order: {', '.join(_NAMES)}, or another metric.",
        metavar="A,B,…",
        show_default=False,
        autocompletion=_columns(","),
        rich_help_panel="Output",
    ),
]
Trashed = Annotated[
    bool,
    typer.Option(
        "--trash",
        help="The removed runs, which 'dpft restore' brings back.",
        metavar="",
        rich_help_panel=WHICH,
        show_default=False,
    ),
]
