"""Embedding tables: each token's gradient goes to its row, the padding row takes none."""

from __future__ import annotations

from torch import Tensor, nn

from dpft.privacy.gradients import IndexedGradient
from dpft.privacy.rules.base import InputOutputRule, tokens
from dpft.privacy.tape import Tape

__all__ = ["RULE", "EmbeddingRule"]


class EmbeddingRule(InputOutputRule):
    """``torch.nn.Embedding``, plain: ``max_norm`` rewrites rows and ``scale_grad_by_freq`` counts them."""

    layer = nn.Embedding

    def owned(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """As for any layer, but only for plain tables."""
        if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
            return {}
        return super().owned(module)

    def record(
        self, module: nn.Module, wanted: dict[str, nn.Parameter], seen: Tensor, gradient: Tensor, tape: Tape
    ) -> None:
        """Row ``ids[t]`` receives ``g_t``, as ``torch.nn.functional.embedding`` defines it."""
        assert isinstance(module, nn.Embedding)
        gradients = IndexedGradient(
            seen.flatten(1), tokens(gradient), module.num_embeddings, module.padding_idx
        )
        tape.add(wanted["weight"], gradients)


RULE = EmbeddingRule()
