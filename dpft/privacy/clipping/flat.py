"""Flat clipping: one norm over all trainable parameters together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dpft.privacy.clipping.base import Factors, GroupFactors, check_positive, norm_of

__all__ = ["FlatClipper"]


@dataclass(frozen=True)
class FlatClipper:
    """``g_i · min(1, C / ‖g_i‖)`` (Abadi et al. 2016, arXiv 1607.00133, algorithm 1).

    Args:
        max_grad_norm: C.

    Raises:
        UsageError: C is not positive and finite.
    """

    max_grad_norm: float
    name: str = "flat"
    stability: float | None = None

    def __post_init__(self) -> None:
        check_positive("max_grad_norm", self.max_grad_norm)

    @property
    def sensitivity(self) -> float:
        """C: one example contributes a vector of norm at most C."""
        return self.max_grad_norm

    def groups(self, names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
        """One: all parameters."""
        return (tuple(names),)

    def over(self, names: Iterable[str]) -> Factors:
        """One factor per example, the same for every parameter."""
        return GroupFactors(self.groups(names), lambda norm: (self.max_grad_norm / norm).clamp(max=1.0))

    def contribution(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the formula reads; a zero gradient stays zero."""
        norm = norm_of(gradient.values())
        factor = 1.0 if norm <= self.max_grad_norm else self.max_grad_norm / norm
        return {name: factor * value.double() for name, value in gradient.items()}
