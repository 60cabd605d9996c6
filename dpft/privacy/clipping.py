"""Clippers: from per-example norms to the factors that bound each example's contribution.

A clipper states its sensitivity: the L2 norm by which adding or removing one example can change the clipped
sum. The bound must hold for the numbers that are actually delivered, so factors are computed in float64 from
norms enlarged by what float32 rounding may have hidden. With n the computed norm and m the magnitude (the
norm without cancellation between tokens), rounding errors of both the norm and the later weighted sum are at
most a few units in the last place *of m*; dividing by √(n² + γm²) keeps the delivered norm at or below C(1 +
1e-6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dpft.privacy.gradients import Norms

__all__ = ["ROUNDING_GUARD", "Clipper", "FlatClipper"]

ROUNDING_GUARD = 1e-6  # γ: about 2·(3 float32 units)²/1e-7, see tests/property/test_delivered_norm.py


class Clipper(Protocol):
    """Turns norms into factors."""

    @property
    def name(self) -> str:
        """Its name in ``tables.CLIPPERS``."""

    @property
    def sensitivity(self) -> float:
        """L2 sensitivity of the clipped sum to adding or removing one example."""

    def factors(self, norms: Sequence[Norms]) -> Tensor:
        """Factors per example.

        Args:
            norms: one entry per parameter, each for the same examples.

        Returns:
            float32, shape (batch,), in [0, 1]; zero for examples whose norm is not finite.
        """


@dataclass(frozen=True)
class FlatClipper:
    """``min(1, C / ‖g_i‖)`` with the norm over all trainable parameters together (Abadi et al. 2016, alg. 1).

    Args:
        max_grad_norm: C.
    """

    max_grad_norm: float
    name: str = "flat"

    @property
    def sensitivity(self) -> float:
        """C: one example contributes a vector of norm at most C."""
        return self.max_grad_norm

    def factors(self, norms: Sequence[Norms]) -> Tensor:
        """One factor per example, the same for every parameter."""
        square = torch.stack([n.square for n in norms]).sum(0)
        guard = torch.stack([n.square_magnitude for n in norms]).sum(0)
        bound = (square + ROUNDING_GUARD * guard).sqrt()
        factors = (self.max_grad_norm / bound).clamp(max=1.0)
        return torch.where(torch.isfinite(bound), factors, 0.0).float()
