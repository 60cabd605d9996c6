"""A session that first makes sure its fast engine sees everything, and else goes one example at a time.

Before the first micro-batch counts, a few of its rows go through the fast engine and through plain autograd.
The number of rows differs from the micro-batch's, so nothing of a fixed size (a table of relative positions,
say) can pass for the batch axis in both; and the two sums must agree, or the engine misses a use of some
weight. If the fast engine refuses, fails or disagrees, the session is exact one example at a time instead,
and :attr:`GuardedSession.notes` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor, nn

from dpft.engines.base import MicroBatch, PieceReport, Session, example_losses
from dpft.engines.one_by_one import OneByOneSession
from dpft.errors import PrivacyError, UnsupportedLayerError
from dpft.privacy.clipping import Clipper
from dpft.privacy.gradients import PerExampleGradient

__all__ = ["FastSession", "GuardedSession"]

_TOLERANCE = 1e-3
_HINT = "freeze this layer, or choose another --finetune-mode"


class FastSession(Session, Protocol):
    """A session that can be asked for what it records."""

    def gradients(self, batch: MicroBatch) -> dict[str, PerExampleGradient]:
        """Per-example gradients of ``batch`` at full precision, before clipping; unused parameters absent."""


class GuardedSession:
    """A fast session, or an exact one in its place.

    Args:
        fast: opens the fast session on the model.
        model: the model.
        parameters: its trainable parameters by name.
        clipper: bounds each example.
        precision: "fp32" or "bf16".
    """

    def __init__(
        self,
        fast: Callable[[], AbstractContextManager[FastSession]],
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        clipper: Clipper,
        precision: str,
    ) -> None:
        self.clipper: Clipper | None = clipper
        self._open = fast
        self._model = model
        self._parameters = parameters
        self._exact = OneByOneSession(model, parameters, clipper, precision)
        self._stack = ExitStack()
        self._fast: FastSession | None = None
        self._why_not = ""
        self._probed = False

    def __enter__(self) -> GuardedSession:
        try:
            self._fast = self._stack.enter_context(self._open())
        except UnsupportedLayerError as error:
            self._give_up(error.message)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is slower than it could be, and why; complete once a micro-batch was accumulated."""
        if self._why_not:
            return (f"exact but slow: each example goes through the model on its own, since {self._why_not}",)
        return self._fast.notes if self._fast is not None else ()

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        """Add the clipped gradient sums of ``batch`` to ``sums``, in place."""
        try:
            if self._fast is not None and not self._probed:
                self._probe(self._fast, batch)
            if self._fast is not None:
                return self._fast.accumulate(batch, sums)
        except UnsupportedLayerError as error:
            self._give_up(error.message)
        return self._exact.accumulate(batch, sums)

    def _give_up(self, why_not: str) -> None:
        self._why_not = why_not
        self._fast = None
        self._stack.close()

    def _probe(self, fast: FastSession, batch: MicroBatch) -> None:
        """Hold the fast session's sum against plain autograd's, on another number of the same rows.

        Raises:
            UnsupportedLayerError: it fails, or differs.
        """
        self._probed = True
        count = 2 if len(batch) != 2 else 3
        rows = torch.arange(count) % len(batch)
        few = MicroBatch({key: value[rows] for key, value in batch.inputs.items()}, batch.labels[rows])
        expected = self._plain(few)
        if expected is None:
            return
        try:
            found = fast.gradients(few)
        except RuntimeError as error:  # what plain autograd has just done
            first_line = str(error).strip().partition("\n")[0]
            raise UnsupportedLayerError(f"recording it fails: {first_line}", hint=_HINT) from error
        worst, difference, size = "", 0.0, 0.0
        largest = -1.0
        for name, value in expected.items():
            if name in found:
                total = torch.zeros_like(value)
                found[name].accumulate(torch.ones(count, device=value.device), total)
                wrong = float((total.double() - value.double()).norm())
            else:
                wrong = float(value.double().norm())
            difference, size = math.hypot(difference, wrong), math.hypot(size, float(value.double().norm()))
            if wrong > largest:
                worst, largest = name, wrong
        if math.isfinite(size) and not difference <= _TOLERANCE * size:
            raise UnsupportedLayerError(
                f"{worst!r} is used in ways that its layer does not show (sums differ by "
                f"{difference / size:.2g}, relative)",
                hint=_HINT,
            )

    def _plain(self, few: MicroBatch) -> dict[str, Tensor] | None:
        """The gradients of the summed loss by plain autograd, float32; None if nothing reaches it."""
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                loss = example_losses(self._model, few, "fp32").sum()
                if not loss.requires_grad:
                    return None
                values = torch.autograd.grad(loss, list(self._parameters.values()), allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise PrivacyError(
                "reentrant activation checkpointing hides what each example did",
                hint="enable checkpointing with use_reentrant=False",
            ) from error
        finally:
            for parameter in self._parameters.values():
                parameter.requires_grad_(False)
        return {
            name: torch.zeros_like(parameter, dtype=torch.float32) if value is None else value.float()
            for (name, parameter), value in zip(self._parameters.items(), values, strict=True)
        }
