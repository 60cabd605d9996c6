"""Root-mean-square normalisation: ``y = x̂ ⊙ w`` or ``y = x̂ ⊙ (1 + w)`` with ``x̂ = x / √(mean(x²) + ε)``.

Zhang & Sennrich 2019 (arXiv 1910.07467). Every family of models brings a class of its own for it (Llama, T5,
Qwen, Gemma, whose weight is an offset from one), so the layer is recognised by what it computes: one vector,
and the formula above for random inputs and weights, large and small, with an ε that the layer holds.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from dpft.privacy.gradients import DenseGradient
from dpft.privacy.rules.base import InputOutputRule, Rule, close
from dpft.privacy.tape import Tape

__all__ = ["RULE", "RMSNormRule"]

_SCALES = (1.0, 1e-3)  # at the small one, ε decides
_OTHERS = (nn.Linear, nn.Embedding, nn.LayerNorm)


class RMSNormRule(Rule):
    """A layer with one weight, of the size of the axis (or axes) that it normalises."""

    def owned(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The weight, if the layer computes the formula."""
        own = dict(module.named_parameters(recurse=False))
        if own.keys() != {"weight"} or isinstance(module, _OTHERS) or any(module.children()):
            return {}
        if own["weight"].dim() != 1 and not isinstance(module, nn.RMSNorm):
            return {}
        return own if _epsilon(module, own["weight"]) is not None else {}

    def attach(
        self, site: str, module: nn.Module, wanted: dict[str, nn.Parameter], tape: Tape
    ) -> list[RemovableHandle]:
        """Find ε, then watch the output."""
        epsilon = _epsilon(module, wanted["weight"])
        assert epsilon is not None
        return _KnownEpsilon(epsilon).attach(site, module, wanted, tape)


class _KnownEpsilon(InputOutputRule):
    """The rule for one layer."""

    layer = nn.Module
    tokenwise = True

    def __init__(self, epsilon: float) -> None:
        self._epsilon = epsilon

    def record(
        self, module: nn.Module, wanted: dict[str, nn.Parameter], seen: Tensor, gradient: Tensor, tape: Tape
    ) -> None:
        """w: Σ_t g_t ⊙ x̂_t, over every axis that is neither the example nor normalised."""
        weight = wanted["weight"]
        product = gradient.float() * _normalised(seen.float(), weight.dim(), self._epsilon)
        between = list(range(1, product.dim() - weight.dim()))
        tape.add(weight, DenseGradient(product.sum(between) if between else product))


def _normalised(x: Tensor, axes: int, epsilon: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(tuple(range(-axes, 0)), keepdim=True) + epsilon)


@torch.no_grad()
def _epsilon(module: nn.Module, weight: Tensor) -> float | None:
    """The ε with which the layer computes the formula; None if there is none."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(weight.shape, generator=generator).to(weight)
    probes = [s * torch.randn((2, 3, *weight.shape), generator=generator).to(weight) for s in _SCALES]
    try:
        found = [functional_call(module, {"weight": drawn}, (x,)) for x in probes]
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
        return None
    for epsilon in _candidates(module):
        for offset in (0.0, 1.0):
            expected = [_normalised(x, weight.dim(), epsilon) * (offset + drawn) for x in probes]
            if all(close(f, e) for f, e in zip(found, expected, strict=True)):
                return epsilon
    return None


def _candidates(module: nn.Module) -> Iterator[float]:
    """Small numbers that the layer holds."""
    yield from (value for value in vars(module).values() if isinstance(value, float) and 0 <= value < 1)
    yield torch.finfo(torch.float32).eps  # what torch.nn.RMSNorm takes for None


RULE = RMSNormRule()
