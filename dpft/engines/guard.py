"""A session that makes sure its fast engine sees everything, and else goes one example at a time.

Before the first micro-batch counts, a few of its rows go through the fast engine and through plain autograd.
The number of rows differs from the micro-batch's, so nothing of a fixed size (a table of relative positions,
say) can pass for the batch axis in both; and each parameter's sum and norms must agree, or the engine misses
a use of some weight. If the fast engine refuses, fails or disagrees, the session is exact one example at a
time instead, and :attr:`GuardedSession.notes` says so.

Two things can blind such a probe. Where plain autograd itself is not finite there is nothing to compare with:
other rows are looked for that are, since one poisoned example must not decide how the others are computed (at
bf16, going one at a time is another rounding). Where there are none nobody contributes anything: that
micro-batch goes one example at a time, and the next is probed. And what starts at zero hides gradients
(LoRA's second factor hides the first's): the first micro-batch after the weights have moved is probed again,
before it counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
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
_FLOOR = 1e-2  # a parameter whose gradient is smaller than this part of the whole is measured by this part
_ROUNDING = 1e-5  # of the magnitude of what was added up, however much of it cancels
_BLOCK = 1 << 18  # numbers of a parameter that are in float64 at a time
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
        self._notes: tuple[str, ...] = ()  # of a fast session that has ended
        self._probed_at: Tensor | None = (
            None  # the weights when the first probe succeeded; not kept once they moved
        )
        self._settled = False

    def __enter__(self) -> GuardedSession:
        try:
            self._fast = self._stack.enter_context(self._open())
        except UnsupportedLayerError as error:
            self._give_up(error.message)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._notes = self.notes
        self._fast = None  # with all that it holds of the model
        self._stack.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is slower than it could be, and why; complete once a micro-batch was accumulated."""
        if self._why_not:
            return (f"exact but slow: each example goes through the model on its own, since {self._why_not}",)
        return self._fast.notes if self._fast is not None else self._notes

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        """Add the clipped gradient sums of ``batch`` to ``sums``, in place."""
        try:
            if self._fast is not None and self._due() and not self._probe(self._fast, batch):
                with self._trainable():
                    return self._exact.accumulate(batch, sums)
            if self._fast is not None:
                return self._fast.accumulate(batch, sums)
        except UnsupportedLayerError as error:
            self._give_up(error.message)
        return self._exact.accumulate(batch, sums)

    def _due(self) -> bool:
        """Whether to probe: never done yet, or not since the weights moved for the first time."""
        if self._settled:
            return False
        return self._probed_at is None or not torch.equal(self._probed_at, self._glance())

    def _glance(self) -> Tensor:
        """One number of each parameter: all of them move with a step."""
        return torch.stack([p.detach()[(0,) * p.dim()].float() for p in self._parameters.values()])

    def _give_up(self, why_not: str) -> None:
        self._why_not = why_not
        self._fast = None
        self._stack.close()

    def _probe(self, fast: FastSession, batch: MicroBatch) -> bool:
        """Hold the fast session against plain autograd, on another number of the same rows.

        Returns:
            Whether they could be compared: plain autograd is finite for some row.

        Raises:
            UnsupportedLayerError: it fails, or differs.
        """
        for rows in _candidates(len(batch)):
            few = MicroBatch({key: value[rows] for key, value in batch.inputs.items()}, batch.labels[rows])
            plain = self._plain(few)
            if plain is None or bool(torch.isfinite(plain.whole)):
                break
        else:
            return False
        if plain is not None:
            try:
                found = fast.gradients(few)
            except RuntimeError as error:  # what plain autograd has just done
                first_line = str(error).strip().partition("\n")[0]
                raise UnsupportedLayerError(f"recording it fails: {first_line}", hint=_HINT) from error
            _compare(found, plain)
        self._settled = self._probed_at is not None
        self._probed_at = None if self._settled else self._glance()
        return True

    def _plain(self, few: MicroBatch) -> _Plain | None:
        """Per-example gradients by plain autograd, float32; None if nothing reaches the parameters."""
        sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in self._parameters.items()}
        norms: dict[str, list[Tensor]] = {name: [] for name in sums}
        try:
            with self._trainable(), torch.enable_grad():
                losses = example_losses(self._model, few, "fp32")
                if not losses.requires_grad:
                    return None
                for loss in losses:
                    values = torch.autograd.grad(
                        loss, list(self._parameters.values()), retain_graph=True, allow_unused=True
                    )
                    for (name, total), value in zip(sums.items(), values, strict=True):
                        gradient = torch.zeros_like(total) if value is None else value.float()
                        total.add_(gradient)
                        norms[name].append(_norm(gradient))
                    del values, value, gradient  # the next example's are as large
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise PrivacyError(
                "reentrant activation checkpointing hides what each example did",
                hint="enable checkpointing with use_reentrant=False",
            ) from error
        return _Plain(sums, {name: torch.stack(values) for name, values in norms.items()})

    @contextmanager
    def _trainable(self) -> Iterator[None]:
        """The parameters take part in autograd, as the fast session does not let them."""
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in self._parameters.values():
                parameter.requires_grad_(False)


