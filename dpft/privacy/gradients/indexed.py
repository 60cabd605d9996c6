"""Gradients of tables, row by row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dpft.privacy.gradients.base import Norms, PerExampleGradient, square_norms

__all__ = ["IndexedGradient"]


class _Segments(NamedTuple):
    """The gradient of one example at one row, for all pairs (example, row) that occur."""

    sums: Tensor  # u d
    example: Tensor  # u
    row: Tensor  # u


class IndexedGradient(PerExampleGradient):
    """The gradient of an embedding table: row ``ids[t]`` receives ``g_t``.

    Args:
        ids: row of each token, (b t), int64.
        output_gradients: (b t d), float32.
        rows: number of rows of the table.
        padding: a row that takes no gradient.
    """

    def __init__(self, ids: Tensor, output_gradients: Tensor, rows: int, padding: int | None = None) -> None:
        self.ids = ids
        self.output_gradients = output_gradients
        self.rows = rows
        self.padding = padding
        self._found: _Segments | None = None
        self._same: bool | None = None

    @property
    def batch_size(self) -> int:
        """Number of examples."""
        return self.ids.shape[0]

    @property
    def _aligned(self) -> bool:
        """Whether every example reads the same rows, each of them once: positions, say."""
        if self._same is None:
            same = self.ids.stride(0) == 0 and self.padding is None
            self._same = same and len(torch.unique(self.ids[0])) == self.ids.shape[1]
        return self._same

    def _segments(self) -> _Segments:
        """Sum the gradients of equal (example, row) pairs."""
        if self._found is None:
            example = torch.arange(self.batch_size, device=self.ids.device)[:, None]
            pairs, segment = torch.unique((example * self.rows + self.ids).flatten(), return_inverse=True)
            g = self.output_gradients.flatten(0, 1)
            sums = g.new_zeros(len(pairs), g.shape[1]).index_add_(0, segment, g)
            row = pairs % self.rows
            if self.padding is not None:
                sums.index_fill_(0, (row == self.padding).nonzero().flatten(), 0.0)
            self._found = _Segments(sums, pairs // self.rows, row)
        return self._found

    def _compute_norms(self) -> Norms:
        """Of the very sums that are weighted later, so nothing can cancel in between."""
        if self._aligned:
            square = square_norms(self.output_gradients.flatten(1))
            return Norms(square, square)
        sums, example, _ = self._segments()
        per_pair = square_norms(sums)
        square = per_pair.new_zeros(self.batch_size).index_add_(0, example, per_pair)
        return Norms(square, square)

    def accumulate(self, factors: Tensor, into: Tensor) -> None:
        """Sparse: touches only the rows that occur."""
        if self._aligned:
            total = factors @ self.output_gradients.flatten(1)
            into.index_add_(0, self.ids[0], total.view(self.output_gradients.shape[1:]))
            return
        sums, example, row = self._segments()
        into.index_add_(0, row, sums * factors[example, None])

    def select(self, keep: Tensor) -> IndexedGradient:
        """Only the examples in ``keep``."""
        return IndexedGradient(self.ids[keep], self.output_gradients[keep], self.rows, self.padding)

    def dense(self) -> Tensor:
        """Shape (b rows d)."""
        batch, _, d = self.output_gradients.shape
        out = self.output_gradients.new_zeros(batch, self.rows, d)
        out.scatter_add_(1, self.ids[:, :, None].expand(-1, -1, d), self.output_gradients)
        if self.padding is not None:
            out[:, self.padding] = 0.0
        return out
