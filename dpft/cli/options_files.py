"""Options about files of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dpft.cli.options import DATA, setting

__all__ = [
    "DataFile",
    "EvalDataFile",
    "EvalLabelColumn",
    "EvalLabels",
    "EvalTextColumns",
    "LabelColumn",
    "Labels",
    "TextColumns",
    "ValidationFile",
]


def _once(*declarations: str, help: str, **more: Any) -> Any:
    return typer.Option(*declarations, help=help, rich_help_panel=DATA, show_default=False, **more)


DataFile = Annotated[
    Path | None,
    setting(
        "--data-file",
        help="Train on this file: .csv, .tsv, .jsonl or .parquet. -d then names the dataset.",
        metavar="FILE",
        panel=DATA,
    ),
]
ValidationFile = Annotated[
    Path | None,
    setting(
        "--validation-file",
        help="Score this file, of the same columns.",
        metavar="FILE",
        panel=DATA,
        default="a tenth of the data file, not trained on",
    ),
]
TextColumns = Annotated[
    list[str] | None,
    setting(
        "--text-column",
        help="Column with the text; given twice, for a pair.",
        metavar="NAME",
        panel=DATA,
        default="text",
    ),
]
LabelColumn = Annotated[
    str | None,
    setting("--label-column", help="Column with the label.", metavar="NAME", panel=DATA, default="label"),
]
Labels = Annotated[
    str | None,
    setting(
        "--labels",
        help="All labels of the data file, in order, separated by commas; they are never learnt from it.",
        metavar="NAMES",
        panel=DATA,
    ),
]
EvalDataFile = Annotated[
    Path | None,
    _once(
        "--data-file",
        help="Score this file: .csv, .tsv, .jsonl or .parquet.",
        metavar="FILE",
    ),
]
EvalTextColumns = Annotated[
    list[str] | None,
    _once(
        "--text-column",
        help="Its text column; given twice, for a pair. [dim]\\[default: the run's, or text][/dim]",
        metavar="NAME",
    ),
]
EvalLabelColumn = Annotated[
    str | None,
    _once(
        "--label-column",
        help="Its label column. [dim]\\[default: the run's, or label][/dim]",
        metavar="NAME",
    ),
]
EvalLabels = Annotated[
    str | None,
    _once(
        "--labels",
        help="All labels, in order, separated by commas. [dim]\\[default: the run's][/dim]",
        metavar="NAMES",
    ),
]
