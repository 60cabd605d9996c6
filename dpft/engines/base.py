"""What an engine is: a way to add one micro-batch's gradient sums to accumulators.

Plan, sampler, noise and division are the same for every engine (:mod:`dpft.privacy`); engines differ only in
how the sums are computed, and the contract suite holds them to the same sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from dpft.privacy.clipping import Clipper

__all__ = ["Engine", "MicroBatch", "PieceReport", "Session", "autocast", "example_losses"]


@dataclass(frozen=True)
class MicroBatch:
    """Examples that go through the model together.

    Attributes:
        inputs: model keyword arguments, each with one row per example.
        labels: int64, (b).
        fill: how many of the last rows only give the batch its shape: their loss is zero, whatever they say.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor
    fill: int = 0

    def __len__(self) -> int:
        """Rows, those that count for nothing included."""
        return self.labels.shape[0]

    @property
    def examples(self) -> int:
        """Rows that count."""
        return len(self) - self.fill


@dataclass(frozen=True)
class PieceReport:
    """Local diagnostics of one micro-batch; none of it is private, so none of it may leave the machine.

    Attributes:
        losses: cross-entropy per example, (b).
        norms: gradient norm per example before clipping, (b); None where there is no clipping.
        dropped: examples that contributed nothing because their loss or gradient was not finite.
    """

    losses: Tensor
    norms: Tensor | None
    dropped: int

    def of_first(self, count: int) -> PieceReport:
        """Of the first ``count`` rows alone: the others were no examples."""
        if len(self.losses) <= count:
            return self
        losses, norms = self.losses[:count], None if self.norms is None else self.norms[:count]
        finite = torch.isfinite(losses if norms is None else losses + norms)
        return PieceReport(losses, norms, int((~finite).sum()) if self.dropped else 0)


class Session(Protocol):
    """An engine at work on one model."""

    @property
    def clipper(self) -> Clipper | None:
        """What bounds each example's contribution; None where nothing does."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how it works here (a slow path), in sentences."""

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        """Add the (clipped) gradient sums of ``batch`` to ``sums``, in place."""


class Engine(Protocol):
    """Opens sessions.

    Attributes:
        name: in ``tables.ENGINES``.
        packages: other packages that compute with it, as installed; the manifest states their versions.
    """

    name: str
    packages: tuple[str, ...]

    def session(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], clipper: Clipper, precision: str
    ) -> AbstractContextManager[Session]:
        """Prepare ``model`` for recording; undone on exit.

        Raises:
            UnsupportedLayerError: a trainable parameter cannot be clipped exactly.
        """


def example_losses(model: Any, batch: MicroBatch, precision: str) -> Tensor:
    """Cross-entropy of each example on its own, float32, (b): no mean over tokens or batch couples them."""
    with autocast(batch.labels.device, precision):
        logits: Tensor = model(**batch.inputs).logits
    losses = F.cross_entropy(logits.float(), batch.labels, reduction="none")
    return F.pad(losses[: batch.examples], (0, batch.fill)) if batch.fill else losses


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """The autocast context of ``precision`` ("fp32" or "bf16").

    Under bf16, products with weights take bfloat16, and attention and other products of activations, which
    have a batch axis each, take float32: PyTorch's attention on CPUs has a slow backward pass in bfloat16,
    and there it is where padding would tell.
    """
    if precision != "bf16":
        yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16), _WideAttention(device.type):
        yield


class _WideAttention(TorchFunctionMode):
    """Within, attention computes in float32, and so answers, also where a model spells it out.

    Args:
        device_type: of the model.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self._device_type = device_type

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention and not (
            func in _BATCHED and all(value.dim() > 2 for value in args if isinstance(value, Tensor))
        ):
            return func(*args, **kwargs)
        with torch.autocast(self._device_type, enabled=False):
            return func(*tree_map(_wide, tuple(args)), **tree_map(_wide, dict(kwargs)))


_BATCHED = {
    *(torch.matmul, Tensor.matmul, Tensor.__matmul__),
    *(torch.bmm, Tensor.bmm, torch.baddbmm, Tensor.baddbmm),
}


def _wide(value: Any) -> Any:
    """float32 in place of bfloat16."""
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
