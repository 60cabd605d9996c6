"""The default engine: one forward, one backward, exact per-example clipping.

The backward pass computes input gradients only; each trainable layer's (input, output gradient) is kept on
the tape. Norms follow from those, then the clip factors, then each layer contracts once. Book-keeping after
Bu et al. 2023 (arXiv 2210.00038), in a single backward pass.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from dpft.engines.base import MicroBatch, PieceReport, example_losses
from dpft.engines.guard import GuardedSession
from dpft.engines.products import BFloat16Copies, SteadyProducts
from dpft.errors import PrivacyError, RoundingError
from dpft.privacy.clipping import Clipper
from dpft.privacy.gradients import PerExampleGradient, Together
from dpft.privacy.tape import Tape

__all__ = ["ENGINE", "BookkeepingEngine", "BookkeepingSession"]


class BookkeepingSession:
    """The tape attached to a model, and the clipper to ask."""

    def __init__(self, model: nn.Module, tape: Tape, clipper: Clipper, precision: str) -> None:
        self._model = model
        self._tape = tape
        self.clipper: Clipper | None = clipper
        self._factors = clipper.over(tape.parameters)
        self._precision = precision
        trained = {id(parameter): parameter for parameter in tape.parameters.values()}
        frozen = (parameter for parameter in model.parameters() if id(parameter) not in trained)
        self._copies = BFloat16Copies(frozen, trained.values())
        self._layers = {id(layer) for layer in model.modules()}

    @torch.no_grad()
    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        """Add ``Σ_i c_i g_i`` to ``sums``, each parameter with the factors c of its clipping group.

        An example whose loss or gradient is not finite contributes exactly nothing, as if it were absent.

        Raises:
            PrivacyError: the model's output does not depend on any trainable parameter.
        """
        losses, gradients = self._record(batch, self._precision)
        together = Together(gradients)
        norms = together.norms()
        total = torch.stack([n.square for n in norms.values()]).sum(0).sqrt()
        factors = self._factors(norms)
        finite = torch.isfinite(total) & torch.isfinite(losses)
        if bool(finite.all()):
            gradients.clear()  # each is freed as soon as it has been added
            together.accumulate(factors, sums)
            return PieceReport(losses.detach(), total, 0)
        keep = finite.nonzero().flatten()
        if not len(keep):
            return PieceReport(losses.detach(), total, len(batch))
        for name, gradient in gradients.items():
            # Zero times infinity is not zero: what is not finite must not enter the product at all.
            gradient.select(keep).accumulate(factors[name][keep], sums[name])
        return PieceReport(losses.detach(), total, len(batch) - len(keep))

    def gradients(self, batch: MicroBatch) -> dict[str, PerExampleGradient]:
        """Per-example gradients of ``batch`` at full precision, before clipping; unused parameters absent."""
        return self._record(batch, "fp32")[1]

    @property
    def notes(self) -> tuple[str, ...]:
        """Which layers are slow."""
        return self._tape.notes

    def _record(self, batch: MicroBatch, precision: str) -> tuple[Tensor, dict[str, PerExampleGradient]]:
        """Losses (b) and what one forward and one backward pass left on the tape."""
        with torch.enable_grad(), self._tape.recording(len(batch)):
            with SteadyProducts(self._copies) if precision == "bf16" else nullcontext():
                losses = example_losses(self._model, batch, precision)
            if not losses.requires_grad:
                raise PrivacyError(
                    "the model's output depends on no trainable parameter",
                    hint="choose another --finetune-mode",
                )
            with _nothing_anew(self._layers) if precision == "bf16" else nullcontext():
                torch.autograd.backward(losses.sum())
        gradients = self._tape.gradients()
        self._tape.forget()
        return losses, gradients


@contextmanager
def _nothing_anew(layers: Container[int]) -> Iterator[None]:
    """Within, which is around a backward pass at bf16, none of ``layers``, given by their ``id``, is called.

    One is where activations are computed again (checkpointing). By then neither steady products nor attention
    in float32 are at work any more: what comes out would be rounded by an example's company.

    Raises:
        RoundingError: (within) one is.
    """

    def refuse(layer: nn.Module, _: Any) -> None:
        if id(layer) in layers:
            raise RoundingError(
                "activation checkpointing would round at bf16 what it computes again in another way",
                hint="give --precision fp32",
            )

    hook = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


class BookkeepingEngine:
    """``--engine dpft``."""

    name = "dpft"
    packages: tuple[str, ...] = ()

    def session(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], clipper: Clipper, precision: str
    ) -> GuardedSession:
        """Attach a tape to ``model``; what it cannot record goes through the model one example at a time."""

        def fast() -> AbstractContextManager[BookkeepingSession]:
            return self.recording(model, parameters, clipper, precision)

        return GuardedSession(fast, model, parameters, clipper, precision)

    @contextmanager
    def recording(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], clipper: Clipper, precision: str
    ) -> Iterator[BookkeepingSession]:
        """The single backward pass without its guard: it refuses what it cannot record.

        Raises:
            UnsupportedLayerError: on entry or in a micro-batch.
        """
        with Tape(model, parameters) as tape:
            yield BookkeepingSession(model, tape, clipper, precision)


ENGINE = BookkeepingEngine()
