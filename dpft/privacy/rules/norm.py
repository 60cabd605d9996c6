"""Layer normalisation: ``y = x̂ ⊙ w + b`` with x̂ the normalised input."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.privacy.gradients import DenseGradient
from dpft.privacy.rules.base import InputOutputRule
from dpft.privacy.tape import Tape

__all__ = ["RULE", "LayerNormRule"]


class LayerNormRule(InputOutputRule):
    """``torch.nn.LayerNorm``."""

    layer = nn.LayerNorm
    tokenwise = True

    def record(
        self, module: nn.Module, wanted: dict[str, nn.Parameter], seen: Tensor, gradient: Tensor, tape: Tape
    ) -> None:
        """w: Σ_t g_t ⊙ x̂_t; b: Σ_t g_t, over every axis that is neither the example nor normalised."""
        assert isinstance(module, nn.LayerNorm)
        gradient, axes = gradient.float(), len(module.normalized_shape)
        between = list(range(1, gradient.dim() - axes))
        if "weight" in wanted:
            values = _weight_gradient(seen.float(), gradient, module.eps, axes)
            tape.add(wanted["weight"], DenseGradient(values))
        if "bias" in wanted:
            tape.add(wanted["bias"], DenseGradient(gradient.sum(between) if between else gradient.clone()))


def _weight_gradient(x: Tensor, gradient: Tensor, eps: float, axes: int) -> Tensor:
    """``Σ_t g_t ⊙ (x_t − mean) / √(variance + ε)``, statistics over the last ``axes`` axes."""
    if x.dim() != 3 or axes != 1:
        product = gradient * F.layer_norm(x, x.shape[-axes:], eps=eps)
        between = list(range(1, x.dim() - axes))
        return product.sum(between) if between else product
    centred = x - x.mean(2, keepdim=True)
    variance = torch.linalg.vector_norm(centred, dim=2).square_().div_(x.shape[2])
    scale = variance.add_(eps).rsqrt_()  # b t
    return torch.bmm(scale[:, None], centred.mul_(gradient))[:, 0]


RULE = LayerNormRule()
