"""``torchrun -m dpft train``: rank 0 is the command, the other processes follow it and stay silent."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from dpft.errors import UsageError

if TYPE_CHECKING:
    from dpft.spec import RunSpec

__all__ = ["following", "gathered", "hush", "refuse"]

_PATIENCE_DAYS = 7  # while rank 0 scores or calibrates; a process that is gone is noticed at once
_Call = Callable[[int], Mapping[str, Any]]


def following() -> bool:
    """Whether this process is not the first of several that a launcher started."""
    return _number("WORLD_SIZE", 1) > 1 and _number("RANK", 0) > 0


def hush() -> None:
    """Let a following process print nothing on stdout: there is one result, and rank 0 prints it."""
    if following():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for the rest of the process)


def refuse(option: str) -> None:
    """Refuse an option that is for one process.

    Raises:
        UsageError: there are several.
    """
    if _number("WORLD_SIZE", 1) > 1:
        raise UsageError(
            f"{option} is for one process, and there are {_number('WORLD_SIZE', 1)}",
            hint="leave out the launcher: a run may begin in several processes and go on in one",
        )


@contextmanager
def gathered(specs: Sequence[RunSpec]) -> Iterator[_Call]:
    """Bring the processes together, if there are several.

    Args:
        specs: the runs, the same in every process.

    Yields:
        On rank 0, and where there is one process only: what calls all to the run of a number, and gives the
        further arguments of ``training.run.train``.

    Raises:
        typer.Exit: in a following process, when all runs are over.
        DpftError: in a following process that failed.
    """
    if _number("WORLD_SIZE", 1) < 2:
        yield lambda number: {}
        return
    from datetime import timedelta

    import torch.distributed as dist

    from dpft.privacy.team import Team

    dist.init_process_group("gloo", timeout=timedelta(days=_PATIENCE_DAYS))
    try:
        team = Team()
        if team.rank:
            _follow_all(specs, team)
            raise typer.Exit

        def call(number: int) -> Mapping[str, Any]:
            team.call(number)
            return {"team": team}

        try:
            yield call
        finally:
            team.dismiss()
    finally:
        dist.destroy_process_group()


def _follow_all(specs: Sequence[RunSpec], team: Any) -> None:
    from dpft.training.parallel import follow
    from dpft.training.signals import uninterrupted

    with uninterrupted():  # whether a run stops is for rank 0 to say
        while (number := team.await_call()) is not None:
            follow(specs[number], team)


def _number(variable: str, otherwise: int) -> int:
    given = os.environ.get(variable, "")
    return int(given) if given.isdecimal() else otherwise
