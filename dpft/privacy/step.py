"""One step: per-example gradients → clip → sum → noise → divide by B."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dpft.privacy.plan import Draw, Plan

__all__ = ["step"]


def step(
    plan: Plan,
    parameters: Mapping[str, nn.Parameter],
    pieces: Callable[[npt.NDArray[np.int64]], Iterable[Any]],
    accumulate: Callable[[Any, Mapping[str, Tensor]], None],
) -> Draw:
    """Draw a batch, accumulate its gradient sums piece by piece, release, and set each ``.grad``.

    An empty draw runs no piece and is released all the same: its sum is exactly zero, its noise is not.

    Args:
        plan: draws and releases.
        parameters: trainable parameters by name.
        pieces: cuts the drawn indices into micro-batches.
        accumulate: adds one micro-batch's (clipped) gradient sums to the accumulators, by parameter name.

    Returns:
        The draw, for local diagnostics; its size is private.
    """
    draw = plan.draw()
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    for piece in pieces(draw.indices):
        accumulate(piece, sums)
    for name, gradient in plan.release(draw, sums).items():
        parameters[name].grad = gradient.to(parameters[name].dtype)
    return draw
