"""Run as a program, twice: two gloo processes that act scenes together, right ones and wrong ones.

    python two_processes.py RANK FOLDER

Each leaves in ``FOLDER/<scene>-<rank>.npz`` what it drew, gave and got, and in ``FOLDER/<rank>.json`` how
each scene ended for it. ``test_parallel.py`` judges.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from dpft.errors import DpftError
from dpft.privacy.noise import KeyStream, Purpose
from dpft.privacy.parallel import FollowingPlan, LeadingPlan, share
from dpft.privacy.plan import Draw, Plan
from dpft.privacy.step import step
from dpft.privacy.team import Team
from tests.unit.privacy.plans import CLIP, EXAMPLES, PARAMETERS, SIGMA, Silent, key, plan

RANKS, STEPS, PIECE = 2, 12, 7
WIDTH = sum(p.numel() for p in PARAMETERS.values())
GRADIENTS = torch.randn(EXAMPLES, WIDTH, generator=torch.Generator().manual_seed(5)) / WIDTH**0.5
GRADIENTS[::3] *= 0.1  # some below the clipping norm, most above
MATERIALS = bytes(range(32))

Sums = Mapping[str, Tensor]


def clipped_sum(indices: Any) -> Tensor:
    """What one process would sum up, float64."""
    rows = GRADIENTS[torch.as_tensor(np.asarray(indices))].double()
    return (rows * (CLIP / rows.norm(dim=1, keepdim=True)).clamp(max=1.0)).sum(0)


def flat(values: Sums) -> Tensor:
    return torch.cat([values[name].detach().flatten() for name in PARAMETERS]).clone()


def add(values: Tensor, sums: Sums) -> None:
    for value, piece in zip(sums.values(), values.split([v.numel() for v in sums.values()]), strict=True):
        value += piece.view(value.shape)


def noise(rank: int, number: int, factor: float) -> Tensor:
    """Noise that no rank may add by itself."""
    stream = KeyStream(key(1000 + rank))
    stream.begin(number, Purpose.NOISE)
    return (stream.normals(WIDTH) * factor * SIGMA * CLIP).float()


@dataclass
class Scene:
    """A run of some steps, by both ranks.

    Attributes:
        stream: of the leader's plan.
        own_noise: in units of σC: what each rank adds to its own sums (planted).
        own_sample: each rank draws of its own (planted).
        trouble: called in each step with rank and step, before anything is summed.
        materials: what a rank says it has.
    """

    stream: type[KeyStream] = KeyStream
    own_noise: float = 0.0
    own_sample: bool = False
    trouble: Callable[[int, int], None] = lambda rank, number: None
    materials: Callable[[int], bytes] = lambda rank: MATERIALS
    told: dict[str, list[Any]] = field(
        default_factory=lambda: {"drawn": [], "mine": [], "gave": [], "got": []}
    )


class Thin(KeyStream):
    """fastDP's: as if each of N ranks had added its noise, and only one had."""

    def normals(self, count: int) -> Tensor:
        return super().normals(count) / RANKS**0.5


def _fail_on(rank: int, error: BaseException) -> Callable[[int, int], None]:
    def trouble(mine: int, number: int) -> None:
        if (mine, number) == (rank, 3):
            raise error

    return trouble


SCENES: dict[str, Callable[[], Scene]] = {
    "honest": Scene,
    "silent": lambda: Scene(stream=Silent),
    "noise on each rank": lambda: Scene(stream=Silent, own_noise=1.0),
    "noise too thin": lambda: Scene(stream=Thin),
    "noise divided among ranks": lambda: Scene(stream=Silent, own_noise=RANKS**-0.5),
    "samples of their own": lambda: Scene(stream=Silent, own_sample=True),
    "a follower fails": lambda: Scene(trouble=_fail_on(1, ZeroDivisionError("at work"))),
    "the leader is interrupted": lambda: Scene(trouble=_fail_on(0, KeyboardInterrupt())),
    "the sum is not finite": lambda: Scene(trouble=_poison),
    "other materials": lambda: Scene(materials=lambda rank: bytes([rank] * 32)),
    "honest again": Scene,
}


