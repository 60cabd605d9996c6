"""``y = x W + b`` with W stored as (inputs, outputs): the linear layer of GPT-2 and its kin.

The layer is recognised by what it computes: one matrix and one vector, multiplied and added as above for a
random vector and the weights at hand. Weights for which ``W`` and ``Wᵀ`` cannot be told apart are not
recognised.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dpft.privacy.gradients import DenseGradient, OuterGradient
from dpft.privacy.rules.base import InputOutputRule, close, tokens
from dpft.privacy.tape import Tape

__all__ = ["RULE", "Conv1DRule"]


class Conv1DRule(InputOutputRule):
    """A linear layer with a transposed weight, and a bias."""

    layer = nn.Module
    tokenwise = True

    def owned(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Weight and bias of a layer that computes ``x W + b``."""
        own = dict(module.named_parameters(recurse=False))
        if own.keys() != {"weight", "bias"} or own["weight"].dim() != 2 or any(module.children()):
            return {}
        if isinstance(module, nn.Linear) or own["bias"].shape != own["weight"].shape[1:]:
            return {}
        return own if _computes_it(module, own["weight"].detach()) else {}

    def record(
        self, module: nn.Module, wanted: dict[str, nn.Parameter], seen: Tensor, gradient: Tensor, tape: Tape
    ) -> None:
        """W: Σ_t a_t g_tᵀ; b: Σ_t g_t."""
        g = tokens(gradient)
        if "weight" in wanted:
            tape.add(wanted["weight"], OuterGradient(g, tape.shared(seen)))
        if "bias" in wanted:
            tape.add(wanted["bias"], DenseGradient(g.sum(1)))


@torch.no_grad()
def _computes_it(module: nn.Module, weight: Tensor) -> bool:
    """Try it on a random input, with a random bias."""
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = weight.shape
    x = torch.randn(2, 3, inputs, generator=generator).to(weight)
    bias = torch.randn(outputs, generator=generator).to(weight)
    expected = x @ weight + bias
    if inputs == outputs and close(x @ weight.T + bias, expected):
        return False
    try:
        found = functional_call(module, {"weight": weight, "bias": bias}, (x,))
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
        return False
    return close(found, expected)


RULE = Conv1DRule()
