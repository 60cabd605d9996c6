"""The processes of one run, and the words they exchange.

The ranks keep step by a fixed exchange: rank 0 says a word, the others hear it, and each word has its known
sequel. Nothing that is sent is ever unpickled. What is sent is private and not encrypted: let the processes
talk over a network that nobody else reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from dpft.errors import DpftError

__all__ = ["Indices", "Place", "RunOverError", "Team", "Word"]

Indices = npt.NDArray[np.int64]


class Word(IntEnum):
    """What rank 0 says next; each with one number."""

    RUN = 1  # which run begins
    BEGIN = 2  # how long the digest of its materials is
    STEP = 3  # how many examples were drawn
    RELEASED = 4
    END = 5  # of this run
    QUIT = 6


class Place(IntEnum):
    """How far the ranks have come together: it says what the others wait for."""

    IDLE = 0  # between runs
    RUN = 1  # between steps
    STEP = 2  # each at work on its share; what comes next is whether all are well


class RunOverError(DpftError):
    """Rank 0 has ended the run; a follower has nothing more to do, and nothing to report."""


class Team:
    """The processes of one run, over ``torch.distributed``, whose process group is there already.

    Args:
        device: of the tensors that are exchanged; None for the CPU.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._device = device or torch.device("cpu")
        self.place = Place.IDLE

    # -- of rank 0

    def call(self, run: int) -> None:
        """Rank 0: begin the ``run``-th run; the others prepare it."""
        self.say(Word.RUN, run)
        self.place = Place.RUN

    def end(self) -> None:
        """Rank 0: end the run for all, wherever it was left; nothing if it is over."""
        place, self.place = self.place, Place.IDLE
        with suppress(DpftError):  # of processes that are gone there is nothing more to tell
            if place is Place.STEP:
                self.all_well(False)
            elif place is Place.RUN:
                self.say(Word.END)

    def dismiss(self) -> None:
        """Rank 0: there is no other run."""
        self.end()
        with suppress(DpftError):
            self.say(Word.QUIT)

    # -- of the others

    def await_call(self) -> int | None:
        """The others: the number of the next run; None if there is none."""
        word, number = self.hear()
        if word is not Word.RUN:
            return None
        self.place = Place.RUN
        return number

    def object(self) -> None:
        """The others: this rank cannot go on. The run ends for all at the next occasion, with no release."""
        place, self.place = self.place, Place.IDLE
        with suppress(DpftError):
            if place is Place.RUN:
                word, count = self.hear()
                if word not in (Word.BEGIN, Word.STEP):
                    return
                self.receive(count)
            if place is not Place.IDLE:
                self.all_well(False)

    # -- of the plans

    def all_well(self, well: bool) -> bool:
        """Whether all ranks are; each says so of itself."""
        trouble = torch.tensor([0 if well else 1], device=self._device)
        with _together():
            dist.all_reduce(trouble, op=dist.ReduceOp.MAX)
        return not bool(trouble.item())

    def add_up(self, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of all ranks, in place on rank 0; elsewhere they are of no more use."""
        flat = torch.cat([value.reshape(-1) for value in sums.values()]).to(self._device)
        with _together():
            dist.reduce(flat, dst=0)
        _unpack(flat, sums)

    def hand_out(self, values: Mapping[str, Tensor]) -> None:
        """Give every rank the values of rank 0, in place."""
        flat = torch.cat([value.reshape(-1) for value in values.values()]).to(self._device)
        with _together():
            dist.broadcast(flat, src=0)
        _unpack(flat, values)

    def say(self, word: Word, number: int = 0) -> None:
        """Rank 0: what comes next."""
        self._broadcast(torch.tensor([int(word), number]))

    def hear(self) -> tuple[Word, int]:
        """The others: what comes next, and its number."""
        heard = self._broadcast(torch.zeros(2, dtype=torch.int64))
        return Word(int(heard[0])), int(heard[1])

    def expect(self, wanted: Word) -> int:
        """The others: the number of ``wanted``, if that comes next.

        Raises:
            RunOverError: something else does.
        """
        word, number = self.hear()
        if word is not wanted:
            self.place = Place.IDLE
            raise RunOverError(f"rank 0 says {word.name.lower()}")
        return number

    def send(self, values: Indices) -> None:
        """Whole numbers, as many as the word before announced."""
        if len(values):
            self._broadcast(torch.from_numpy(values))

    def receive(self, count: int) -> Indices:
        """The others: so many whole numbers, as rank 0 sends them."""
        received: Indices = np.zeros(count, dtype=np.int64)
        return self._broadcast(torch.from_numpy(received)).numpy() if count else received

    def _broadcast(self, values: Tensor) -> Tensor:
        moved = values.to(self._device)
        with _together():
            dist.broadcast(moved, src=0)
        return moved.cpu()


def _unpack(flat: Tensor, values: Mapping[str, Tensor]) -> None:
    """Copy a flat tensor's pieces back into ``values``, in their order."""
    place = 0
    for value in values.values():
        value.copy_(flat[place : place + value.numel()].view_as(value))
        place += value.numel()


@contextmanager
def _together() -> Iterator[None]:
    """An exchange between processes; a lost one is told in one line."""
    try:
        yield
    except RuntimeError as error:
        raise DpftError(
            "another process of this run is gone, or cannot be reached",
            hint="its own message says why; nothing more was released",
        ) from error
