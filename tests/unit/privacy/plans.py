"""Plans with fixed keys, for the tests of plans and of their noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dpft.privacy.noise import KEY_BYTES, KeyStream
from dpft.privacy.plan import PrivatePlan, make_plan
from dpft.spec import OptimisationSpec, PrivacySpec

EXAMPLES, BATCH, SIGMA, CLIP = 400, 40, 0.7, 0.3
PARAMETERS = {"w": torch.nn.Parameter(torch.zeros(50, 40)), "b": torch.nn.Parameter(torch.zeros(2000))}


class Silent(KeyStream):
    """Samples as ever, but σ = 0."""

    def normals(self, count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.float64)


def key(number: int) -> bytes:
    return number.to_bytes(KEY_BYTES, "little")


def plan(number: int = 1, *, stream: type[KeyStream] = KeyStream, **changes: Any) -> PrivatePlan:
    optimisation = OptimisationSpec(
        learning_rate=1.0, batch_size=changes.pop("batch_size", BATCH), epochs=changes.pop("epochs", 20)
    )
    privacy = PrivacySpec(target_epsilon=None, noise_multiplier=SIGMA, max_grad_norm=CLIP, **changes)
    made = make_plan(EXAMPLES, optimisation, privacy, stream=stream(key(number)))
    assert isinstance(made, PrivatePlan)
    return made


def sums(value: float = 0.0) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(p, value) for name, p in PARAMETERS.items()}


def released(made: PrivatePlan, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    out = made.release(made.draw(), values)
    return torch.cat([value.flatten() for value in out.values()]).double()
