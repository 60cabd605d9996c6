"""One step over several processes: all compute, one draws and one releases.

Rank 0 leads. It alone has the sampler, the noise and their key. For every step it hands out whom it drew;
each rank sums the clipped gradients of its share of the micro-batches; the sums are added up at rank 0, which
releases them once, with noise of variance (σC)² in all; and every rank applies the same released gradient.
No rank adds noise of its own: N times (σC)² would be too much, and (σC)²/N each is wrong as soon as one
rank's share is looked at, or left out. No rank draws of its own: N samples are another mechanism than the one
that is accounted for. Whatever goes wrong on one rank ends the step on all of them, and nothing is released.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dpft.errors import DpftError
from dpft.privacy.clipping import Clipper
from dpft.privacy.plan import Draw, Plan, Schedule
from dpft.privacy.team import Place, RunOverError, Team, Word

__all__ = ["FollowingPlan", "LeadingPlan", "share"]

T = TypeVar("T")


def share(pieces: Iterable[T], rank: int, size: int) -> Iterator[T]:
    """Every ``size``-th piece, from the ``rank``-th: each piece is in exactly one rank's share.

    >>> [list(share("abcde", rank, 2)) for rank in range(2)]
    [['a', 'c', 'e'], ['b', 'd']]
    """
    return itertools.islice(pieces, rank, None, size)


class LeadingPlan:
    """Rank 0's plan: the run's own, whose draws are handed out and whose sums are added up.

    Args:
        plan: the run's own.
        team: the processes, called to this run.
    """

    def __init__(self, plan: Plan, team: Team) -> None:
        self._plan, self._team = plan, team
        self.schedule = plan.schedule

    @property
    def clipper(self) -> Clipper | None:
        """The run's."""
        return self._plan.clipper

    @property
    def steps_taken(self) -> int:
        """Releases so far."""
        return self._plan.steps_taken

    def begin(self, materials: bytes, parameters: Mapping[str, nn.Parameter]) -> None:
        """Let all ranks start from the same weights, if they have the same spec and data.

        Args:
            materials: digest of these; it tells nobody anything who has not got them.
            parameters: trainable parameters by name.

        Raises:
            DpftError: some rank has others, or failed before.
        """
        team = self._team
        team.say(Word.BEGIN, len(materials))
        team.send(np.frombuffer(materials, dtype=np.uint8).astype(np.int64))
        team.place = Place.STEP
        self._check_all_well()
        team.hand_out(_data(parameters))

    def draw(self) -> Draw:
        """The run's next draw; every rank hears of it."""
        draw = self._plan.draw()
        self._team.say(Word.STEP, len(draw.indices))
        self._team.place = Place.STEP
        self._team.send(np.ascontiguousarray(draw.indices, dtype=np.int64))
        return draw

    def release(self, draw: Draw, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The run's release of the sums over all ranks; every rank gets the same.

        Raises:
            DpftError: a rank failed; nothing is released.
            PrivacyError: as the run's plan.
        """
        self._check_all_well()
        self._team.add_up(sums)
        released = self._plan.release(draw, sums)
        self._team.say(Word.RELEASED)
        self._team.hand_out(released)
        return released

    def _check_all_well(self) -> None:
        if self._team.all_well(True):
            self._team.place = Place.RUN
            return
        self._team.place = Place.IDLE
        raise DpftError(
            "another process of this run failed",
            hint="its own message says why; nothing more was released",
        )


class FollowingPlan:
    """Another rank's plan: it draws what rank 0 drew, and gets what rank 0 released.

    It has neither sampler nor noise nor a key.

    Args:
        schedule: the run's.
        clipper: the run's.
        team: the processes, called to this run.
    """

    def __init__(self, schedule: Schedule, clipper: Clipper | None, team: Team) -> None:
        self.schedule = schedule
        self.clipper = clipper
        self.steps_taken = 0
        self._team = team

    def begin(self, materials: bytes, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take part in rank 0's :meth:`LeadingPlan.begin`.

        Raises:
            RunOverError: the run has ended elsewhere.
            DpftError: this rank has not what rank 0 has; the run is over for all.
        """
        theirs = self._team.receive(self._team.expect(Word.BEGIN))
        self._team.place = Place.STEP
        same = theirs.astype(np.uint8).tobytes() == materials
        if self._team.all_well(same):
            self._team.place = Place.RUN
            self._team.hand_out(_data(parameters))
            return
        self._team.place = Place.IDLE
        if same:
            raise RunOverError("another process failed")
        raise DpftError(
            f"process {self._team.rank} has another base model, other data or other options than process 0",
            hint="give all processes the same command, files and cache",
        )

    def draw(self) -> Draw:
        """What rank 0 drew.

        Raises:
            RunOverError: there is no next step.
        """
        indices = self._team.receive(self._team.expect(Word.STEP))
        self._team.place = Place.STEP
        return Draw(indices)

    def release(self, draw: Draw, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give rank 0 this rank's sums, and take what it releases.

        Raises:
            RunOverError: nothing was released.
        """
        team = self._team
        if not team.all_well(True):
            team.place = Place.IDLE
            raise RunOverError("another process failed")
        team.place = Place.RUN
        team.add_up(sums)
        team.expect(Word.RELEASED)
        released = {name: torch.zeros_like(value) for name, value in sums.items()}
        team.hand_out(released)
        self.steps_taken += 1
        return released

    def finish(self) -> None:
        """Wait for rank 0 to end the run."""
        with suppress(RunOverError):
            self._team.expect(Word.END)
        self._team.place = Place.IDLE


def _data(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.data for name, parameter in parameters.items()}
