"""Per-layer clipping: every layer has a norm, and a bound, of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dpft.privacy.clipping.base import Factors, GroupFactors, check_positive, norm_of

__all__ = ["PerLayerClipper"]


@dataclass(frozen=True)
class PerLayerClipper:
    """``g_i^(k) · min(1, C/√K / ‖g_i^(k)‖)`` for each of K layers k, all with the same bound C/√K.

    A layer is the module that holds a parameter: parameters whose qualified names differ in their last part
    only (``….query.weight`` and ``….query.bias``) are one group. A parameter used in several places belongs
    to the first that names it. Sources: McMahan et al. 2018 (arXiv 1710.06963), where
    ``C = √(Σ_k C_k²)``; He et al. 2023 (arXiv 2212.01539).

    Args:
        max_grad_norm: C, over all layers together.

    Raises:
        UsageError: C is not positive and finite.
    """

    max_grad_norm: float
    name: str = "per-layer"
    stability: float | None = None

    def __post_init__(self) -> None:
        check_positive("max_grad_norm", self.max_grad_norm)

    @property
    def sensitivity(self) -> float:
        """C: one example contributes at most C/√K to each of K orthogonal parts, √(K·C²/K) = C in all."""
        return self.max_grad_norm

    def groups(self, names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
        """One for each module that holds a trainable parameter."""
        layers: dict[str, list[str]] = {}
        for name in names:
            layers.setdefault(name.rpartition(".")[0], []).append(name)
        return tuple(tuple(layer) for layer in layers.values())

    def over(self, names: Iterable[str]) -> Factors:
        """One factor per example and layer. K counts all layers, reached by this micro-batch or not."""
        groups = self.groups(names)
        bound = self.max_grad_norm / math.sqrt(len(groups))
        return GroupFactors(groups, lambda norm: (bound / norm).clamp(max=1.0))

    def contribution(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the formula reads; ``gradient`` has all trainable parameters."""
        layer = {name: name.rsplit(".", 1)[0] if "." in name else "" for name in gradient}
        bound = self.max_grad_norm / len(set(layer.values())) ** 0.5
        clipped = {}
        for name, value in gradient.items():
            norm = norm_of(gradient[other] for other in gradient if layer[other] == layer[name])
            clipped[name] = value.double() * (1.0 if norm <= bound else bound / norm)
        return clipped
