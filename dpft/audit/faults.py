"""Faults to plant: each puts one known bug around the production parts, and leaves the rest as it is.

Every one of them has been somebody's: the sampler of examples that shuffle, noise at the wrong scale, a
skipped empty batch, a classifier head whose gradient never met the clipper. An audit that lets one pass is
worth nothing, so ``dpft audit --self-test`` plants them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dpft.audit.bench import Parts
from dpft.audit.subject import AUDIT_VECTOR
from dpft.engines.base import Engine, MicroBatch, PieceReport, Session, example_losses
from dpft.privacy.clipping import Clipper
from dpft.privacy.noise import KEY_BYTES, KeyStream, Purpose
from dpft.privacy.plan import Draw, PrivatePlan
from dpft.privacy.sampling import Indices, PoissonSampler, ShuffleSampler
from dpft.spec import OptimisationSpec, PrivacySpec

__all__ = ["FAULTS", "Fault"]


_LOOSE, _OVERSHOOT = 1e12, 1 + 1e-5  # times the clipping norm


@dataclass(frozen=True)
class Fault:
    """A bug.

    Attributes:
        name: in a few words.
        plant: puts it around some parts.
        expected: checks that must notice it, whatever else does.
    """

    name: str
    plant: Callable[[Parts], Parts]
    expected: tuple[str, ...]


# -- noise: another stream behind the same plan


class _Behind(KeyStream):
    """A stream whose samples are those of another."""

    def __init__(self, stream: KeyStream) -> None:
        super().__init__()
        self._inner = stream

    def begin(self, step: int, purpose: Purpose) -> None:
        self._inner.begin(step, purpose)

    def bytes(self, count: int) -> bytes:
        return self._inner.bytes(count)

    def uniforms(self, count: int) -> Any:
        return self._inner.uniforms(count)

    def normals(self, count: int) -> Tensor:
        return self._inner.normals(count)


class _Scaled(_Behind):
    def __init__(self, stream: KeyStream, factor: float) -> None:
        super().__init__(stream)
        self._factor = factor

    def normals(self, count: int) -> Tensor:
        return self._inner.normals(count).mul_(self._factor)


class _Repeated(_Behind):
    def normals(self, count: int) -> Tensor:
        return KeyStream(bytes(KEY_BYTES)).normals(count)


class _Float32(_Behind):
    def normals(self, count: int) -> Tensor:
        return self._inner.normals(count).clamp_(-5.768, 5.768).float().double()


def _with_stream(wrap: Callable[[KeyStream], KeyStream]) -> Callable[[Parts], Parts]:
    def plant(parts: Parts) -> Parts:
        def make(
            examples: int,
            optimisation: OptimisationSpec,
            privacy: PrivacySpec,
            *,
            stream: KeyStream | None = None,
        ) -> Any:
            given = stream if stream is not None else KeyStream()
            return parts.make_plan(examples, optimisation, privacy, stream=wrap(given))

        return dataclasses.replace(parts, make_plan=make)

    return plant


# -- sampling and release: another plan around the true one


class _Sampler(Protocol):
    def draw(self) -> Indices: ...


class _PlanAround:
    """The true plan, which draws when it is asked to release."""

    def __init__(self, plan: PrivatePlan, sampler: _Sampler) -> None:
        self._plan = plan
        self._sampler = sampler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plan, name)

    def draw(self) -> Draw:
        return Draw(self._sampler.draw())

    def release(self, draw: Draw, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._plan.release(self._plan.draw(), sums)


class _SkipsEmpty(_PlanAround):
    def release(self, draw: Draw, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return super().release(draw, sums) if len(draw.indices) else {}


class _DividesByRealised(_PlanAround):
    def release(self, draw: Draw, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        factor = self._plan.schedule.expected_batch_size / max(1, len(draw.indices))
        return {name: value * factor for name, value in super().release(draw, sums).items()}


def _poisson(plan: PrivatePlan, factor: float = 1.0) -> PoissonSampler:
    rate = min(1.0, factor * plan.schedule.sample_rate)
    return PoissonSampler(plan.schedule.examples, rate, KeyStream())


def _shuffling(plan: PrivatePlan) -> ShuffleSampler:
    return ShuffleSampler(plan.schedule.examples, plan.schedule.expected_batch_size, seed=0)


def _with_plan(around: Callable[[PrivatePlan], Any]) -> Callable[[Parts], Parts]:
    def plant(parts: Parts) -> Parts:
        def make(
            examples: int,
            optimisation: OptimisationSpec,
            privacy: PrivacySpec,
            *,
            stream: KeyStream | None = None,
        ) -> Any:
            plan = parts.make_plan(examples, optimisation, privacy, stream=stream)
            assert isinstance(plan, PrivatePlan)
            return around(plan)

        return dataclasses.replace(parts, make_plan=make)

    return plant


# -- clipping: another engine around the true one


class _SessionAround:
    """A session that presents the plan's clipper, whatever it does."""

    def __init__(
        self,
        session: Session,
        clipper: Clipper,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        precision: str,
    ) -> None:
        self._session = session
        self._model = model
        self._parameters = parameters
        self._precision = precision
        self.clipper: Clipper | None = clipper
        self.notes: tuple[str, ...] = ()

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        return self._session.accumulate(batch, sums)


