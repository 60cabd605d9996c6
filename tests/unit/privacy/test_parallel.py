"""Row 6: two processes do what one does; the noise is added once, of variance (σC)² in all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests import statistics
from tests.statistics import ALPHA
from tests.unit.privacy import two_processes
from tests.unit.privacy.plans import BATCH, CLIP, EXAMPLES, SIGMA
from tests.unit.privacy.two_processes import STEPS, clipped_sum

pytestmark = pytest.mark.slow

Floats = npt.NDArray[np.float64]
BAD_NOISE = ("noise on each rank", "noise too thin")


class Seen:
    """What both ranks left of one scene."""

    def __init__(self, folder: Path, name: str) -> None:
        self.ranks = [dict(np.load(folder / f"{name}-{rank}.npz")) for rank in range(2)]
        endings = [json.loads((folder / f"{rank}.json").read_text())[name] for rank in range(2)]
        self.leader, self.follower = endings

    def draws(self, rank: int, of: str = "drawn", sizes: str = "sizes") -> list[npt.NDArray[np.int64]]:
        found = self.ranks[rank]
        return np.split(found[of], np.cumsum(found[sizes])[:-1]) if len(found[sizes]) else []

    def shares(self, rank: int) -> list[npt.NDArray[np.int64]]:
        return self.draws(rank, "mine", "own_sizes")

    @property
    def steps(self) -> list[int]:
        return [int(found["released"][0]) for found in self.ranks]

    def noise(self) -> Floats:
        """What was added to the sum of what was drawn, in every coordinate of every step."""
        got = self.ranks[0]["got"].astype(float) * BATCH
        sums = np.stack([clipped_sum(drawn).numpy() for drawn in self.draws(0)])
        return np.asarray(got - sums)

    def given(self) -> Floats:
        """What each rank gave, less what it should have: its share's clipped sum."""
        wrong = []
        for rank, found in enumerate(self.ranks):
            sums = np.stack([clipped_sum(mine).numpy() for mine in self.shares(rank)])
            wrong.append(found["gave"] - sums)
        return np.stack(wrong)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    folder = tmp_path_factory.mktemp("two-processes")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    processes = [
        subprocess.Popen(
            [sys.executable, two_processes.__file__, str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, err = process.communicate(timeout=240)
            assert process.returncode == 0, err
    finally:
        for process in processes:
            process.kill()
    return {name: Seen(folder, name) for name in two_processes.SCENES}


@pytest.mark.parametrize("name", ["honest", "honest again"])
def test_both_ranks_get_the_same_gradient_and_begin_with_the_same_weights(
    name: str, scenes: dict[str, Seen]
) -> None:
    seen = scenes[name]
    assert (seen.leader, seen.follower, seen.steps) == ("done", "done", [STEPS, STEPS])
    assert np.array_equal(seen.ranks[0]["got"], seen.ranks[1]["got"])
    assert np.array_equal(seen.ranks[0]["weights"], seen.ranks[1]["weights"])
    assert len({step.tobytes() for step in seen.ranks[0]["got"]}) == STEPS


def test_every_example_that_was_drawn_is_summed_by_one_rank(scenes: dict[str, Seen]) -> None:
    seen = scenes["honest"]
    for drawn, heard, mine, theirs in zip(
        seen.draws(0), seen.draws(1), seen.shares(0), seen.shares(1), strict=True
    ):
        assert np.array_equal(drawn, heard)
        assert np.array_equal(drawn, np.sort(np.concatenate([mine, theirs])))
        assert len(theirs) > 0


def test_the_sum_is_that_of_one_process(scenes: dict[str, Seen]) -> None:
    assert np.abs(scenes["silent"].noise()).max() <= 1e-5 * CLIP
    assert np.abs(scenes["honest"].given()).max() <= 1e-6 * CLIP


def test_a_sum_of_more_than_was_drawn_is_seen(scenes: dict[str, Seen]) -> None:
    assert np.abs(scenes["samples of their own"].noise()).max() > 1e-2 * CLIP


@pytest.mark.statistical
def test_the_noise_is_added_once(scenes: dict[str, Seen]) -> None:
    noise = scenes["honest"].noise()
    assert statistics.variance_p_value(noise.ravel(), SIGMA * CLIP) > ALPHA
    assert statistics.normality_p_value(noise.ravel()[::7], SIGMA * CLIP) > ALPHA


@pytest.mark.statistical
@pytest.mark.parametrize("name", BAD_NOISE)
def test_noise_of_another_size_is_rejected(name: str, scenes: dict[str, Seen]) -> None:
    assert scenes[name].leader == "done"
    assert statistics.variance_p_value(scenes[name].noise().ravel(), SIGMA * CLIP) < ALPHA


@pytest.mark.statistical
def test_noise_divided_among_ranks_has_the_right_size_and_is_rejected_all_the_same(
    scenes: dict[str, Seen],
) -> None:
    """Its variance is right in all; but what a rank gives must be its clipped sum and nothing else."""
    seen = scenes["noise divided among ranks"]
    assert statistics.variance_p_value(seen.noise().ravel(), SIGMA * CLIP) > ALPHA
    assert np.abs(seen.given()).max() > 0.1 * SIGMA * CLIP


@pytest.mark.statistical
def test_there_is_one_sample(scenes: dict[str, Seen]) -> None:
    rate = BATCH / EXAMPLES
    honest, wrong = scenes["honest"], scenes["samples of their own"]
    assert statistics.batch_size_p_value(in_all(honest), EXAMPLES, rate) > ALPHA
    assert statistics.batch_size_p_value(in_all(wrong), EXAMPLES, rate) < ALPHA


def in_all(seen: Seen) -> list[npt.NDArray[np.int64]]:
    return [np.concatenate(both) for both in zip(seen.shares(0), seen.shares(1), strict=True)]


FAILED = "DpftError: another process of this run failed"
FAILURES: dict[str, tuple[str, str, int]] = {
    "a follower fails": (FAILED, "ZeroDivisionError: at work", 2),
    "the leader is interrupted": ("KeyboardInterrupt: ", "RunOverError: another process failed", 2),
    "the sum is not finite": (
        "PrivacyError: the clipped sum of w is not",
        "RunOverError: rank 0 says end",
        2,
    ),
    "other materials": (FAILED, "DpftError: process 1 has another", 0),
}


@pytest.mark.parametrize("name", FAILURES)
def test_whatever_goes_wrong_ends_the_run_for_both_with_nothing_released(
    name: str, scenes: dict[str, Seen]
) -> None:
    """And the next run goes as if nothing had been: "honest again" comes after these."""
    leader, follower, released = FAILURES[name]
    seen: Any = scenes[name]
    assert seen.leader.startswith(leader)
    assert seen.follower.startswith(follower)
    assert seen.steps == [released, released]
