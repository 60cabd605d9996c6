"""Options about the hub."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AllowUnclaimed", "Public", "Push"]

_HUB = "Hub"

Push = Annotated[
    str | None,
    typer.Option(
        "--push",
        metavar="NAMESPACE/NAME",
        help="Upload the export to this repository of the hub, once it verifies; a new one is private.",
        rich_help_panel=_HUB,
        show_default=False,
    ),
]
Public = Annotated[
    bool,
    typer.Option(
        "--public", help="Let anyone read what is pushed.", rich_help_panel=_HUB, show_default=False
    ),
]
AllowUnclaimed = Annotated[
    bool,
    typer.Option(
        "--allow-unclaimed",
        help="Push a model that has no valid (ε, δ).",
        rich_help_panel=_HUB,
        show_default=False,
    ),
]
