"""What an engine is: a way to add one micro-batch's gradient sums to accumulators.

Plan, sampler, noise and division are the same for every engine (:mod:`dpft.privacy`); engines differ only in
how the sums are computed, and the contract suite holds them to the same sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.privacy.clipping import Clipper

__all__ = ["Engine", "MicroBatch", "PieceReport", "Session", "autocast", "example_losses"]


@dataclass(frozen=True)
class MicroBatch:
    """Examples that go through the model together.

    Attributes:
        inputs: model keyword arguments, each with one row per example.
        labels: int64, (b).
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]


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
    return F.cross_entropy(logits.float(), batch.labels, reduction="none")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context of ``precision`` ("fp32" or "bf16")."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
