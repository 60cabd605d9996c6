"""What engines share that leave the per-example work to another library's hooks.

Such a library hooks the layers of a model and leaves, on each trainable parameter, either its per-example
gradients or only their norms. Norms alone cost less memory and take a second backward pass, of the losses
weighted by the clip factors ("ghost clipping", Li et al. 2022, arXiv 2110.05679). That pass can weight an
example as a whole, not layer by layer, and it rounds anew; so it serves clippers with one group at float32,
with factors lowered by :data:`TWO_PASS_MARGIN`. In all other cases the per-example gradients themselves are
summed, a few examples at a time.

Whatever the library computes, the factors are our clipper's, from norms guarded as the default engine's are.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from dpft.engines.base import MicroBatch, PieceReport, example_losses
from dpft.engines.magnitudes import Magnitudes
from dpft.errors import PrivacyError, UnsupportedLayerError, UsageError
from dpft.privacy.clipping import Clipper
from dpft.privacy.gradients import DenseGradient, Norms

__all__ = ["TWO_PASS_MARGIN", "HookedSession", "Library", "hooked_session"]

TWO_PASS_MARGIN = 4e-6  # the second pass was seen to differ from the first by up to 4e-7, relative
_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
_KIND_OF_HOOKS = "_is_full_backward_hook"
_INSTANCE_BYTES = 512 << 20  # what per-example gradients may take at once


class Library(ABC):
    """A library's hooks on one model.

    Attributes:
        name: the engine's.
        precisions: at which it works.
        sharing_error: what it raises where norms of a parameter used several times cannot be had.
    """

    name: str
    precisions: tuple[str, ...]
    sharing_error: type[Exception]

    @abstractmethod
    def handles(self, module: nn.Module) -> bool:
        """Whether it differentiates the parameters that ``module`` itself holds."""

    @abstractmethod
    def attach(self, model: nn.Module, *, norms_only: bool) -> None:
        """Hook ``model``; once at a time."""

    @abstractmethod
    def detach(self, model: nn.Module) -> None:
        """Undo :meth:`attach`, what is left on parameters included."""

    @abstractmethod
    def recording(self) -> AbstractContextManager[None]:
        """Within, a forward and a backward pass leave something on the parameters."""

    @abstractmethod
    def silent(self) -> AbstractContextManager[None]:
        """Within, a pass leaves nothing, even of modules in training mode."""

    @abstractmethod
    def take(self, parameter: nn.Parameter) -> Tensor | None:
        """What a pass left on ``parameter``, removed from it: norms (b), or gradients (b, *parameter)."""


class HookedSession:
    """Clipped sums from what a library's hooks leave."""

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        clipper: Clipper,
        precision: str,
        library: Library,
    ) -> None:
        if precision not in library.precisions:
            raise UsageError(
                f"engine {library.name!r} does not work at precision {precision}",
                hint=f"give --precision {library.precisions[0]}, or choose --engine dpft",
            )
        self.clipper: Clipper | None = clipper
        self._model = model
        self._parameters = dict(parameters)
        self._factors = clipper.over(parameters)
        self._precision = precision
        self._library = library
        self._norms_only = precision == "fp32" and len(clipper.groups(parameters)) == 1
        size = 4 * sum(p.numel() for p in parameters.values())
        self._rows_at_once = max(1, _INSTANCE_BYTES // max(1, size))
        self._magnitudes = Magnitudes(model, parameters)
        self._refuse_what_is_not_handled()

    def _refuse_what_is_not_handled(self) -> None:
        for owner, module in self._magnitudes.owners.items():
            if not self._library.handles(module):
                raise UnsupportedLayerError(
                    f"engine {self._library.name!r} gives no per-example gradients for {owner} "
                    f"({type(module).__name__})",
                    hint="choose --engine dpft, or a --finetune-mode that freezes it",
                )

    @contextmanager
    def attached(self) -> Iterator[HookedSession]:
        """Hooks on, and off again."""
        # PyTorch marks a module by the kind of its backward hooks, and keeps the mark when they are gone.
        marks = [(module, vars(module).get(_KIND_OF_HOOKS)) for module in self._model.modules()]
        try:
            self._magnitudes.attach()
            try:
                self._library.attach(self._model, norms_only=self._norms_only)
            except _FAILURES as error:
                raise self._refusal(error) from error
            yield self
        finally:
            self._magnitudes.remove()
            self._library.detach(self._model)
            for module, mark in marks:
                vars(module)[_KIND_OF_HOOKS] = mark

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether it takes the slow way."""
        if self._norms_only:
            return ()
        return (
            f"engine {self._library.name!r} writes out whole per-example gradients here, at most "
            f"{self._rows_at_once} examples at a time: slow",
        )

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        """Add ``Σ_i c_i g_i`` to ``sums``.

        An example whose loss or gradient is not finite contributes exactly nothing, as if it were absent.

        Raises:
            PrivacyError: a parameter got a gradient that the library has no norm of.
        """
        if batch.fill:
            batch = _rows(batch, torch.arange(batch.examples))
        try:
            if self._norms_only:
                try:
                    return self._by_norms(batch, sums)
                except self._library.sharing_error:
                    self._library.detach(self._model)
                    self._norms_only = False
                    self._library.attach(self._model, norms_only=False)
            pieces = torch.split(torch.arange(len(batch)), self._rows_at_once)
            return _together([self._by_instances(_rows(batch, piece), sums) for piece in pieces])
        finally:
            self._forget_gradients()  # of all examples together: nothing but the clipped sum may be used

    def _by_norms(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        """Norms in a first backward pass, the weighted sum in a second."""
        losses, left = self._pass(batch, retain_graph=True)
        norms = {n: self._magnitudes.norms(self._parameters[n], v.double().square()) for n, v in left.items()}
        total = _total(norms)
        finite = _finite(total, losses)
        if not bool(finite.all()):
            return self._without(batch, finite, losses, total, sums)
        factors = next(iter(self._factors(norms).values())) * (1 - TWO_PASS_MARGIN)
        self._forget_gradients()
        with torch.enable_grad(), self._library.silent(), _quiet():
            weighted = (factors * losses).sum()
            found = torch.autograd.grad(weighted, list(self._parameters.values()), allow_unused=True)
        for name, gradient in zip(self._parameters, found, strict=True):
            if gradient is not None:
                self._check_bounded(name, norms)
                sums[name].add_(gradient)
        return PieceReport(losses.detach(), total, 0)

    def _by_instances(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        """Per-example gradients, summed by their factors."""
        losses, left = self._pass(batch, retain_graph=False)
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._check_bounded(name, left)
        self._forget_gradients()
        gradients = {name: DenseGradient(value.float()) for name, value in left.items()}
        norms = {
            name: self._magnitudes.norms(self._parameters[name], gradient.norms().square)
            for name, gradient in gradients.items()
        }
        total = _total(norms)
        finite = _finite(total, losses)
        if not bool(finite.all()):
            return self._without(batch, finite, losses, total, sums)
        factors = self._factors(norms)
        for name, gradient in gradients.items():
            gradient.accumulate(factors[name], sums[name])
        return PieceReport(losses.detach(), total, 0)

    def _pass(self, batch: MicroBatch, *, retain_graph: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """One forward and one backward pass with the hooks at work, and what they left, by parameter name."""
        recording = self._library.recording(), self._magnitudes.recording(len(batch))
        with torch.enable_grad(), _quiet(), recording[0], recording[1]:
            try:
                losses = example_losses(self._model, batch, self._precision)
                if losses.requires_grad:
                    torch.autograd.backward(losses.sum(), retain_graph=retain_graph)
            except _FAILURES as error:
                if self._norms_only and isinstance(error, self._library.sharing_error):
                    raise
                raise self._refusal(error) from error
        if not losses.requires_grad:
            raise PrivacyError(
                "the model's output depends on no trainable parameter", hint="choose another --finetune-mode"
            )
        return losses, self._take(len(batch))

    def _refusal(self, error: Exception) -> UnsupportedLayerError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return UnsupportedLayerError(
            f"engine {self._library.name!r} fails on this model: {reason}", hint="choose --engine dpft"
        )

    def _take(self, rows: int) -> dict[str, Tensor]:
        taken = {name: self._library.take(parameter) for name, parameter in self._parameters.items()}
        left = {name: value for name, value in taken.items() if value is not None}
        for name, value in left.items():
            if value.shape[0] != rows:
                raise UnsupportedLayerError(
                    f"engine {self._library.name!r} sees {value.shape[0]} rows of {rows} examples in {name}",
                    hint="choose --engine dpft",
                )
        return left

    def _without(
        self,
        batch: MicroBatch,
        finite: Tensor,
        losses: Tensor,
        total: Tensor,
        sums: Mapping[str, Tensor],
    ) -> PieceReport:
        """Again, with only the examples whose numbers are finite: zero times NaN would not be zero."""
        self._forget_gradients()
        kept = finite.nonzero().flatten()
        if len(kept):
            self.accumulate(_rows(batch, kept), sums)
        return PieceReport(losses.detach(), total, len(batch) - len(kept))

    def _check_bounded(self, name: str, known: Mapping[str, object]) -> None:
        if name not in known:
            raise PrivacyError(
                f"engine {self._library.name!r} has no per-example norm of {name}, though it has a gradient",
                hint="choose --engine dpft",
            )

    def _forget_gradients(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None


@contextmanager
def hooked_session(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    clipper: Clipper,
    precision: str,
    library: Library,
) -> Iterator[HookedSession]:
    """A session whose hooks are on ``model`` until it ends."""
    with HookedSession(model, parameters, clipper, precision, library).attached() as session:
        yield session


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's warnings of input gradients that a hook may not see; output gradients are used."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        warnings.filterwarnings("ignore", "Using a non-full backward hook", FutureWarning)
        yield


def _total(norms: Mapping[str, Norms]) -> Tensor:
    """Norms over all parameters together, (b)."""
    return torch.stack([n.square for n in norms.values()]).sum(0).sqrt()


def _finite(total: Tensor, losses: Tensor) -> Tensor:
    """Which examples may contribute, (b)."""
    return torch.isfinite(total) & torch.isfinite(losses.detach())


def _rows(batch: MicroBatch, rows: Tensor) -> MicroBatch:
    return MicroBatch({key: value[rows] for key, value in batch.inputs.items()}, batch.labels[rows])


def _together(reports: list[PieceReport]) -> PieceReport:
    norms = [report.norms for report in reports if report.norms is not None]
    losses = torch.cat([report.losses for report in reports])
    return PieceReport(losses, torch.cat(norms), sum(report.dropped for report in reports))
