"""Gradients written out."""

from __future__ import annotations

from torch import Tensor

from dpft.privacy.gradients.base import Norms, PerExampleGradient, square_norms

__all__ = ["DenseGradient"]


class DenseGradient(PerExampleGradient):
    """Per-example gradients themselves.

    Args:
        values: (batch, *parameter), float32.
        transposed: whether ``values`` are of the parameter's transpose, (batch, inputs, outputs).
    """

    def __init__(self, values: Tensor, *, transposed: bool = False) -> None:
        self.values = values
        self.transposed = transposed

    @property
    def batch_size(self) -> int:
        """Number of examples."""
        return self.values.shape[0]

    @property
    def rows(self) -> Tensor:
        """One row per example, also of a single number, and of no example."""
        return self.values.flatten(1) if self.values.dim() > 1 else self.values[:, None]

    def settle(self) -> DenseGradient:
        """As it is: norms of many small ones are cheaper computed together."""
        return self

    def _compute_norms(self) -> Norms:
        """Directly; the very values that are summed later, so nothing can cancel in between."""
        square = square_norms(self.rows)
        return Norms(square, square)

    def accumulate(self, factors: Tensor, into: Tensor) -> None:
        """One vector-matrix product."""
        if into.is_contiguous() and not self.transposed:
            into.view(-1).addmv_(self.rows.T, factors)
            return
        total = (factors @ self.rows).view(self.values.shape[1:])
        into.add_(total.T if self.transposed else total)

    def select(self, keep: Tensor) -> DenseGradient:
        """Only the examples in ``keep``."""
        return DenseGradient(self.values[keep], transposed=self.transposed)

    def dense(self) -> Tensor:
        """The values."""
        return self.values.mT if self.transposed else self.values
