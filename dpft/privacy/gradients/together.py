"""All gradients of a micro-batch at once: the many small ones as columns of a single matrix.

A model has a bias or a scale for every layer. Each is tiny, and a handful of operations on each costs more in
calls than in arithmetic; side by side they take one norm and one vector-matrix product. Those of LoRA's
factors are too large to be copied for that, but as many as are of one size finish their norms together.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from dpft.privacy.gradients.base import Norms, PerExampleGradient
from dpft.privacy.gradients.dense import DenseGradient

__all__ = ["Together"]

_RUN = 64  # as in square_norms: runs are summed in float32, their squares in float64
_SMALL = 1 << 16  # numbers in a micro-batch's gradients of one parameter


class Together:
    """The gradients of one micro-batch.

    Args:
        gradients: by parameter name, all for the same examples.
    """

    def __init__(self, gradients: Mapping[str, PerExampleGradient]) -> None:
        self._all = dict(gradients)
        self._small = {
            name: gradient
            for name, gradient in gradients.items()
            if isinstance(gradient, DenseGradient)
            and not gradient.transposed
            and gradient.values.numel() <= _SMALL
        }
        self._matrix = _side_by_side(self._small) if len(self._small) > 1 else None

    def norms(self) -> dict[str, Norms]:
        """Squared norms of each parameter's gradients, by name, in the order of the gradients."""
        found = self._small_norms() | _norms_by_size(
            {name: g for name, g in self._all.items() if name not in self._small}
        )
        return {
            name: found[name] if name in found else gradient.norms() for name, gradient in self._all.items()
        }

    def _small_norms(self) -> dict[str, Norms]:
        """Those of the columns of the matrix."""
        if self._matrix is None:
            return {}
        runs = self._matrix.view(len(self._matrix), -1, _RUN)
        runs = torch.linalg.vector_norm(runs, dim=2).double().square_()
        widths = tuple(_runs(gradient) for gradient in self._small.values())
        squares = (runs @ _indicator(widths, runs.device)).unbind(1)
        return {
            name: gradient.norms_of(square)
            for (name, gradient), square in zip(self._small.items(), squares, strict=True)
        }

    def accumulate(self, factors: Mapping[str, Tensor], sums: Mapping[str, Tensor]) -> None:
        """Add each parameter's ``Σ_i factors[i] · gradient_i`` to its sum; the gradients are used up.

        Args:
            factors: (b) by parameter name; parameters that are clipped together have the same tensor.
            sums: by parameter name, float32.
        """
        shared = {id(factors[name]) for name in self._small}
        if self._matrix is not None and len(shared) == 1:
            total = factors[next(iter(self._small))] @ self._matrix
            start = 0
            for name, gradient in self._small.items():
                del self._all[name]
                into = sums[name]
                into.add_(total[start : start + into.numel()].view_as(into))
                start += _RUN * _runs(gradient)
        for name in list(self._all):
            self._all.pop(name).accumulate(factors[name], sums[name])


def _norms_by_size(gradients: Mapping[str, PerExampleGradient]) -> dict[str, Norms]:
    """Of gradients that are written out, of whole runs: added up together with all of the same size."""
    written = {name: gradient for name, gradient in gradients.items() if isinstance(gradient, DenseGradient)}
    sizes: dict[int, dict[str, Tensor]] = {}
    for name, gradient in written.items():
        if gradient.rows.shape[1] % _RUN == 0:
            rows = gradient.rows.reshape(gradient.batch_size, -1, _RUN)
            sizes.setdefault(rows.shape[1], {})[name] = torch.linalg.vector_norm(rows, dim=2)
    found: dict[str, Norms] = {}
    for runs in sizes.values():
        squares = torch.stack(list(runs.values())).double().square_().sum(2).unbind(0)
        found |= {name: written[name].norms_of(square) for name, square in zip(runs, squares, strict=True)}
    return found


def _runs(gradient: DenseGradient) -> int:
    return -(-gradient.rows.shape[1] // _RUN)


def _side_by_side(gradients: Mapping[str, DenseGradient]) -> Tensor:
    """(b n): each gradient's numbers, filled up with zeros to whole runs."""
    columns = []
    for gradient in gradients.values():
        rows = gradient.rows
        columns.append(rows)
        if missing := -rows.shape[1] % _RUN:
            columns.append(rows.new_zeros(len(rows), missing))
    return torch.cat(columns, 1)


@cache
def _indicator(widths: tuple[int, ...], device: torch.device) -> Tensor:
    """Ones where a run belongs to a parameter, (runs parameters), float64."""
    owner = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths))
    return torch.nn.functional.one_hot(owner, len(widths)).to(device, torch.float64)
