"""Options of ``plan``, and of ``train --plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dpft.cli.options import DATA, RUN
from dpft.errors import UsageError

__all__ = [
    "AffordBatch",
    "AffordEpochs",
    "Drawing",
    "Examples",
    "Fingerprint",
    "NoProbe",
    "Replace",
    "ShowFrontier",
    "check",
]

_QUESTION, _FRONTIER = "The question", "The frontier"


def _option(*declarations: str, help: str, panel: str, **more: Any) -> Any:
    return typer.Option(*declarations, help=help, rich_help_panel=panel, show_default=False, **more)


Examples = Annotated[
    int | None, _option("--examples", "-n", help="How many training examples there are.", panel=DATA)
]
Fingerprint = Annotated[
    str | None,
    _option(
        "--fingerprint",
        help="With --examples: a ledger to add to, by what 'dpft budget' calls it.",
        panel=DATA,
        metavar="DATASET|FINGERPRINT",
    ),
]
AffordEpochs = Annotated[
    bool,
    _option(
        "--afford-epochs",
        help="The most epochs that keep to --target-epsilon at --noise-multiplier, all runs counted.",
        panel=_QUESTION,
        metavar="",
    ),
]
AffordBatch = Annotated[
    bool,
    _option(
        "--afford-batch-size",
        help="The largest batch size that does, for so many --epochs.",
        panel=_QUESTION,
        metavar="",
    ),
]
ShowFrontier = Annotated[
    bool,
    _option(
        "--frontier",
        help="Draw ε against σ, batch size and epochs; a table where there is no terminal.",
        panel=_FRONTIER,
        metavar="",
    ),
]
Drawing = Annotated[
    Path | None,
    _option(
        "--output", "-o", help="Write the frontier as .svg, .png or .pdf (needs matplotlib).", panel=_FRONTIER
    ),
]
Replace = Annotated[bool, _option("--overwrite", help="Replace what is there.", panel=_FRONTIER, metavar="")]


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
