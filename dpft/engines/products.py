"""Products with weights at bfloat16, each row of which is what it would be in any company.

A kernel may add up a row's terms in another order where other numbers of rows go with it: oneDNN has another
kernel for a single row, and on AMX it divides long rows by how many there are. In bfloat16 another order is
another result, so who else was drawn would decide what an example adds. Therefore a kernel is only ever given
numbers of rows that were found to agree; what is missing to one of these is filled with zeros. Products that
are not known here are refused.

How it is found: operands are chosen so that a row's terms cancel exactly. What a kernel answers is then the
rounding of its partial sums and nothing else, and another order is another answer in most elements. (In
ordinary numbers, one element in ten thousand tells.) Sums of five terms or fewer are hardly ever rounded, and
tell nothing; nor is there much that could differ.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from dpft.errors import RoundingError

__all__ = ["BFloat16Copies", "SteadyProducts", "counts_that_agree"]

_TRIED = (1, 2, 4, *range(8, 128, 8), *range(128, 256, 16), *range(256, 512, 32), *range(512, 1024, 64))
_TRIED = (*_TRIED, *range(1024, 2049, 128))
"""Numbers of rows: those that training's own widths make, and steps of an eighth at most between others."""
_HINT = "give --precision fp32"


class BFloat16Copies:
    """What a matrix is at bfloat16; of a frozen one a copy is kept.

    Args:
        frozen: parameters that are not trained. One that is written to all the same is copied anew; what
            PyTorch does not count (writing through ``.data``) it must not be.
        trained: parameters that are; what shares memory with one of them is not frozen.
    """

    def __init__(self, frozen: Iterable[Tensor] = (), trained: Iterable[Tensor] = ()) -> None:
        moving = {matrix.untyped_storage().data_ptr() for matrix in trained}
        self._frozen = {
            id(matrix): matrix
            for matrix in frozen
            if matrix.untyped_storage().data_ptr() not in moving and not matrix.is_inference()
        }
        self._kept: dict[int, tuple[tuple[int, int], Tensor]] = {}

    def of(self, matrix: Tensor) -> Tensor:
        """``matrix`` at bfloat16, in its own layout."""
        if self._frozen.get(id(matrix)) is not matrix:
            return matrix.bfloat16()
        state = matrix._version, matrix.data_ptr()
        known = self._kept.get(id(matrix))
        if known is None or known[0] != state:
            known = self._kept[id(matrix)] = state, matrix.detach().bfloat16()
        return known[1]


