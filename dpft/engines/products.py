"""Products with weights at bfloat16, each row of which is what it would be in any company.

A kernel may add up a row's terms in another order where other numbers of rows go with it: oneDNN has another
kernel for a single row, and on AMX it divides long rows by how many there are. In bfloat16 another order is
another result, so who else was drawn would decide what an example adds. Therefore a kernel is only ever given
numbers of rows that were found to agree; what is missing to one of these is filled with zeros.

How it is found: operands are chosen so that a row's terms cancel exactly. What a kernel answers is then the
rounding of its partial sums and nothing else, and another order is another answer in most elements. (In
ordinary numbers, one element in ten thousand tells.)
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["SteadyProducts", "counts_that_agree"]

_TRIED = (1, 2, 4, *range(8, 128, 8), *range(128, 256, 16), *range(256, 512, 32), *range(512, 1025, 64))
"""Numbers of rows: those that training's own widths make, and steps of an eighth at most between others."""


class SteadyProducts(TorchFunctionMode):
    """Within, and within bf16 autocast, linear layers with constant weights give a row its bits anywhere.

    Weights that take part in autograd are left alone: their examples go through the model one by one.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        read = _READERS.get(func)
        factors = None if read is None else read(*args, **kwargs)
        if factors is None or not torch.is_autocast_enabled(factors.rows.device.type):
            return func(*args, **kwargs)
        rows, matrix = factors.rows.bfloat16(), factors.matrix.bfloat16()
        bias = None if factors.bias is None else factors.bias.bfloat16()
        counts = counts_that_agree(matrix, bias is not None), counts_that_agree(matrix.T)
        return _Product.apply(rows, matrix, bias, counts)  # type: ignore[no-untyped-call]


class _Factors(NamedTuple):
    """Of ``rows @ matrix + bias``; only rows take part in autograd."""

    rows: Tensor
    matrix: Tensor
    bias: Tensor | None


def _of_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Factors | None:
    return _constant(_Factors(input, weight.T, bias)) if weight.dim() == 2 else None


def _of_addmm(input: Tensor, mat1: Tensor, mat2: Tensor, **others: Any) -> _Factors | None:
    return None if others or input.dim() != 1 else _constant(_Factors(mat1, mat2, input))


def _constant(factors: _Factors) -> _Factors | None:
    trains = factors.matrix.requires_grad or (factors.bias is not None and factors.bias.requires_grad)
    return factors if factors.rows.is_floating_point() and factors.rows.numel() and not trains else None


_READERS: dict[Callable[..., Any], Callable[..., _Factors | None]] = {
    F.linear: _of_linear,
    torch.addmm: _of_addmm,
}


class _Product(torch.autograd.Function):
    """``rows @ matrix + bias`` (… n), of rows (… k) and a constant matrix (k n)."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, matrix: Tensor, bias: Tensor | None, counts: tuple[tuple[int, ...], ...]
    ) -> Tensor:
        forward, ctx.counts = counts
        ctx.save_for_backward(matrix)
        return _product(rows, matrix, bias, forward)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,), (matrix,) = gradients, ctx.saved_tensors
        return _product(gradient, matrix.T, None, ctx.counts), None, None, None


def _product(rows: Tensor, matrix: Tensor, bias: Tensor | None, counts: tuple[int, ...]) -> Tensor:
    """As many of ``rows`` at a time as ``counts`` allows, the last of them with zeros behind."""
    flat = rows.reshape(-1, rows.shape[-1]).contiguous()
    parts = [_padded(part, matrix, bias, counts) for part in torch.split(flat, counts[-1])]
    found = parts[0] if len(parts) == 1 else torch.cat(parts)
    return found.view(*rows.shape[:-1], matrix.shape[1])


def _padded(rows: Tensor, matrix: Tensor, bias: Tensor | None, counts: tuple[int, ...]) -> Tensor:
    missing = counts[bisect_left(counts, len(rows))] - len(rows)
    found = _multiply(F.pad(rows, (0, 0, 0, missing)) if missing else rows, matrix, bias)
    return found[: len(rows)]


def _multiply(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(rows, matrix) if bias is None else torch.addmm(bias, rows, matrix)


def counts_that_agree(matrix: Tensor, bias: bool = False) -> tuple[int, ...]:
    """Numbers of rows, ascending, with which a bfloat16 product gives each row the very same bits.

    Args:
        matrix: (k n), bfloat16; its shape, strides and device matter, its values do not.
        bias: whether one is added.
    """
    return _counts(*matrix.shape, matrix.stride(), bias, str(matrix.device), torch.get_num_threads())


@functools.cache  # the machine answers alike each time
@torch.no_grad()
def _counts(
    inner: int, outer: int, strides: tuple[int, ...], bias: bool, device: str, threads: int
) -> tuple[int, ...]:
    del threads  # which torch has now; another number of them is another question
    row, matrix = (value.to(device) for value in _cancelling(inner, outer))
    laid_out = torch.empty_strided(matrix.shape, strides, dtype=matrix.dtype, device=device).copy_(matrix)
    nothing = matrix.new_zeros(outer) if bias else None
    expected = _multiply(row.expand(_TRIED[-1], -1).contiguous(), laid_out, nothing)[:1]

    def agrees(count: int) -> bool:
        found = _multiply(row.expand(count, -1).contiguous(), laid_out, nothing)
        return torch.equal(found, expected.expand_as(found))

    return (*(count for count in _TRIED[:-1] if agrees(count)), _TRIED[-1])


def _cancelling(inner: int, outer: int) -> tuple[Tensor, Tensor]:
    """A row (1 k) and a matrix (k n) whose product is zero but for rounding, bfloat16.

    The second half of the terms is that of the first, negative and in another order. They are of all sizes,
    so that the sum of a few of them is rounded, too.
    """
    generator = torch.Generator().manual_seed(0)  # of made-up numbers
    pairs, odd = inner // 2, inner % 2
    sizes = torch.randint(-8, 9, (pairs,), generator=generator)
    half = torch.ldexp(torch.randn(pairs, generator=generator), sizes)
    weights = torch.randn(pairs, outer, generator=generator)
    order = torch.randperm(pairs, generator=generator)
    row = torch.cat([half, half[order], torch.zeros(odd)])[None]
    return row.bfloat16(), torch.cat([weights, -weights[order], torch.zeros(odd, outer)]).bfloat16()
