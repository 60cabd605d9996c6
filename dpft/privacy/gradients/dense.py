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
        square_magnitude: that of :class:`Norms`, (batch), float64, where the same gradients could have been
            in another form, whose magnitude it is; by default the squared norm, as nothing can cancel between
            the norm and the sum of what is written out.
    """

    def __init__(
        self, values: Tensor, *, transposed: bool = False, square_magnitude: Tensor | None = None
    ) -> None:
        self.values = values
        self.transposed = transposed
        self.square_magnitude = square_magnitude

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
        """Directly: of the very values that are summed later."""
        return self.norms_of(square_norms(self.rows))

    def norms_of(self, square: Tensor) -> Norms:
        """``square``, the squared norms, beside their magnitude."""
        return Norms(square, square if self.square_magnitude is None else self.square_magnitude)

    def accumulate(self, factors: Tensor, into: Tensor) -> None:
        """One vector-matrix product."""
        if into.is_contiguous() and not self.transposed:
            into.view(-1).addmv_(self.rows.T, factors)
            return
        total = (factors @ self.rows).view(self.values.shape[1:])
        into.add_(total.T if self.transposed else total)

    def select(self, keep: Tensor) -> DenseGradient:
        """Only the examples in ``keep``."""
        magnitude = None if self.square_magnitude is None else self.square_magnitude[keep]
        return DenseGradient(self.values[keep], transposed=self.transposed, square_magnitude=magnitude)

    def dense(self) -> Tensor:
        """The values."""
        return self.values.mT if self.transposed else self.values