def _poison(rank: int, number: int) -> None:
    if (rank, number) == (1, 3):
        GRADIENTS[:, 0] = float("nan")


class Telling(Team):
    """Remembers what this rank gives to the sum."""

    scene: Scene

    def add_up(self, sums: Sums) -> None:
        if self.scene.own_noise:
            extra = noise(self.rank, len(self.scene.told["gave"]) + 1, self.scene.own_noise)
            for value, piece in zip(
                sums.values(), extra.split([v.numel() for v in sums.values()]), strict=True
            ):
                value += piece.view(value.shape)
        self.scene.told["gave"].append(flat(sums).numpy())
        super().add_up(sums)


def act(scene: Scene, team: Telling, parameters: Mapping[str, torch.nn.Parameter]) -> int:
    """This rank's part; returns the steps it has seen released."""
    team.scene = scene
    own = plan(7 if team.rank == 0 else 8, stream=scene.stream)
    played: Any = LeadingPlan(own, team) if team.rank == 0 else FollowingPlan(own.schedule, own.clipper, team)
    number = 0

    def pieces(indices: Any) -> Iterator[Any]:
        scene.told["drawn"].append(indices)
        cut = [indices[start : start + PIECE] for start in range(0, len(indices), PIECE)]
        mine = cut if scene.own_sample else list(share(cut, team.rank, team.size))
        scene.told["mine"].append(np.concatenate([np.zeros(0, np.int64), *mine]))
        yield from mine

    def accumulate(piece: Any, sums: Sums) -> None:
        scene.trouble(team.rank, number)
        add(clipped_sum(piece).float(), sums)

    try:
        played.begin(scene.materials(team.rank), parameters)
        for number in range(1, STEPS + 1):  # noqa: B007 (read by accumulate)
            step(_Own(played, own) if scene.own_sample else played, parameters, pieces, accumulate)
            scene.told["got"].append(flat({name: p.grad for name, p in parameters.items()}).numpy())  # type: ignore[misc]
        if team.rank:
            played.finish()
    finally:
        team.end() if team.rank == 0 else team.object()
        scene.told["released"] = [own.steps_taken if team.rank == 0 else played.steps_taken]
    return len(scene.told["got"])


class _Own:
    """Each rank samples with rate q, and all of it is summed (planted)."""

    def __init__(self, played: Plan, own: Any) -> None:
        self._played, self._own = played, own

    def draw(self) -> Draw:
        self._theirs = self._played.draw()
        if isinstance(self._played, LeadingPlan):
            return self._theirs
        mine = self._own.draw()
        self._own.release(mine, {})
        return Draw(mine.indices)

    def release(self, draw: Draw, sums: Sums) -> dict[str, Tensor]:
        return self._played.release(self._theirs, sums)


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS)
    team, first = Telling(), GRADIENTS[:, 0].clone()
    endings: dict[str, str] = {}
    for position, (name, make) in enumerate(SCENES.items()):
        GRADIENTS[:, 0] = first
        scene = make()
        generator = torch.Generator().manual_seed(rank)  # so that they do not begin with the same weights
        parameters = {
            n: torch.nn.Parameter(torch.randn(p.shape, generator=generator)) for n, p in PARAMETERS.items()
        }
        if rank == 0:
            team.call(position)
        else:
            assert team.await_call() == position
        try:
            act(scene, team, parameters)
            endings[name] = "done"
        except (DpftError, ArithmeticError, KeyboardInterrupt) as error:
            endings[name] = f"{type(error).__name__}: {error}"
        np.savez(
            folder / f"{name}-{rank}.npz",
            weights=flat(parameters).numpy(),
            sizes=[len(drawn) for drawn in scene.told["drawn"]],
            own_sizes=[len(mine) for mine in scene.told["mine"]],
            **{
                k: np.concatenate(v) if k in ("drawn", "mine") and v else np.array(v)
                for k, v in scene.told.items()
            },
        )
    if rank == 0:
        team.dismiss()
    else:
        assert team.await_call() is None
    (folder / f"{rank}.json").write_text(json.dumps(endings))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
