"""The slow truth: one example at a time through plain autograd.

Tests, the preflight and the audit compare every engine with it. It shares no code with the fast path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.engines.base import MicroBatch
from dpft.privacy.clipping import Clipper, FlatClipper, norm_of

__all__ = ["alone", "clipped_sum", "per_example_gradients"]


def per_example_gradients(
    model: Any, parameters: Mapping[str, nn.Parameter], batch: MicroBatch
) -> list[dict[str, Tensor]]:
    """Each example's gradient, by parameter name; parameters that it does not reach are zero.

    Each example goes through the model alone *and without its padding*: how wide a batch is depends on its
    longest example, so a gradient that depends on the padding depends on others.
    """
    gradients = []
    for i in range(len(batch)):
        logits = model(**alone(batch, i)).logits
        loss = F.cross_entropy(logits.float(), batch.labels[i : i + 1])
        values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        gradients.append(
            {
                name: torch.zeros_like(parameter) if value is None else value
                for (name, parameter), value in zip(parameters.items(), values, strict=True)
            }
        )
    return gradients


def alone(batch: MicroBatch, row: int) -> dict[str, Tensor]:
    """The inputs of one example, padding on the right cut off."""
    mask = batch.inputs.get("attention_mask")
    length = int(mask[row].sum()) if mask is not None else None
    return {key: value[row : row + 1, :length] for key, value in batch.inputs.items()}


def clipped_sum(
    gradients: list[dict[str, Tensor]], clipping: Clipper | float
) -> tuple[dict[str, Tensor], Tensor]:
    """Clip each example as the clipper's definition says, and add, in float64.

    Args:
        gradients: one per example, by parameter name.
        clipping: the clipper, or C for flat clipping.

    Returns:
        The clipped sum by parameter, and the norms before clipping, (b).
    """
    clipper: Clipper = FlatClipper(clipping) if isinstance(clipping, float) else clipping
    norms = torch.tensor([norm_of(g.values()) for g in gradients], dtype=torch.float64)
    contributions = [clipper.contribution(g) for g in gradients]
    sums = {name: torch.stack([c[name] for c in contributions]).sum(0) for name in gradients[0]}
    return sums, norms
