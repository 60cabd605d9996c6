"""Gradients of linear weights, as the two factors of their outer products."""

from __future__ import annotations

import torch
from torch import Tensor

from dpft.privacy.gradients.base import Norms, PerExampleGradient, square_norms
from dpft.privacy.gradients.dense import DenseGradient
from dpft.privacy.gradients.gram import layout_for
from dpft.privacy.gradients.shared import SharedTokens

__all__ = ["OuterGradient"]

# Costs in multiply-adds of a Gram matrix, measured on a CPU with AVX-512. Written-out gradients are written,
# read for their norm and read for their sum: so much per element, more where the memory for them is fresh …
_PER_ELEMENT = 30
_PER_FRESH_ELEMENT = 100
_FRESH = 32 << 20  # bytes: from here on, memory comes from the system, page by page
_TOKENS = 2048  # of a micro-batch, as many as there are by default: not as many as there are
# … while Gram matrices cost something for every token besides their multiply-adds.
_PER_TOKEN = 5700

_SHORT = 24  # tokens: if writing is cheaper even for so few, a weight's gradients take no other form
_TERMS = 64  # of inner products, whose rounding weighs as much as that of anything else (see Norms)
_SKINNY = 48  # few columns: a product is several times as fast the other way round


class OuterGradient(PerExampleGradient):
    """``Σ_t g_t a_tᵀ`` of a weight stored as (outputs, inputs).

    Which form is cheaper follows from the number of tokens, and that from the longest text of a micro-batch.
    It must not be seen in what an example contributes: a weight that may take either form has one magnitude
    in both, from norms of tokens, to which those without a gradient add nothing.

    Args:
        activations: layer inputs, (b t d), float32; shared where other layers read the same.
        output_gradients: gradients at the layer's output, (b t p), float32.
    """

    def __init__(self, activations: Tensor | SharedTokens, output_gradients: Tensor | SharedTokens) -> None:
        self._a = activations if isinstance(activations, SharedTokens) else SharedTokens(activations)
        self._g = (
            output_gradients if isinstance(output_gradients, SharedTokens) else SharedTokens(output_gradients)
        )

    @property
    def activations(self) -> Tensor:
        """Layer inputs, (b t d)."""
        return self._a.value

    @property
    def output_gradients(self) -> Tensor:
        """Gradients at the layer's output, (b t p)."""
        return self._g.value

    @property
    def batch_size(self) -> int:
        """Number of examples."""
        return self.activations.shape[0]

    def settle(self) -> PerExampleGradient:
        """Written out where Gram matrices would cost more: many tokens, small weights."""
        if self.activations.shape[1] > 1 and self._writing_is_cheaper():
            written = self._written()
            if not (self._is_always_written and self._is_smaller):
                return written
            self._norms = written.norms()  # of few tokens it is smaller as factors, and is written twice
        return super().settle()

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.activations.shape[2], self.output_gradients.shape[2]

    def _writing_is_cheaper(self) -> bool:
        tokens, (d, p) = self.activations.shape[1], self._sizes
        element = _PER_ELEMENT if 4 * max(1, _TOKENS // tokens) * p * d < _FRESH else _PER_FRESH_ELEMENT
        return self._is_always_written or p * d * element < _gram_cost(tokens, d, p)

    @property
    def _is_always_written(self) -> bool:
        """As the factors of LoRA are, at any number of tokens: then nothing need be known of its tokens."""
        d, p = self._sizes
        return p * d * _PER_ELEMENT < _gram_cost(_SHORT, d, p)

    @property
    def _is_smaller(self) -> bool:
        """Whether the factors take less memory than what they make."""
        d, p = self._sizes
        return self.activations.shape[1] > 1 and self.activations.shape[1] * (d + p) < d * p

    def _written(self) -> DenseGradient:
        a, g = self.activations, self.output_gradients
        transposed = a.shape[2] <= _SKINNY and a.shape[2] < g.shape[2]
        return DenseGradient(
            torch.bmm(a.mT, g) if transposed else torch.bmm(g.mT, a),
            transposed=transposed,
            square_magnitude=None if self._is_always_written else self._square_magnitude(),
        )

    def _square_magnitude(self) -> Tensor:
        """That of the Gram form, (b), float64: ``(Σ_t ‖g_t‖ ‖a_t‖)²``, scaled.

        An inner product of d terms in float32 has an error of up to d/2 units in the last place, all of one
        sign where the terms are alike; the scale covers half of that, several times what any BLAS at hand was
        seen to do.
        """
        magnitude = (self._a.lengths * self._g.lengths).sum(1)
        return magnitude.double().square_().mul_(1 + sum(self._sizes) / _TERMS)

    def _compute_norms(self) -> Norms:
        """The Gram form ⟨aaᵀ, ggᵀ⟩; of a single token, the product of its two norms."""
        if self.activations.shape[1] == 1:
            square = square_norms(self.activations[:, 0]) * square_norms(self.output_gradients[:, 0])
            return Norms(square, square if self._is_always_written else self._square_magnitude())
        # A Gram sum may round to slightly below zero where everything cancels.
        square = layout_for(self.activations).total(self._a.gram * self._g.gram).double().clamp_(min=0)
        return Norms(square, self._square_magnitude())

    def accumulate(self, factors: Tensor, into: Tensor) -> None:
        """One matrix product over examples and tokens together; the narrower side is weighted.

        Where the norms are of gradients written out, the sum is of these, too: no token cancels in between.
        """
        if self._is_always_written and self._is_smaller:
            self._written().accumulate(factors, into)
            return
        if self.output_gradients.shape[2] < self.activations.shape[2]:
            a, g = self.activations.flatten(0, 1), self._g.weighted(factors).flatten(0, 1)
        else:
            a, g = self._a.weighted(factors).flatten(0, 1), self.output_gradients.flatten(0, 1)
        if a.shape[1] <= _SKINNY and a.shape[1] < g.shape[1]:
            into.add_((a.T @ g).T)
        else:
            into.addmm_(g.T, a)

    def select(self, keep: Tensor) -> OuterGradient:
        """Only the examples in ``keep``."""
        return OuterGradient(self.activations[keep], self.output_gradients[keep])

    def dense(self) -> Tensor:
        """Shape (b p d)."""
        return torch.bmm(self.output_gradients.mT, self.activations)


def _gram_cost(tokens: int, d: int, p: int) -> int:
    return tokens * tokens * (p + d) + _PER_TOKEN * tokens
