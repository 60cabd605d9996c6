"""Automatic clipping (AUTO-S): every example is normalised, none is left as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dpft.privacy.clipping.base import Factors, GroupFactors, check_positive, norm_of

__all__ = ["AutomaticClipper"]


@dataclass(frozen=True)
class AutomaticClipper:
    """``g_i · C / (‖g_i‖ + γ)`` with the norm over all parameters (Bu et al. 2022, arXiv 2206.07136).

    There is no threshold to tune: C only scales the released gradient, which Adam undoes. γ keeps small
    gradients smaller than large ones: without it, an example nearly fitted would weigh as much as any other.

    Args:
        max_grad_norm: C.
        stability: γ, in units of the gradient norm; above 0. The paper's default, 0.01.

    Raises:
        UsageError: C or γ is not positive and finite.
    """

    max_grad_norm: float
    stability: float = 0.01
    name: str = "automatic"

    def __post_init__(self) -> None:
        check_positive("max_grad_norm", self.max_grad_norm)
        check_positive("stability", self.stability)

    @property
    def sensitivity(self) -> float:
        """C: since ``‖g‖ / (‖g‖ + γ) < 1``, one example contributes a vector of norm below C."""
        return self.max_grad_norm

    def groups(self, names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
        """One: all parameters."""
        return (tuple(names),)

    def over(self, names: Iterable[str]) -> Factors:
        """One factor per example, the same for every parameter, at most C/γ."""
        return GroupFactors(self.groups(names), lambda norm: self.max_grad_norm / (norm + self.stability))

    def contribution(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the formula reads."""
        norm = norm_of(gradient.values())
        return {
            name: self.max_grad_norm * v.double() / (norm + self.stability) for name, v in gradient.items()
        }