def _candidates(batch_size: int) -> Iterator[Tensor]:
    """Rows to probe: the first ones, or else each one several times; never as many as ``batch_size``."""
    count = 2 if batch_size != 2 else 3
    yield torch.arange(count) % batch_size
    for row in range(batch_size):
        yield torch.full((count,), row)


@dataclass(frozen=True)
class _Plain:
    """What plain autograd says of a few examples.

    Attributes:
        sums: their gradients' sum, by parameter.
        norms: of each example's gradient, by parameter, (b).
    """

    sums: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]

    @property
    def whole(self) -> Tensor:
        """The root of all squared norms together; a sum of examples is at most so many times that."""
        return torch.stack([norms.square().sum() for norms in self.norms.values()]).sum().sqrt()


def _compare(found: Mapping[str, PerExampleGradient], plain: _Plain) -> None:
    """Each parameter's sum and per-example norms, by its own size.

    Raises:
        UnsupportedLayerError: naming the parameter that differs most.
    """
    whole = float(plain.whole)
    worst, largest, what = "", 0.0, ""
    for name, expected in plain.sums.items():
        size = max(float(plain.norms[name].norm()), _FLOOR * whole)
        for kind, error in zip(
            ("sums", "norms"), _errors(found.get(name), expected, plain.norms[name]), strict=True
        ):
            relative = error / size if size > 0 else (math.inf if error else 0.0)
            if not relative <= largest:
                worst, largest, what = name, math.inf if math.isnan(relative) else relative, kind
    if not largest <= _TOLERANCE:
        raise UnsupportedLayerError(
            f"{worst!r} is used in ways that its layer does not show ({what} differ by {largest:.2g}, "
            "relative)",
            hint=_HINT,
        )


def _errors(found: PerExampleGradient | None, expected: Tensor, norms: Tensor) -> tuple[float, float]:
    """How far one parameter's sum and norms are off, beyond what rounding explains."""
    if found is None:
        return float(_norm(expected)), float(norms.norm())
    theirs = found.norms()
    total = torch.zeros_like(expected)
    found.accumulate(torch.ones(len(norms), device=total.device), total)
    off = _norm(total.sub_(expected)) - _ROUNDING * theirs.square_magnitude.sum().sqrt()
    squares = (theirs.square - norms.square()).abs() - _ROUNDING * theirs.square_magnitude
    off_norms = squares.clamp(min=0) / (theirs.square.clamp(min=0).sqrt() + norms).clamp(min=1e-300)
    return float(off.clamp(min=0)), float(off_norms.norm())


def _norm(value: Tensor) -> Tensor:
    """In float64, part by part: a copy of an embedding's gradient would be a run's peak of memory."""
    parts = torch.split(value.reshape(-1), _BLOCK)
    norm: Tensor = torch.linalg.vector_norm(torch.stack([part.double().norm() for part in parts]))
    return norm
