"""Options about the ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from dpft.cli.options import OUTPUT, PRIVACY, setting

__all__ = ["BudgetCap", "BudgetDelta", "BudgetSubject"]

BudgetCap = Annotated[
    float | None,
    setting(
        "--budget-cap",
        help="Refuse to train if all runs on this data would then have spent more than this ε.",
        panel=PRIVACY,
        default="no limit",
    ),
]
BudgetSubject = Annotated[
    str | None,
    typer.Argument(
        metavar="DATASET|FINGERPRINT",
        help="Only one dataset: its name, or the beginning of its fingerprint.",
        show_default=False,
    ),
]
BudgetDelta = Annotated[
    float | None,
    typer.Option(
        "--delta",
        help="δ to state ε at. [dim]\\[default: the smallest of the runs][/dim]",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
