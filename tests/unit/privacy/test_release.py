"""Noise is added to every number once, in float64; sums are used up; nothing that is not finite goes out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpft.errors import PrivacyError
from dpft.privacy import release
from dpft.privacy.release import add_noise, check_finite
from dpft.privacy.step import accumulators, step

from .plans import PARAMETERS, Silent, plan

BLOCK = 8


class Counting:
    """Hands out 1, 2, 3 …: each number once."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self, count: int) -> torch.Tensor:
        self.given += count
        return torch.arange(self.given - count + 1, self.given + 1, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "_BLOCK", BLOCK)


SIZES = [[1], [BLOCK], [BLOCK + 1], [3, 3, 3, 3], [1, 5 * BLOCK + 2, 1, 2 * BLOCK], [0, 4], []]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_number_gets_noise_of_its_own(sizes: list[int]) -> None:
    sums = {str(i): torch.full((size,), 100.0) for i, size in enumerate(sizes)}
    normals = Counting()
    add_noise(sums, normals, deviation=3.0, divisor=2.0)
    flat = torch.cat([*sums.values(), torch.zeros(0)])
    assert torch.equal(flat, (100 + 3 * torch.arange(1, len(flat) + 1)) / 2)
    assert normals.given == len(flat)


def test_noise_is_added_before_rounding() -> None:
    """2²⁴ + 1 is no float32; its fifth, as a float32, is not that of 2²⁴."""
    value = {"w": torch.tensor([2.0**24])}
    add_noise(value, lambda count: torch.ones(count, dtype=torch.float64), 1.0, 5.0)
    planted = (torch.tensor([2.0**24]) + torch.ones(1)) / 5
    assert value["w"].item() == 3355443.5
    assert planted.item() == 3355443.25


def test_parameters_of_any_shape_keep_it() -> None:
    sums = {"a": torch.zeros(2, 3, 4), "b": torch.zeros(())}
    add_noise(sums, Counting(), 1.0, 1.0)
    assert torch.equal(sums["a"].flatten(), torch.arange(1.0, 25.0))
    assert sums["b"].item() == 25


@pytest.mark.parametrize("bad", [[torch.inf, 1.0], [torch.nan, 0.0], [torch.inf, -torch.inf]])
def test_what_is_not_finite_is_refused_by_name(bad: list[float]) -> None:
    with pytest.raises(PrivacyError, match="sum of b is not finite"):
        check_finite({"a": torch.zeros(2), "b": torch.tensor(bad)})


def test_large_sums_are_not_mistaken_for_infinite_ones() -> None:
    huge = torch.full((4,), 3e38)
    assert not torch.isfinite(huge.sum())
    check_finite({"w": huge})


def test_sums_become_the_gradients() -> None:
    made = plan(stream=Silent)
    sums = accumulators(PARAMETERS)
    step(made, PARAMETERS, lambda indices: [None], lambda _, into: into["b"].fill_(40.0), sums)
    try:
        assert all(p.grad is sums[name] for name, p in PARAMETERS.items())
        assert torch.equal(sums["b"], torch.ones(2000))  # 40 / B
    finally:
        for parameter in PARAMETERS.values():
            parameter.grad = None


@pytest.mark.parametrize("cleared", [True, False])
def test_used_accumulators_start_from_zero(cleared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last step left in them must not enter this one; the planted bug leaves it there."""
    if not cleared:
        monkeypatch.setattr(torch, "_foreach_zero_", lambda values: None)
    parameters = {"w": nn.Parameter(torch.zeros(3))}
    sums = accumulators(parameters)
    made = plan(stream=Silent)
    seen = []
    for _ in range(2):
        step(made, parameters, lambda indices: [None], lambda _, into: into["w"].add_(80.0), sums)
        assert parameters["w"].grad is not None
        seen.append(parameters["w"].grad.clone())
    assert torch.equal(seen[0], seen[1]) == cleared
