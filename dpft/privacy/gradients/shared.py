"""One tensor of tokens, shared by the layers that read it: what follows from it is computed once."""

from __future__ import annotations

import torch
from torch import Tensor

from dpft.privacy.gradients.gram import layout_for

__all__ = ["SharedTokens", "tokens"]


class SharedTokens:
    """Features of tokens, example by example: a layer's input, or the gradient at its output.

    Query, key and value projections read the same input, and so do gated feed-forward layers: its Gram matrix
    and its weighted copy serve them all.

    Args:
        value: (b t d), float32.
        source: the tensor it was made from, kept alive beside it.
    """

    def __init__(self, value: Tensor, source: Tensor | None = None) -> None:
        self.value = value
        self._source = source
        self._gram: Tensor | None = None
        self._lengths: Tensor | None = None
        self._weighted: tuple[Tensor, Tensor] | None = None

    @property
    def gram(self) -> Tensor:
        """⟨x_s, x_t⟩ for all pairs of tokens of an example, in the order of ``layout_for(value)``."""
        if self._gram is None:
            self._gram = layout_for(self.value).products(self.value)
        return self._gram

    @property
    def lengths(self) -> Tensor:
        """‖x_t‖ of every token, (b t)."""
        if self._lengths is None:
            if self._gram is None:
                self._lengths = torch.linalg.vector_norm(self.value, dim=2)
            else:
                self._lengths = self._gram.index_select(1, layout_for(self.value).diagonal).sqrt_()
        return self._lengths

    def weighted(self, factors: Tensor) -> Tensor:
        """Each example times its factor, (b t d).

        Args:
            factors: (b); the product is kept for whoever comes with the same tensor.
        """
        if self._weighted is None or self._weighted[0] is not factors:
            self._weighted = factors, self.value * factors[:, None, None]
        return self._weighted[1]


def tokens(value: Tensor) -> Tensor:
    """``value`` (b … d) as float32 (b t d): axes between example and features are tokens."""
    value = value.float()
    return value.unsqueeze(1) if value.dim() == 2 else value.flatten(1, -2)
