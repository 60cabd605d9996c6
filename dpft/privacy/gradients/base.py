"""What every form of per-example gradient answers, and how norms are summed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

__all__ = ["Norms", "PerExampleGradient", "square_norms"]

_RUN = 64  # float32 additions in a row: at most 64 / 8 lanes, so a relative error below 1e-6 of the square
_SHORTEST_RUN = 16


@dataclass(frozen=True)
class Norms:
    """Squared norms of one parameter's per-example gradients, float64, shape (batch,).

    The clipper must bound the norm that is *delivered*, and it is not quite the norm that was computed: both
    carry rounding errors. These are proportional to what was added up, not to what is left of it, so they are
    measured by a magnitude: the norm that the gradient would have if its terms never cancelled.

    Attributes:
        square: squared L2 norm of each example's gradient.
        square_magnitude: squared magnitude, in a scale such that 1e-6 times it covers the rounding errors of
            both the norm and the weighted sum (see :mod:`dpft.privacy.clipping`); never below ``square`` but
            for rounding.
    """

    square: Tensor
    square_magnitude: Tensor


class PerExampleGradient(ABC):
    """One parameter's gradient, separately for each example of a micro-batch."""

    _norms: Norms | None = None

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Number of examples."""

    def norms(self) -> Norms:
        """Squared norms per example; computed once."""
        if self._norms is None:
            self._norms = self._compute_norms()
        return self._norms

    @abstractmethod
    def _compute_norms(self) -> Norms:
        """Squared norms per example."""

    def settle(self) -> PerExampleGradient:
        """This gradient in the form that is cheapest from here on, what its norms need computed."""
        self.norms()
        return self

    @abstractmethod
    def accumulate(self, factors: Tensor, into: Tensor) -> None:
        """Add ``Σ_i factors[i] · gradient_i`` to ``into`` (the parameter's shape, float32), in place."""

    @abstractmethod
    def select(self, keep: Tensor) -> PerExampleGradient:
        """Only the examples whose indices are in ``keep`` (int64)."""

    @abstractmethod
    def dense(self) -> Tensor:
        """All per-example gradients, shape (batch, *parameter)."""


def square_norms(rows: Tensor) -> Tensor:
    """Squared L2 norms of rows.

    In float32 the error of a long sum grows with its length, in float64 it costs several times as much: short
    runs are added in float32, and the runs in float64.

    Args:
        rows: (b n), float32.

    Returns:
        float64, (b).
    """
    run = _run(rows.shape[1])
    if run is None:
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        return norms.square_()
    runs: Tensor = torch.linalg.vector_norm(rows.reshape(len(rows), -1, run), dim=2)
    return runs.double().square_().sum(1)


@cache
def _run(length: int) -> int | None:
    """The longest run that divides ``length``; None where there is none, or just one."""
    if length <= _RUN:
        return None
    return next((run for run in range(_RUN, _SHORTEST_RUN - 1, -1) if length % run == 0), None)
