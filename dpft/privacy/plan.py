"""The plan: sampler, clipper, noise and mechanism event made together, so that they cannot disagree.

``make_plan`` derives the sample rate, the number of steps and δ once, calibrates the noise, and returns an
object that can do just three things: draw a batch, release that batch's noisy gradient, and say which
mechanism has really run so far. A release needs a draw and uses it up; there is no way to step without
noise, to noise one draw twice, to leave out an empty batch, or to step with a sampler other than the one
that is accounted for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dpft.accounting.calibrate import calibrate_noise_multiplier
from dpft.accounting.event import MechanismEvent
from dpft.errors import PrivacyError
from dpft.privacy.clipping import Clipper
from dpft.privacy.noise import KeyStream, Purpose
from dpft.privacy.release import add_noise, check_finite
from dpft.privacy.sampling import PoissonSampler, ShuffleSampler
from dpft.privacy.schedule import Schedule, derive_schedule, schedule_for
from dpft.spec import OptimisationSpec, PrivacySpec
from dpft.tables import CLIPPERS

__all__ = [
    "Draw",
    "OrdinaryPlan",
    "Plan",
    "PrivatePlan",
    "Schedule",
    "derive_schedule",
    "make_plan",
    "schedule_for",
]


@dataclass(frozen=True, eq=False)
class Draw:
    """The examples of one step; made by a plan, given back to it once."""

    indices: npt.NDArray[np.int64]


class Plan(Protocol):
    """What the training loop sees: the same three verbs with and without privacy."""

    schedule: Schedule

    @property
    def clipper(self) -> Clipper | None:
        """What bounds each example's contribution; None where nothing does."""

    @property
    def steps_taken(self) -> int:
        """Releases so far."""

    def draw(self) -> Draw:
        """The next step's examples."""

    def release(self, draw: Draw, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient of ``draw`` from its (clipped) sums, in their memory."""


class _Turns:
    """Draw and release take turns.

    Args:
        steps_taken: releases by processes before this one, whose run it continues.
    """

    def __init__(self, steps_taken: int = 0) -> None:
        self.steps_taken = steps_taken
        self._pending: Draw | None = None

    def _check_turn(self) -> None:
        if self._pending is not None:
            raise PrivacyError(
                "a batch was drawn while another awaits its release", hint="release each draw once"
            )

    def _open(self, indices: npt.NDArray[np.int64]) -> Draw:
        self._pending = Draw(indices)
        return self._pending

    def _close(self, draw: Draw) -> None:
        if draw is not self._pending:
            raise PrivacyError(
                "a gradient was released for a batch that is not the one drawn", hint="draw first"
            )
        self._pending = None
        self.steps_taken += 1


class PrivatePlan(_Turns):
    """DP-SGD: Poisson sampling, bounded contributions, Gaussian noise once per step, division by B.

    Made by :func:`make_plan` only.
    """

    def __init__(
        self,
        schedule: Schedule,
        clipper: Clipper,
        noise_multiplier: float,
        stream: KeyStream | None = None,
        steps_taken: int = 0,
        *,
        examples: int | None = None,
    ) -> None:
        super().__init__(steps_taken)
        self._given_stream = stream is not None
        stream = stream if stream is not None else KeyStream()
        self.schedule = schedule
        self.clipper = clipper
        self._event = MechanismEvent(schedule.sample_rate, noise_multiplier, schedule.steps)
        self._examples = schedule.examples if examples is None else examples
        self._sampler = PoissonSampler(self._examples, self._event.sample_rate, stream)
        self._stream = stream

    @property
    def planned_event(self) -> MechanismEvent:
        """The mechanism if every planned step is taken."""
        return self._event

    @property
    def event(self) -> MechanismEvent:
        """The mechanism that has run: the steps really taken."""
        return self._event.with_steps(self.steps_taken)

    @property
    def examples(self) -> int:
        """How many examples are sampled from; private where the schedule's number is a declared one."""
        return self._examples

    @property
    def sampler_description(self) -> str:
        """The sampler that runs, in words."""
        return self._sampler.description

    @property
    def noise_description(self) -> str:
        """The noise generator that runs, in words."""
        return self._stream.description

    def doubt(self) -> str | None:
        """Why ε may not be claimed for what this object does; None where it may.

        The plan makes its own parts, so there is nothing to doubt unless somebody reached inside.
        """
        if type(self._sampler) is not PoissonSampler or "draw" in vars(self._sampler):
            return "the sampler that ran is not the Poisson sampler that is accounted for"
        if not (self.schedule.declared or self._examples == self.schedule.examples):
            return "the number of examples that ran is not the one that is accounted for"
        asked = (self._examples, self._event.sample_rate)
        if (self._sampler.examples, self._sampler.sample_rate) != asked:
            return "the sampler ran at another rate or over other examples than are accounted for"
        if (self.schedule.sample_rate, self.schedule.steps) != (self._event.sample_rate, self._event.steps):
            return "the schedule was changed after the noise was calibrated for it"
        if type(self._stream) is not KeyStream or {"normals", "uniforms"} & vars(self._stream).keys():
            return "the noise did not come from the generator that is accounted for"
        if {"draw", "release"} & vars(self).keys():
            return "steps were taken otherwise than is accounted for"
        if self._given_stream:
            return "the randomness was handed in, so nobody knows who else has it"
        return None

    def draw(self) -> Draw:
        """The next Poisson sample; an empty one is a step like any other."""
        self._check_turn()
        self._stream.begin(self.steps_taken + 1, Purpose.SAMPLING)
        return self._open(self._sampler.draw())

    def release(self, draw: Draw, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``(Σ_i clip(g_i) + N(0, (σC)² I)) / B``.

        Args:
            draw: the pending draw.
            sums: clipped sums by parameter, as the engine computed them for ``draw``; contiguous. They are
                used up: their memory becomes the gradients'.

        Returns:
            Noisy mean gradients, in each sum's dtype. Noise is added in float64 and B is the *expected* batch
            size: the realised one is private.

        Raises:
            PrivacyError: ``draw`` is not pending, or a sum is not finite (nothing is released then).
        """
        check_finite(sums)
        self._close(draw)
        self._stream.begin(self.steps_taken, Purpose.NOISE)
        deviation = self._event.noise_multiplier * self.clipper.sensitivity
        add_noise(sums, self._stream.normals, deviation, self.schedule.expected_batch_size)
        return dict(sums)


class OrdinaryPlan(_Turns):
    """Training without privacy: shuffled epochs, division by the realised batch, no noise, no claim."""

    def __init__(self, schedule: Schedule, seed: int, steps_taken: int = 0) -> None:
        super().__init__(steps_taken)
        self.schedule = schedule
        self.clipper: Clipper | None = None
        self._sampler = ShuffleSampler(schedule.examples, schedule.expected_batch_size, seed)
        self._sampler.skip(steps_taken)

    def draw(self) -> Draw:
        """The next batch of the epoch."""
        self._check_turn()
        return self._open(self._sampler.draw())

    def release(self, draw: Draw, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean gradients, in the sums' memory."""
        self._close(draw)
        return {name: value.div_(max(1, len(draw.indices))) for name, value in sums.items()}


def make_plan(
    examples: int,
    optimisation: OptimisationSpec,
    privacy: PrivacySpec,
    *,
    stream: KeyStream | None = None,
    steps_taken: int = 0,
) -> PrivatePlan | OrdinaryPlan:
    """Everything a run's guarantee rests on, from one place.

    Args:
        examples: n, the number of training examples. Each joins each step with probability q, whatever their
            number; with ``privacy.public_n`` nothing else follows from it.
        optimisation: batch size, epochs and the seed of non-private data order.
        privacy: what is promised; either a target ε (σ is calibrated, achieved ε ≤ target) or σ itself.
        stream: keyed randomness; given in tests only.
        steps_taken: of a run that is continued: its event counts them, and the next step is the one after.

    Returns:
        A :class:`PrivatePlan`, or an :class:`OrdinaryPlan` where privacy is off.

    Raises:
        UsageError: a batch larger than the dataset.
        PrivacyError: an empty guarantee, a target that cannot be reached, or more steps taken than planned.
    """
    schedule = schedule_for(examples, optimisation, privacy)
    if not 0 <= steps_taken <= schedule.steps:
        raise PrivacyError(
            f"{steps_taken} steps were taken of {schedule.steps} that are planned",
            hint="a run is continued with the spec and the data that it was begun with",
        )
    if not privacy.enabled:
        return OrdinaryPlan(schedule, optimisation.seed, steps_taken)
    clipper: Clipper = CLIPPERS.get(privacy.clipping)(privacy.max_grad_norm)
    sigma = privacy.noise_multiplier
    if sigma is None:
        assert privacy.target_epsilon is not None
        sigma = calibrate_noise_multiplier(
            sample_rate=schedule.sample_rate,
            steps=schedule.steps,
            target_epsilon=privacy.target_epsilon,
            target_delta=schedule.delta,
        ).noise_multiplier
    return PrivatePlan(schedule, clipper, sigma, stream, steps_taken, examples=examples)
