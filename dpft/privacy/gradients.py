"""Per-example gradients in the form their layer gives them, never larger than they need to be.

A layer whose parameters meet activations ``a`` and output gradients ``g`` has the per-example gradient
``Σ_t g_t a_tᵀ``. Its norm, and its weighted sum over examples, can be had without writing it down:

* :class:`OuterGradient` keeps (a, g): linear weights.
* :class:`IndexedGradient` keeps (token ids, g): embedding tables.
* :class:`DenseGradient` keeps the per-example gradients themselves: biases, norms and scales, where they are
  tiny.

Every form answers the same four questions: squared norms, weighted sum, selection of examples, and the
dense per-example gradients (the slow truth, for ties between layers of different kinds and for tests).

Norms come with a *magnitude*: the norm the gradient would have if its token contributions never cancelled.
Rounding errors of both the norm and the weighted sum are proportional to it, so the clipper can guarantee the
delivered norm in floating point (see :mod:`dpft.privacy.clipping`).

Sources: Goodfellow 2015 (arXiv 1510.01799) for T = 1; Li et al. 2022 (arXiv 2110.05679), eq. 3, for the Gram
form; Bu et al. 2023 (arXiv 2210.00038) for keeping (a, g) through a single backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["DenseGradient", "IndexedGradient", "Norms", "OuterGradient", "PerExampleGradient", "merge"]

_CHUNK_BYTES = 64 << 20  # the largest temporary that instantiating per-example gradients may take


@dataclass(frozen=True)
class Norms:
    """Squared norms of one parameter's per-example gradients, float64, shape (batch,).

    Attributes:
        square: squared L2 norm of each example's gradient.
        square_magnitude: squared norm without cancellation between tokens; never below ``square`` but for
            rounding.
    """

    square: Tensor
    square_magnitude: Tensor


class PerExampleGradient(Protocol):
    """One parameter's gradient, separately for each example of a micro-batch."""

    @property
    def batch_size(self) -> int:
        """Number of examples."""

    def norms(self) -> Norms:
        """Squared norms per example."""

    def accumulate(self, factors: Tensor, into: Tensor) -> None:
        """Add ``Σ_i factors[i] · gradient_i`` to ``into`` (the parameter's shape, float32), in place."""

    def select(self, keep: Tensor) -> PerExampleGradient:
        """Only the examples whose indices are in ``keep`` (int64)."""

    def dense(self) -> Tensor:
        """All per-example gradients, shape (batch, *parameter)."""


