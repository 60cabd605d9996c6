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
        for name, parameter in self._parameters.items():
            parameter.grad = sums[name]  # backward adds to it in place
        try:
            losses = example_losses(self._model, batch, self._precision)
            torch.autograd.backward(losses.sum())
        finally:
            for parameter in self._parameters.values():
                parameter.grad = None
        return PieceReport(losses.detach(), None, 0)


@contextmanager
def session(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], precision: str
) -> Iterator[OrdinarySession]:
    """Open a session that neither clips nor records."""
    yield OrdinarySession(model, parameters, precision)
