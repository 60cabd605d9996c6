"""Options of checkpoints, and of going on from them."""

from __future__ import annotations

from typing import Annotated

import typer

from dpft.cli.complete import resumable_references
from dpft.cli.options import RUN, setting

__all__ = ["CheckpointEvery", "Resume"]

Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        help="Go on with a run that was interrupted, failed or crashed, from its last checkpoint. "
        "All that decides the result stays as it was.",
        metavar="RUN",
        rich_help_panel=RUN,
        show_default=False,
        autocompletion=resumable_references,
    ),
]
CheckpointEvery = Annotated[
    int | None,
    setting(
        "--checkpoint-every",
        help="Steps between checkpoints; 0 for one only when the run is stopped. The last two are kept.",
        panel=RUN,
        metavar="STEPS",
        default="a twentieth of the run, at least a minute",
    ),
]