@dataclass(frozen=True)
class OuterGradient:
    """``Σ_t g_t a_tᵀ`` of a weight stored as (outputs, inputs).

    Args:
        activations: layer inputs, (b t d), float32.
        output_gradients: gradients at the layer's output, (b t p), float32.
    """

    activations: Tensor
    output_gradients: Tensor

    @property
    def batch_size(self) -> int:
        """Number of examples."""
        return self.activations.shape[0]

    def norms(self) -> Norms:
        """Gram form ⟨aaᵀ, ggᵀ⟩ where T(p+d) < p·d, else from instantiated gradients, in chunks."""
        a, g = self.activations, self.output_gradients
        tokens, d, p = a.shape[1], a.shape[2], g.shape[2]
        token_norms = _norm(a, 2) * _norm(g, 2)  # b t
        magnitude = token_norms.sum(1).square()
        if tokens == 1:
            return Norms(magnitude, magnitude)
        if tokens * (p + d) < p * d:
            gram = torch.bmm(a, a.mT).mul_(torch.bmm(g, g.mT))  # b t t
            # A Gram sum may round to slightly below zero where everything cancels.
            return Norms(gram.sum((1, 2), dtype=torch.float64).clamp_(min=0), magnitude)
        rows = max(1, _CHUNK_BYTES // (4 * p * d))
        squares = [
            _norm(torch.bmm(gc.mT, ac), (1, 2)).square()
            for ac, gc in zip(torch.split(a, rows), torch.split(g, rows), strict=True)
        ]
        return Norms(torch.cat(squares), magnitude)

    def accumulate(self, factors: Tensor, into: Tensor) -> None:
        """One matrix product over examples and tokens together."""
        weighted = self.output_gradients * factors[:, None, None]
        into.addmm_(weighted.flatten(0, 1).T, self.activations.flatten(0, 1))

    def select(self, keep: Tensor) -> OuterGradient:
        """Only the examples in ``keep``."""
        return OuterGradient(self.activations[keep], self.output_gradients[keep])

    def dense(self) -> Tensor:
        """Shape (b p d)."""
        return torch.bmm(self.output_gradients.mT, self.activations)


@dataclass(frozen=True)
class IndexedGradient:
    """The gradient of an embedding table: row ``ids[t]`` receives ``g_t``.

    Args:
        ids: row of each token, (b t), int64.
        output_gradients: (b t d), float32; rows that take no gradient (padding) are zero already.
        rows: number of rows of the table.
    """

    ids: Tensor
    output_gradients: Tensor
    rows: int

    @property
    def batch_size(self) -> int:
        """Number of examples."""
        return self.ids.shape[0]

    def norms(self) -> Norms:
        """Sum the gradients of equal (example, row) pairs, then square."""
        batch, g = self.batch_size, self.output_gradients
        example = torch.arange(batch, device=self.ids.device)[:, None]
        pairs, segment = torch.unique((example * self.rows + self.ids).flatten(), return_inverse=True)
        sums = g.new_zeros(len(pairs), g.shape[2]).index_add_(0, segment, g.flatten(0, 1))
        per_pair = _norm(sums, 1).square()
        square = per_pair.new_zeros(batch).index_add_(0, pairs // self.rows, per_pair)
        magnitude = _norm(g, 2).sum(1).square()
        return Norms(square, magnitude)

    def accumulate(self, factors: Tensor, into: Tensor) -> None:
        """Sparse: touches only the rows that occur."""
        weighted = self.output_gradients * factors[:, None, None]
        into.index_add_(0, self.ids.flatten(), weighted.flatten(0, 1))

    def select(self, keep: Tensor) -> IndexedGradient:
        """Only the examples in ``keep``."""
        return IndexedGradient(self.ids[keep], self.output_gradients[keep], self.rows)

    def dense(self) -> Tensor:
        """Shape (b rows d)."""
        batch, _, d = self.output_gradients.shape
        out = self.output_gradients.new_zeros(batch, self.rows, d)
        return out.scatter_add_(1, self.ids[:, :, None].expand(-1, -1, d), self.output_gradients)


@dataclass(frozen=True)
class DenseGradient:
    """Per-example gradients written out.

    Args:
        values: (batch, *parameter), float32.
    """

    values: Tensor

    @property
    def batch_size(self) -> int:
        """Number of examples."""
        return self.values.shape[0]

    def norms(self) -> Norms:
        """Directly; the very values that are summed later, so nothing can cancel in between."""
        square = _norm(self._rows, 1).square()
        return Norms(square, square)

    def accumulate(self, factors: Tensor, into: Tensor) -> None:
        """One vector-matrix product."""
        into.add_((factors @ self._rows).view_as(into))

    @property
    def _rows(self) -> Tensor:
        """One row per example, also of a single number, and of no example."""
        return self.values.flatten(1) if self.values.dim() > 1 else self.values[:, None]

    def select(self, keep: Tensor) -> DenseGradient:
        """Only the examples in ``keep``."""
        return DenseGradient(self.values[keep])

    def dense(self) -> Tensor:
        """The values."""
        return self.values


def _norm(value: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """L2 norm, accumulated in float64: in float32 its error grows with the number of elements."""
    norm: Tensor = torch.linalg.vector_norm(value, dim=dim, dtype=torch.float64)
    return norm


def merge(uses: Sequence[PerExampleGradient]) -> PerExampleGradient:
    """The gradient of a parameter used several times in one forward pass: the *sum* of its uses.

    A norm of each use on its own would be wrong (the uses of one example can add up), so uses of one kind are
    joined along the token axis, which sums them exactly; uses of different kinds are summed densely.
    """
    first = uses[0]
    if len(uses) == 1:
        return first
    if all(isinstance(use, OuterGradient) for use in uses):
        return OuterGradient(
            torch.cat([use.activations for use in uses if isinstance(use, OuterGradient)], 1),
            torch.cat([use.output_gradients for use in uses if isinstance(use, OuterGradient)], 1),
        )
    if isinstance(first, IndexedGradient) and all(isinstance(use, IndexedGradient) for use in uses):
        return IndexedGradient(
            torch.cat([use.ids for use in uses if isinstance(use, IndexedGradient)], 1),
            torch.cat([use.output_gradients for use in uses if isinstance(use, IndexedGradient)], 1),
            first.rows,
        )
    return DenseGradient(torch.stack([use.dense() for use in uses]).sum(0))
