"""Does a model answer each example as it would answer it alone?

What one example may move the sum by is bounded by C only if it moves no other example's gradient. A leak from
example to example adds up over the batch, so none is small enough to pass: what decides is whether there is a
dependence, not its size. Therefore the comparison is made in float64 throughout, where a model that masks
exactly agrees with itself to 1e-13 or so, and anything beyond that is a leak.

Where the answers are each example's own, so are the gradients: they are derivatives of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from dpft.engines import oracle
from dpft.engines.base import MicroBatch
from dpft.errors import PrivacyError

__all__ = ["LEAK", "InFloat64", "check_company"]

LEAK = 1e-10
"""A difference of logits, relative to the largest, that rounding in float64 does not explain."""

_NARROW = (torch.float32, torch.bfloat16, torch.float16)
_NARROWING = {Tensor.float: Tensor.double, Tensor.half: Tensor.double, Tensor.bfloat16: Tensor.double}
_LOOKUPS = (F.embedding, torch.embedding)  # exact at any precision, of tables too large to be copied


_IN_PLACE = tuple(
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or")
)


class InFloat64(TorchFunctionMode):
    """Within, PyTorch computes in float64 whatever a model's weights and casts say.

    Weights are widened one operation at a time and stay as they are; so it takes no second copy of a model.
    What a model casts down (norms and softmaxes in float32) is not. Operations in place are left alone.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if _reads_or_writes(func) or kwargs.get("out") is not None:
            return func(*args, **kwargs)
        if func in _LOOKUPS:
            return tree_map(_wide, func(*args, **kwargs))
        func = _NARROWING.get(func, func)
        return tree_map(_wide, func(*tree_map(_wide, tuple(args)), **tree_map(_wide, dict(kwargs))))


def check_company(model: Any, batch: MicroBatch, pieces: Sequence[MicroBatch]) -> None:
    """Refuse a model whose answers depend on an example's neighbours: no engine makes that private.

    Args:
        model: in eval mode, its head at weights that are not all zero.
        batch: examples of different lengths.
        pieces: the same examples, together, in several widths of padding.

    Raises:
        PrivacyError: an answer is another alone than in company, is not finite, or cannot be had in float64.
    """
    name = type(model).__name__
    try:
        with torch.no_grad(), InFloat64():
            own = torch.cat([model(**oracle.alone(batch, row)).logits for row in range(len(batch))])
            together = [model(**piece.inputs).logits for piece in pieces]
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise PrivacyError(
            f"{name} does not compute in float64, so nobody can tell whether it keeps examples apart: "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}",
            hint="choose another model",
        ) from error
    size = float(own.abs().max())
    for logits in together:
        difference = float((logits - own).abs().max())
        if not difference <= LEAK * size:
            raise PrivacyError(
                f"{name} answers an example differently in company: its logits differ by {difference:.2g}",
                hint="this architecture mixes examples (through padding, say): choose another model",
            )


def _wide(value: Any) -> Any:
    """float64 in place of a narrower type, or of a tensor of one."""
    if isinstance(value, torch.dtype):
        return torch.float64 if value in _NARROW else value
    return value.double() if isinstance(value, Tensor) and value.dtype in _NARROW else value


def _reads_or_writes(func: Callable[..., Any]) -> bool:
    """Whether it is an attribute's getter or setter, or works in place (``add_``, ``+=``, ``x[i] = y``)."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name in ("__get__", "__set__", "__setitem__") or name in _IN_PLACE