class SteadyProducts(TorchFunctionMode):
    """Within, and within bf16 autocast, products of rows with a constant matrix give a row its bits anywhere.

    Those with weights that take part in autograd are left alone: their examples go through the model one by
    one. So are products of activations, which :func:`dpft.engines.base.autocast` takes to float32.

    Args:
        copies: of the model's frozen weights.

    Raises:
        RoundingError: (within) a product of another kind, or a kernel that does not agree with itself.
    """

    def __init__(self, copies: BFloat16Copies | None = None) -> None:
        super().__init__()
        self._copies = copies or BFloat16Copies()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        read = _READERS.get(func)
        if read is None and func not in _UNKNOWN:
            return func(*args, **kwargs)
        if not _at_bf16((*args, *kwargs.values()) if read is not None else tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        try:
            factors = None if read is None else read(*args, **kwargs)
        except TypeError:  # with arguments that no reader knows
            factors = None
        if factors is None:
            raise RoundingError(
                f"{getattr(func, '__name__', func)}, which this model computes, may round an example at bf16 "
                "by its company",
                hint=_HINT,
            )
        if not factors.constant:
            return func(*args, **kwargs)
        rows, matrix, bias, transposed = factors
        matrix, bias = self._copies.of(matrix), None if bias is None else self._copies.of(bias)
        matrix = matrix.T if transposed else matrix
        found: Tensor = _Product.apply(rows, matrix, bias)  # type: ignore[no-untyped-call]
        return found.view(*rows.shape[:-1], matrix.shape[1])


def _at_bf16(arguments: Iterable[Any]) -> bool:
    """Whether autocast would take a product of the tensors among ``arguments`` to bfloat16."""
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    if not tensors:
        return False
    device = tensors[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return False
    return all(value.is_floating_point() and value.dtype != torch.float64 for value in tensors)


class _Factors(NamedTuple):
    """Of ``rows @ matrix + bias``, rows (… k), matrix (k n), or (n k) if transposed, bias (n)."""

    rows: Tensor
    matrix: Tensor
    bias: Tensor | None
    transposed: bool = False

    @property
    def constant(self) -> bool:
        """Whether only rows take part in autograd, and there are any."""
        trains = self.matrix.requires_grad or (self.bias is not None and self.bias.requires_grad)
        return self.rows.numel() > 0 and not trains


def _of_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Factors | None:
    return _factors(input, weight, bias, transposed=True)


def _of_addmm(*args: Any, **others: Any) -> _Factors | None:
    if others or len(args) != 3 or args[0].dim() != 1:
        return None
    return _factors(args[1], args[2], args[0])


def _of_matmul(input: Tensor, other: Tensor) -> _Factors | None:
    return _factors(input, other, None)


def _factors(
    rows: Tensor, matrix: Tensor, bias: Tensor | None, *, transposed: bool = False
) -> _Factors | None:
    """Them, if the matrix is one, laid out as one."""
    plain = matrix.dim() == 2 and rows.dim() >= 1 and matrix.layout == torch.strided
    return _Factors(rows, matrix, bias, transposed) if plain and 0 not in matrix.stride() else None


_READERS: dict[Callable[..., Any], Callable[..., _Factors | None]] = {
    F.linear: _of_linear,
    torch.addmm: _of_addmm,
    Tensor.addmm: _of_addmm,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm), _of_matmul),
}
_UNKNOWN = {
    *(torch.mv, Tensor.mv, torch.addmv, Tensor.addmv, torch.addbmm, Tensor.addbmm, torch.einsum),
    *(Tensor.addmm_, Tensor.addmv_, Tensor.addbmm_, Tensor.baddbmm_),
    *(torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu),
    *(torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell),
    *(torch.inner, torch.tensordot, torch.linalg.matmul, torch.linalg.multi_dot, F.bilinear),
    *(F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    F.multi_head_attention_forward,
}


class _Product(torch.autograd.Function):
    """``rows @ matrix + bias``, bfloat16 (b n), of rows (… k), floating, and a constant bfloat16 (k n)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(matrix)
        ctx.dtype, ctx.shape = rows.dtype, rows.shape
        return _product(rows, matrix, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (matrix,) = gradients, ctx.saved_tensors
        return _product(gradient, matrix.T, None).to(ctx.dtype).view(ctx.shape), None, None


def _product(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """``rows @ matrix + bias`` (b n); as many rows at a time as agree, the last of them with zeros behind."""
    counts = counts_that_agree(matrix, bias is not None)
    flat = rows.reshape(rows.shape[:-1].numel(), rows.shape[-1])
    if len(flat) > counts[-1]:
        return torch.cat([_product(part, matrix, bias) for part in torch.split(flat, counts[-1])])
    count = counts[bisect_left(counts, len(flat))]
    found = _multiply(_filled(flat, count), matrix, bias)
    return found if count == len(flat) else found[: len(flat)].clone()  # no view: a model may write to it


def _filled(rows: Tensor, count: int) -> Tensor:
    """``rows`` at bfloat16, and zeros behind them: ``count`` in all."""
    if len(rows) == count:
        return rows.bfloat16().contiguous()
    filled = rows.new_empty(count, rows.shape[1], dtype=torch.bfloat16)
    filled[: len(rows)] = rows
    filled[len(rows) :] = 0
    return filled


def _multiply(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(rows, matrix) if bias is None else torch.addmm(bias, rows, matrix)


def counts_that_agree(matrix: Tensor, bias: bool = False) -> tuple[int, ...]:
    """Numbers of rows, ascending, with which a bfloat16 product gives each row the very same bits.

    Args:
        matrix: (k n), bfloat16; its shape, strides and device matter, its values do not.
        bias: whether one is added.

    Raises:
        RoundingError: among the most rows that are tried, alike rows get different bits.
    """
    return _counts(*matrix.shape, matrix.stride(), bias, str(matrix.device), torch.get_num_threads())


@functools.cache
@torch.no_grad()
def _counts(
    inner: int, outer: int, strides: tuple[int, ...], bias: bool, device: str, threads: int
) -> tuple[int, ...]:
    del threads  # which torch has now; another number of them is another question
    generator = torch.Generator().manual_seed(0)  # of made-up numbers
    cases: list[tuple[Tensor, Tensor, Tensor | None]] = [
        (*_cancelling(inner, outer, generator), torch.zeros(outer) if bias else None)
    ]
    if bias:  # one that is added after rounding shows beside an ordinary sum only
        sizes = (1, inner), (inner, outer), (outer,)
        row, matrix, ordinary = (torch.randn(*size, generator=generator) for size in sizes)
        cases.append((row, matrix, ordinary))
    agreeing = set(_TRIED)
    for row, matrix, added in cases:
        values = torch.empty_strided((inner, outer), strides, dtype=torch.bfloat16, device=device)
        values.copy_(matrix)
        given = None if added is None else added.to(device, torch.bfloat16)
        rows = row.to(device, torch.bfloat16).expand(_TRIED[-1], -1).contiguous()
        expected = _multiply(rows, values, given)[:1]
        agreeing &= {
            count
            for count in agreeing
            if torch.equal(found := _multiply(rows[:count], values, given), expected.expand_as(found))
        }
    if _TRIED[-1] not in agreeing:
        raise RoundingError(
            f"a bf16 product gives {_TRIED[-1]} rows that are alike different bits", hint=_HINT
        )
    return tuple(sorted(agreeing))


def _cancelling(inner: int, outer: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A row (1 k) and a matrix (k n) whose product is zero but for rounding, at bfloat16.

    The second half of the terms is that of the first, negative and in another order. They are of all sizes,
    so that the sum of a few of them is rounded, too.
    """
    pairs, odd = inner // 2, inner % 2
    sizes = torch.randint(-8, 9, (pairs,), generator=generator)
    half = torch.ldexp(torch.randn(pairs, generator=generator), sizes)
    weights = torch.randn(pairs, outer, generator=generator)
    order = torch.randperm(pairs, generator=generator)
    row = torch.cat([half, half[order], torch.zeros(odd)])[None]
    return row, torch.cat([weights, -weights[order], torch.zeros(odd, outer)])
