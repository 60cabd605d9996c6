"""The gate before every claim: a plan whose parts are not the ones that were accounted for says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from dpft.privacy.noise import KeyStream
from dpft.privacy.plan import PrivatePlan, make_plan
from dpft.privacy.sampling import PoissonSampler, ShuffleSampler
from dpft.spec import OptimisationSpec, PrivacySpec

from .plans import BATCH, CLIP, EXAMPLES, SIGMA, Silent, key


def made(stream: KeyStream | None = None) -> PrivatePlan:
    plan = make_plan(
        EXAMPLES,
        OptimisationSpec(learning_rate=1.0, batch_size=BATCH),
        PrivacySpec(target_epsilon=None, noise_multiplier=SIGMA, max_grad_norm=CLIP),
        stream=stream,
    )
    assert isinstance(plan, PrivatePlan)
    return plan


def _sampler(plan: PrivatePlan) -> None:
    plan._sampler = ShuffleSampler(EXAMPLES, BATCH, seed=0)  # type: ignore[assignment]


def _subclass(plan: PrivatePlan) -> None:
    class Nearly(PoissonSampler):
        pass

    plan._sampler = Nearly(EXAMPLES, BATCH / EXAMPLES, plan._stream)


def _draws(plan: PrivatePlan) -> None:
    plan._sampler.draw = lambda: np.arange(BATCH)  # type: ignore[method-assign]


def _rate(plan: PrivatePlan) -> None:
    plan._sampler.sample_rate /= 2


def _population(plan: PrivatePlan) -> None:
    plan._sampler.examples += 1


def _examples(plan: PrivatePlan) -> None:
    plan._examples += 1
    plan._sampler.examples += 1


def _schedule(plan: PrivatePlan) -> None:
    plan.schedule = replace(plan.schedule, sample_rate=plan.schedule.sample_rate / 2)


def _steps(plan: PrivatePlan) -> None:
    plan.schedule = replace(plan.schedule, steps=plan.schedule.steps * 2)


def _stream(plan: PrivatePlan) -> None:
    plan._stream = Silent(key(1))


def _normals(plan: PrivatePlan) -> None:
    plan._stream.normals = lambda count: torch.zeros(count)  # type: ignore[method-assign]


def _uniforms(plan: PrivatePlan) -> None:
    plan._stream.uniforms = np.zeros  # type: ignore[assignment]


def _release(plan: PrivatePlan) -> None:
    plan.release = lambda draw, sums: sums  # type: ignore[method-assign,assignment,return-value]


WAYS: list[Callable[[PrivatePlan], None]] = [
    _sampler, _subclass, _draws, _rate, _population, _examples, _schedule, _steps, _stream, _normals,
    _uniforms, _release,
]  # fmt: skip


def test_a_plan_as_it_is_made_is_not_doubted() -> None:
    assert made().doubt() is None


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
def test_a_plan_that_was_reached_into_is(way: Callable[[PrivatePlan], None]) -> None:
    plan = made()
    way(plan)
    assert plan.doubt()


def test_so_is_one_whose_randomness_somebody_else_may_know() -> None:
    assert "handed in" in (made(KeyStream(key(1))).doubt() or "")
