"""Layer normalisation: ``y = x̂ ⊙ w + b`` with x̂ the normalised input."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.privacy.gradients import DenseGradient
from dpft.privacy.rules.base import InputOutputRule
from dpft.privacy.tape import Tape

__all__ = ["RULE", "LayerNormRule"]


class LayerNormRule(InputOutputRule):
    """``torch.nn.LayerNorm``."""

    layer = nn.LayerNorm

    def record(
        self, module: nn.Module, wanted: dict[str, nn.Parameter], seen: Tensor, gradient: Tensor, tape: Tape
    ) -> None:
        """w: Σ_t g_t ⊙ x̂_t; b: Σ_t g_t, over every axis that is neither the example nor normalised."""
        assert isinstance(module, nn.LayerNorm)
        gradient = gradient.float()
        between = list(range(1, gradient.dim() - len(module.normalized_shape)))
        if "weight" in wanted:
            normalised = F.layer_norm(seen.float(), module.normalized_shape, eps=module.eps)
            product = gradient * normalised
            tape.add(wanted["weight"], DenseGradient(product.sum(between) if between else product))
        if "bias" in wanted:
            tape.add(wanted["bias"], DenseGradient(gradient.sum(between) if between else gradient.clone()))


RULE = LayerNormRule()
