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
from dpft.engines.base import Engine, MicroBatch, PieceReport, Session, example_losses
from dpft.privacy.clipping import Clipper
from dpft.privacy.noise import KEY_BYTES, KeyStream, Purpose
from dpft.privacy.plan import Draw, PrivatePlan
from dpft.privacy.sampling import Indices, PoissonSampler, ShuffleSampler
from dpft.spec import OptimisationSpec, PrivacySpec

__all__ = ["FAULTS", "Fault"]


_LOOSE = 1e12


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

    def __init__(self, session: Session, clipper: Clipper) -> None:
        self._session = session
        self.clipper: Clipper | None = clipper
        self.notes: tuple[str, ...] = ()

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        return self._session.accumulate(batch, sums)


class _HeadSlipsIn(_SessionAround):
    """The head's raw gradient is added beside the clipped ones, as ``loss.backward()`` would."""

    def __init__(
        self,
        session: Session,
        clipper: Clipper,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        precision: str,
    ) -> None:
        super().__init__(session, clipper)
        self._model = model
        self._head = {name: p for name, p in parameters.items() if _is_head(name)}
        self._precision = precision

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        report = self._session.accumulate(batch, sums)
        tracked = {name: p.requires_grad for name, p in self._head.items()}
        for parameter in self._head.values():
            parameter.requires_grad_(True)
        losses = example_losses(self._model, batch, self._precision)
        raw = torch.autograd.grad(losses.sum(), list(self._head.values()))
        for name, gradient in zip(self._head, raw, strict=True):
            sums[name].add_(gradient)
            self._head[name].requires_grad_(tracked[name])
        return report


class _EngineAround:
    """The true engine, its sessions opened and wrapped by somebody else."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.packages = engine.packages
        self._engine = engine


class _ClipsNothing(_EngineAround):
    @contextmanager
    def session(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], clipper: Clipper, precision: str
    ) -> Iterator[Session]:
        with self._engine.session(model, parameters, _loosened(clipper), precision) as session:
            yield _SessionAround(session, clipper)


class _ForgetsTheHead(_EngineAround):
    @contextmanager
    def session(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], clipper: Clipper, precision: str
    ) -> Iterator[Session]:
        with self._engine.session(model, parameters, clipper, precision) as session:
            yield _HeadSlipsIn(session, clipper, model, parameters, precision)


def _loosened(clipper: Clipper) -> Clipper:
    """The same clipper with a bound that nothing reaches."""
    return dataclasses.replace(clipper, max_grad_norm=_LOOSE * clipper.sensitivity)  # type: ignore[type-var]


def _is_head(name: str) -> bool:
    return any(part in ("classifier", "score", "out_proj") for part in name.split("."))


def _with_engine(around: Callable[[Engine], Any]) -> Callable[[Parts], Parts]:
    return lambda parts: dataclasses.replace(parts, engine=around(parts.engine))


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
        _with_engine(_ClipsNothing),
        ("sensitivity", "hostile example", "mean shift", "likelihood ratio"),
    ),
    Fault("head not clipped", _with_engine(_ForgetsTheHead), ("exactness", "sensitivity", "hostile example")),
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
