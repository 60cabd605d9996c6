"""``y = x Wᵀ + b``: outer products over tokens for W, sums over tokens for b."""

from __future__ import annotations

from torch import Tensor, nn

from dpft.privacy.gradients import DenseGradient, OuterGradient
from dpft.privacy.rules.base import InputOutputRule, tokens
from dpft.privacy.tape import Tape

__all__ = ["RULE", "LinearRule"]


class LinearRule(InputOutputRule):
    """``torch.nn.Linear``."""

    layer = nn.Linear
    tokenwise = True

    def record(
        self, module: nn.Module, wanted: dict[str, nn.Parameter], seen: Tensor, gradient: Tensor, tape: Tape
    ) -> None:
        """W: Σ_t g_t a_tᵀ; b: Σ_t g_t."""
        g = tokens(gradient)
        if "weight" in wanted:
            tape.add(wanted["weight"], OuterGradient(tape.shared(seen), g))
        if "bias" in wanted:
            tape.add(wanted["bias"], DenseGradient(g.sum(1)))


RULE = LinearRule()
