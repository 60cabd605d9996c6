"""Each example through the model on its own, by plain autograd: exact on every model, and slow.

What the single backward pass cannot tell apart (a table that all examples share without a batch axis, a
weight read past its layer), this can. Engines fall back on it; see :mod:`dpft.engines.guard`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dpft.engines.base import MicroBatch, PieceReport, example_losses
from dpft.engines.oracle import alone
from dpft.errors import PrivacyError
from dpft.privacy.clipping import Clipper
from dpft.privacy.gradients import DenseGradient

__all__ = ["OneByOneSession"]


class OneByOneSession:
    """Plain autograd on one example after the other, each without its padding.

    Args:
        model: whose parameters take part in autograd as usual.
        parameters: the trainable parameters by name.
        clipper: bounds each example.
        precision: "fp32" or "bf16".
    """

    def __init__(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], clipper: Clipper, precision: str
    ) -> None:
        self.clipper: Clipper | None = clipper
        self.notes: tuple[str, ...] = ()
        self._model = model
        self._parameters = dict(parameters)
        self._factors = clipper.over(self._parameters)
        self._precision = precision

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        """Add ``Σ_i c_i g_i`` to ``sums``; an example that is not finite contributes exactly nothing."""
        losses, norms, dropped = [], [], 0
        for row in range(batch.examples):
            loss, gradients = self._gradients(MicroBatch(alone(batch, row), batch.labels[row : row + 1]))
            squares = {name: gradient.norms() for name, gradient in gradients.items()}
            norm = torch.stack([n.square for n in squares.values()]).sum(0).sqrt()
            losses.append(loss)
            norms.append(norm)
            if not bool(torch.isfinite(norm + loss)):
                dropped += 1
                continue
            factors = self._factors(squares)
            for name, gradient in gradients.items():
                gradient.accumulate(factors[name], sums[name])
        return PieceReport(torch.cat(losses), torch.cat(norms), dropped)

    def _gradients(self, example: MicroBatch) -> tuple[Tensor, dict[str, DenseGradient]]:
        """Loss (1) and gradients of a single example; zero where it does not reach a parameter."""
        with torch.enable_grad():
            loss = example_losses(self._model, example, self._precision)
            if not loss.requires_grad:
                raise PrivacyError(
                    "the model's output depends on no trainable parameter",
                    hint="choose another --finetune-mode",
                )
            values = torch.autograd.grad(loss.sum(), list(self._parameters.values()), allow_unused=True)
        gradients = {
            name: DenseGradient(torch.zeros_like(parameter)[None] if value is None else value[None].float())
            for (name, parameter), value in zip(self._parameters.items(), values, strict=True)
        }
        return loss.detach(), gradients