class _HeadSlipsIn(_SessionAround):
    """The head's raw gradient is added beside the clipped ones, as ``loss.backward()`` would."""

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        report = super().accumulate(batch, sums)
        head = _head(self._parameters)
        tracked = [p.requires_grad for p in head.values()]
        for parameter in head.values():
            parameter.requires_grad_(True)
        losses = example_losses(self._model, batch, self._precision)
        raw = torch.autograd.grad(losses.sum(), list(head.values()))
        for name, gradient, before in zip(head, raw, tracked, strict=True):
            sums[name].add_(gradient)
            head[name].requires_grad_(before)
        return report


class _KeepsPoison(_SessionAround):
    """A non-finite example is multiplied by zero instead of left out; and zero times NaN is NaN."""

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        report = super().accumulate(batch, sums)
        if report.dropped:
            for value in sums.values():
                value.mul_(float("nan"))
        return report


class _AddsNoise(_SessionAround):
    """Every micro-batch gets noise of its own, so that a step has as much as it has micro-batches."""

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        report = super().accumulate(batch, sums)
        assert self.clipper is not None
        for value in sums.values():
            value.add_(torch.randn_like(value), alpha=self.clipper.sensitivity)
        return report


class _EngineAround:
    """The true engine; its sessions are opened with another bound, or wrapped."""

    def __init__(self, engine: Engine, around: type[_SessionAround], times: float) -> None:
        self.name = engine.name
        self.packages = engine.packages
        self._engine = engine
        self._around = around
        self._times = times

    @contextmanager
    def session(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], clipper: Clipper, precision: str
    ) -> Iterator[Session]:
        used = clipper if self._times == 1 else _with_bound(clipper, self._times * clipper.sensitivity)
        with self._engine.session(model, parameters, used, precision) as session:
            yield self._around(session, clipper, model, parameters, precision)


def _with_bound(clipper: Clipper, bound: float) -> Clipper:
    """The same clipper with another bound; the plan goes on with the one it had."""
    return dataclasses.replace(clipper, max_grad_norm=bound)  # type: ignore[type-var]


def _head(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """What is called a head; on a model without one, the last tensor before the audit vector."""
    named = {n: p for n, p in parameters.items() if {"classifier", "score", "out_proj"} & {*n.split(".")}}
    last = [name for name in parameters if name != AUDIT_VECTOR][-1]
    return named or {last: parameters[last]}


def _with_session(
    around: type[_SessionAround] = _SessionAround, *, times: float = 1.0
) -> Callable[[Parts], Parts]:
    return lambda parts: dataclasses.replace(parts, engine=_EngineAround(parts.engine, around, times))


FAULTS: tuple[Fault, ...] = (
    Fault(
        "noise halved",
        _with_stream(lambda stream: _Scaled(stream, 0.5)),
        ("noise per tensor", "empty batch", "noise in training", "noise tails"),
    ),
    Fault(
        "noise × 0.9",
        _with_stream(lambda stream: _Scaled(stream, 0.9)),
        ("noise per tensor", "noise tails"),
    ),
    Fault(
        "no noise",
        _with_stream(lambda stream: _Scaled(stream, 0.0)),
        ("noise per tensor", "noise in training"),
    ),
    Fault(
        "noise repeated",
        _with_stream(_Repeated),
        ("noise independence", "noise repeated", "lag-1 correlation"),
    ),
    Fault("noise from float32", _with_stream(_Float32), ("noise tails",)),
    Fault(
        "clipping off",
        _with_session(times=_LOOSE),
        ("sensitivity", "hostile example", "mean shift", "likelihood ratio"),
    ),
    Fault("clipping overshoots", _with_session(times=_OVERSHOOT), ("sensitivity", "hostile example")),
    Fault("poisoned example kept", _with_session(_KeepsPoison), ("non-finite example",)),
    Fault("noise per micro-batch", _with_session(_AddsNoise), ("micro-batches", "sensitivity")),
    Fault("head not clipped", _with_session(_HeadSlipsIn), ("exactness", "sensitivity", "hostile example")),
    Fault(
        "sample rate doubled",
        _with_plan(lambda plan: _PlanAround(plan, _poisson(plan, 2.0))),
        ("sampler",),
    ),
    Fault(
        "batches shuffled",
        _with_plan(lambda plan: _PlanAround(plan, _shuffling(plan))),
        ("sampler", "empty batch"),
    ),
    Fault(
        "empty batches skipped", _with_plan(lambda plan: _SkipsEmpty(plan, _poisson(plan))), ("empty batch",)
    ),
    Fault(
        "divided by the realised batch",
        _with_plan(lambda plan: _DividesByRealised(plan, _poisson(plan))),
        ("normaliser",),
    ),
)
