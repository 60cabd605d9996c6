"""The noise that is released: what the event says, on every parameter, for any micro-batches (row 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from dpft.privacy.noise import KeyStream
from dpft.privacy.plan import Draw, PrivatePlan
from dpft.privacy.step import step
from tests import statistics
from tests.statistics import ALPHA

from .plans import BATCH, CLIP, PARAMETERS, SIGMA, Silent, key, plan, sums


def noise_p_values(make: Any) -> dict[str, float]:
    """One plan's noise, each parameter on its own: spread, shape, independence of steps and parameters."""
    made = make()
    deviation = SIGMA * CLIP / BATCH
    first, second = (
        {name: value.flatten().double().numpy() for name, value in made.release(made.draw(), sums()).items()}
        for _ in range(2)
    )
    found = {}
    for name, values in first.items():
        found[f"variance of {name}"] = statistics.variance_p_value(values, deviation)
        found[f"normality of {name}"] = statistics.normality_p_value(values, deviation)
    pairs = {"steps of w": (first["w"], second["w"]), "steps of b": (first["b"], second["b"])}
    for what, (one, other) in {**pairs, "w and b": (first["w"], first["b"])}.items():
        silent = one.std() == 0 or other.std() == 0
        found[f"independence of {what}"] = 0.0 if silent else statistics.correlation_p_value(one, other)
    return found


@pytest.mark.statistical
def test_noise_is_what_the_event_says() -> None:
    assert min(noise_p_values(plan).values()) > ALPHA


class Scaled(KeyStream):
    factor = 0.9

    def normals(self, count: int) -> torch.Tensor:
        return super().normals(count) * self.factor


class Halved(Scaled):
    factor = 0.5


class Repeated(KeyStream):
    def normals(self, count: int) -> torch.Tensor:
        return KeyStream(key(99)).normals(count)


@pytest.mark.statistical
@pytest.mark.parametrize("stream", [Scaled, Halved, Silent, Repeated])
def test_planted_noise_bugs_are_rejected(stream: type[KeyStream]) -> None:
    assert min(noise_p_values(lambda: plan(stream=stream)).values()) < ALPHA


class Released(PrivatePlan):
    """Spoils what the real release gives."""

    def release(self, draw: Draw, sums: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.spoil(super().release(draw, sums))

    def spoil(self, out: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        raise AssertionError


class VectorsExact(Released):
    """No noise on parameters of one dimension."""

    def spoil(self, out: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value if value.dim() > 1 else torch.zeros_like(value) for name, value in out.items()}


class OneForAll(Released):
    """The same noise for every parameter."""

    def spoil(self, out: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: out["w"].flatten().view(value.shape) for name, value in out.items()}


@pytest.mark.statistical
@pytest.mark.parametrize("kind", [VectorsExact, OneForAll])
def test_planted_bugs_of_single_parameters_are_rejected(kind: type[Released]) -> None:
    good = plan()
    assert (
        min(noise_p_values(lambda: kind(good.schedule, good.clipper, SIGMA, KeyStream(key(1)))).values())
        < ALPHA
    )


@pytest.mark.statistical
@pytest.mark.parametrize("pieces", [1, 4, 40])
def test_noise_does_not_depend_on_micro_batching(pieces: int) -> None:
    made = plan()
    made._sampler.draw = lambda: np.arange(40)  # type: ignore[method-assign]

    def cut(indices: np.ndarray) -> list[np.ndarray]:
        return np.array_split(indices, pieces)

    step(made, PARAMETERS, cut, lambda piece, into: None)
    noise = torch.cat([p.grad.flatten() for p in PARAMETERS.values() if p.grad is not None]).double().numpy()
    assert statistics.variance_p_value(noise, SIGMA * CLIP / BATCH) > ALPHA


@pytest.mark.statistical
def test_planted_noise_per_micro_batch_is_rejected() -> None:
    made = plan()
    made._sampler.draw = lambda: np.arange(40)  # type: ignore[method-assign]

    def noisy(piece: np.ndarray, into: Mapping[str, torch.Tensor]) -> None:
        for value in into.values():
            value.add_(made._stream.normals(value.numel()).view_as(value) * SIGMA * CLIP)

    step(made, PARAMETERS, lambda indices: np.array_split(indices, 4), noisy)
    noise = torch.cat([p.grad.flatten() for p in PARAMETERS.values() if p.grad is not None]).double().numpy()
    assert statistics.variance_p_value(noise, SIGMA * CLIP / BATCH) < ALPHA
