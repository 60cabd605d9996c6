"""Plain autograd: training without privacy, through the same loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpft.engines.base import MicroBatch, PieceReport, example_losses
from dpft.privacy.clipping import Clipper

__all__ = ["OrdinarySession", "session"]


class OrdinarySession:
    """Sums of gradients, unclipped."""

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter], precision: str) -> None:
        self.clipper: Clipper | None = None
        self.notes: tuple[str, ...] = ()
        self._model = model
        self._parameters = dict(parameters)
        self._precision = precision

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        """Add the gradient of the summed loss to ``sums``."""
        losses = example_losses(self._model, batch, self._precision)
        gradients = torch.autograd.grad(losses.sum(), list(self._parameters.values()), allow_unused=True)
        for name, gradient in zip(self._parameters, gradients, strict=True):
            if gradient is not None:
                sums[name].add_(gradient)
        return PieceReport(losses.detach(), None, 0)


@contextmanager
def session(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], precision: str
) -> Iterator[OrdinarySession]:
    """Open a session that neither clips nor records."""
    yield OrdinarySession(model, parameters, precision)
