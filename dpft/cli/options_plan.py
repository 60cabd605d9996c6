"""Options of ``train --plan``."""

from __future__ import annotations

from typing import Annotated

import typer

from dpft.cli.options import RUN
from dpft.errors import UsageError

__all__ = ["NoProbe", "check"]

NoProbe = Annotated[
    bool,
    typer.Option(
        "--no-probe",
        help="With --plan: do not time a few micro-batches for the run's duration and memory.",
        metavar="",
        rich_help_panel=RUN,
        show_default=False,
    ),
]


def check(*, plan: bool, no_probe: bool) -> None:
    """Refuse ``--no-probe`` by itself.

    Raises:
        UsageError: there is no ``--plan``.
    """
    if no_probe and not plan:
        raise UsageError("--no-probe has no effect without --plan", hint="leave it out, or give --plan")
