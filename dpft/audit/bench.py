"""The bench: the production parts, laid out so that checks can work them.

Nothing here computes a gradient, clips, draws or adds noise: :class:`Parts` are the production functions,
or, in the self-test, the same with one fault around them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dpft.audit.claim import Claim
from dpft.audit.subject import AUDIT_VECTOR, Subject
from dpft.engines.base import Engine, MicroBatch, Session
from dpft.errors import PrivacyError
from dpft.privacy.noise import KeyStream
from dpft.privacy.plan import OrdinaryPlan, PrivatePlan, make_plan
from dpft.privacy.step import step
from dpft.spec import OptimisationSpec, PrivacySpec

__all__ = ["Bench", "Entropy", "Extreme", "Parts", "PlanMaker", "Silent", "distance", "norm"]

_ALL = 1 << 30  # tokens

Indices = npt.NDArray[np.int64]
Sums = dict[str, Tensor]


class PlanMaker(Protocol):
    """``privacy.plan.make_plan``, or a faulty one."""

    def __call__(
        self,
        examples: int,
        optimisation: OptimisationSpec,
        privacy: PrivacySpec,
        *,
        stream: KeyStream | None = None,
    ) -> PrivatePlan | OrdinaryPlan:
        """A plan."""


@dataclass(frozen=True)
class Parts:
    """What is audited: the functions that make up a private step."""

    engine: Engine
    make_plan: PlanMaker = make_plan
    step: Callable[..., Any] = step


class Silent(KeyStream):
    """Samples as ever, and a noise of zero: what remains of a step is its clipped, divided sum."""

    def normals(self, count: int) -> Tensor:
        """Zeros."""
        return torch.zeros(count, dtype=torch.float64)


class Extreme(KeyStream):
    """The keystream of only zero bytes: uniforms are 2⁻⁵³, the smallest there are."""

    def bytes(self, count: int) -> bytes:
        """Zeros."""
        return bytes(count)


class Entropy:
    """Where an audit's chance comes from: the operating system, or a number in tests.

    Args:
        seed: None (always, outside tests) for the operating system's.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed
        self._given = 0

    def _next(self) -> bytes:
        self._given += 1
        return hashlib.sha256(f"{self._seed}/{self._given}".encode()).digest()

    def stream(self, kind: type[KeyStream] = KeyStream) -> KeyStream | None:
        """A keyed stream for a plan; None to let the plan key its own, as in training."""
        if self._seed is None:
            return None if kind is KeyStream else kind()
        return kind(self._next())

    def generator(self) -> np.random.Generator:
        """For coins, made-up texts and simulation."""
        return np.random.default_rng(None if self._seed is None else int.from_bytes(self._next()))


@dataclass(frozen=True, eq=False)
class Bench:
    """Production parts, subject and claim.

    Attributes:
        parts: what is audited.
        subject: model and synthetic dataset.
        claim: what it should be.
        privacy: the audited privacy settings, with σ settled.
        entropy: chance.
    """

    parts: Parts
    subject: Subject
    claim: Claim
    privacy: PrivacySpec
    entropy: Entropy = field(default_factory=Entropy)

    def plan(
        self,
        *,
        steps: int | None = None,
        examples: int | None = None,
        batch_size: int | None = None,
        kind: type[KeyStream] = KeyStream,
    ) -> PrivatePlan:
        """A fresh plan, by default the claimed one.

        Args:
            steps: planned; it does not limit how many are taken.
            examples: n.
            batch_size: B.
            kind: of the randomness.
        """
        examples = examples if examples is not None else self.claim.examples
        batch_size = batch_size if batch_size is not None else self.claim.expected_batch_size
        wanted = (steps if steps is not None else self.claim.steps) - 0.5  # the schedule rounds up
        optimisation = OptimisationSpec(
            learning_rate=1.0, batch_size=batch_size, epochs=wanted * batch_size / examples
        )
        privacy = self.privacy.model_copy(update={"target_delta": min(self.claim.delta, 0.5 / examples)})
        plan = self.parts.make_plan(examples, optimisation, privacy, stream=self.entropy.stream(kind))
        assert not isinstance(plan, OrdinaryPlan)
        return plan

    @contextmanager
    def session(self, plan: PrivatePlan) -> Iterator[Session]:
        """The engine at work on the subject, with the plan's clipper."""
        subject = self.subject
        with self.parts.engine.session(
            subject.model, subject.parameters, plan.clipper, subject.precision
        ) as session:
            if session.clipper is not plan.clipper:
                raise PrivacyError(
                    "the engine does not clip as the plan accounts for",
                    hint="open the session with the plan's own clipper",
                )
            yield session

    def zeros(self) -> Sums:
        """Accumulators, as the step makes them."""
        return {name: torch.zeros_like(p, dtype=torch.float32) for name, p in self.subject.parameters.items()}

    def pieces(self, indices: Indices) -> Iterable[MicroBatch]:
        """A logical batch in micro-batches, cut and collated as in training."""
        return self.subject.pieces(indices)

    def together(self, indices: Indices, gain: float | Tensor = 1.0) -> Iterable[MicroBatch]:
        """The same in as few micro-batches as training could: examples have the company they can have."""
        return self.subject.pieces(indices, gain=gain, tokens=_ALL)

    def sums(self, session: Session, pieces: Iterable[MicroBatch]) -> Sums:
        """The clipped sums of some micro-batches."""
        sums = self.zeros()
        for piece in pieces:
            session.accumulate(piece, sums)
        return sums

    def take_step(
        self, plan: PrivatePlan, session: Session, *, pieces: Callable[[Indices], Iterable[MicroBatch]]
    ) -> Any:
        """One production step: draw, accumulate, release, set every ``.grad``; returns the draw."""

        def accumulate(piece: MicroBatch, sums: Mapping[str, Tensor]) -> None:
            session.accumulate(piece, sums)

        return self.parts.step(plan, self.subject.parameters, pieces, accumulate)

    def gradients(self) -> Sums:
        """What the last step left in ``.grad``; parameters without one are absent."""
        return {n: p.grad.detach().clone() for n, p in self.subject.parameters.items() if p.grad is not None}

    def clear(self) -> None:
        """Forget gradients."""
        for parameter in self.subject.parameters.values():
            parameter.grad = None

    @property
    def audit_vector(self) -> dict[str, torch.nn.Parameter]:
        """The audit vector alone, by its name: a step over it costs next to nothing."""
        return {AUDIT_VECTOR: self.subject.parameters[AUDIT_VECTOR]}


def norm(sums: Mapping[str, Tensor]) -> float:
    """L2 norm over all parameters, in float64; infinite if any value is not finite."""
    total = sum(float(torch.linalg.vector_norm(v, dtype=torch.float64)) ** 2 for v in sums.values())
    return total**0.5 if total == total else float("inf")


def distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """L2 norm of the difference, in float64."""
    return norm({name: first[name].double() - second[name].double() for name in first})
