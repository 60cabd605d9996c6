"""Flat clipping: one norm over all trainable parameters together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dpft.privacy.clipping.base import Factors, GroupFactors

__all__ = ["FlatClipper"]


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

    def groups(self, names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
        """One."""
        return (tuple(names),)

    def over(self, names: Iterable[str]) -> Factors:
        """One factor per example, the same for every parameter."""
        return GroupFactors(self.groups(names), lambda norm: (self.max_grad_norm / norm).clamp(max=1.0))
