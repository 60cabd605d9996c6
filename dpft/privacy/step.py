"""One step: per-example gradients → clip → sum → noise → divide by B."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dpft.privacy.plan import Draw, Plan

__all__ = ["accumulators", "step"]


def step(
    plan: Plan,
    parameters: Mapping[str, nn.Parameter],
    pieces: Callable[[npt.NDArray[np.int64]], Iterable[Any]],
    accumulate: Callable[[Any, Mapping[str, Tensor]], Any],
    sums: Mapping[str, Tensor] | None = None,
) -> Draw:
    """Draw a batch, accumulate its gradient sums piece by piece, release, and set each ``.grad``.

    An empty draw runs no piece and is released all the same: its sum is exactly zero, its noise is not.

    Args:
        plan: draws and releases.
        parameters: trainable parameters by name.
        pieces: cuts the drawn indices into micro-batches.
        accumulate: adds one micro-batch's (clipped) gradient sums to the accumulators, by parameter name.
        sums: accumulators to use again, from :func:`accumulators`; whatever they hold is overwritten.

    Returns:
        The draw, for local diagnostics; its size is private.
    """
    draw = plan.draw()
    if sums is None:
        sums = accumulators(parameters)
    else:
        torch._foreach_zero_(list(sums.values()))
    for piece in pieces(draw.indices):
        accumulate(piece, sums)
    for name, gradient in plan.release(draw, sums).items():
        parameters[name].grad = gradient.to(parameters[name].dtype)
    return draw


def accumulators(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Zeros of each parameter's shape: float32, contiguous."""
    return {
        name: torch.zeros(p.shape, dtype=torch.float32, device=p.device) for name, p in parameters.items()
    }
