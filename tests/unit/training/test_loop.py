"""The loop steps as the plan says, whatever the micro-batches."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dpft.engines import ordinary
from dpft.engines.bookkeeping import ENGINE, BookkeepingSession
from dpft.privacy.noise import KEY_BYTES, KeyStream
from dpft.privacy.plan import PrivatePlan, make_plan
from dpft.spec import HardwareSpec, OptimisationSpec, PrivacySpec
from dpft.training.loop import Fit, StepReport, fit, make_optimizer
from tests import models

ROWS = 24


class Silent(KeyStream):
    """σ = 0; the samples stay."""

    def normals(self, count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.float64)


def split() -> Any:
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 12, ROWS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return SimpleNamespace(
        input_ids=generator.integers(1, models.VOCABULARY, offsets[-1]).astype(np.int32),
        token_type_ids=None,
        offsets=offsets,
        lengths=lengths.astype(np.int32),
        labels=generator.integers(0, models.LABELS, ROWS),
        rows=ROWS,
    )


def train(
    mode: str,
    token_budget: int,
    *,
    private: bool = True,
    stream: KeyStream | None = None,
    epochs: float = 1.5,
) -> tuple[torch.Tensor, list[StepReport], Any]:
    model, parameters = models.tuned(mode)
    optimisation = OptimisationSpec(learning_rate=1e-2, batch_size=6, epochs=epochs)
    privacy = PrivacySpec(enabled=private, target_epsilon=None, noise_multiplier=1.0, max_grad_norm=0.1)
    plan = make_plan(ROWS, optimisation, privacy, stream=stream or Silent(bytes(KEY_BYTES)))
    reports: list[StepReport] = []
    opened = (
        ENGINE.session(model, parameters, plan.clipper, "fp32")
        if isinstance(plan, PrivatePlan)
        else ordinary.session(model, parameters, "fp32")
    )
    with opened as session:
        work = Fit(plan=plan, session=session, parameters=parameters, split=split(), pad_token_id=0)
        fit(
            work,
            optimisation,
            HardwareSpec(precision="fp32", micro_batch_tokens=token_budget),
            reports.append,
        )
    return models.flat(parameters), reports, plan


@pytest.fixture
def plain_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """SGD instead of AdamW, which turns rounding near zero into steps of full size."""

    def make(parameters: Any, optimisation: OptimisationSpec, steps: int) -> Any:
        optimizer = torch.optim.SGD(parameters.values(), lr=10.0)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1.0)

    monkeypatch.setattr("dpft.training.loop.make_optimizer", make)


def spread(mode: str, *, private: bool = True) -> float:
    """How far single-example micro-batches and the like end from one whole batch, relative to what moved."""
    start = models.flat(models.tuned(mode)[1])
    reference, *_ = train(mode, 10_000, private=private)
    others = [train(mode, budget, private=private)[0] for budget in (1, 40)]
    return max(float((other - reference).norm()) for other in others) / float((reference - start).norm())


@pytest.mark.usefixtures("plain_descent")
@pytest.mark.parametrize("mode", ["full", "lora", "prefix"])
def test_every_micro_batch_split_takes_the_same_steps(mode: str) -> None:
    """σ = 0: the logical batch decides, not how it went through the model."""
    assert spread(mode) < 1e-4


@pytest.mark.usefixtures("plain_descent")
def test_planted_clipping_per_micro_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipping the sum of a micro-batch instead of each example makes the step depend on the split."""
    genuine = BookkeepingSession.accumulate

    def per_piece(self: BookkeepingSession, piece: Any, sums: Any) -> Any:
        own = {name: torch.zeros_like(value) for name, value in sums.items()}
        report = genuine(self, piece, own)
        factor = min(1.0, 0.1 / float(models.flat(own).norm()))
        for name, value in own.items():
            sums[name].add_(value * factor)
        return report

    monkeypatch.setattr(BookkeepingSession, "accumulate", per_piece)
    assert spread("lora") > 0.05


def test_epochs_end_where_expected() -> None:
    _, reports, _ = train("last-layer", 100, epochs=2.5)
    assert [r.step for r in reports if r.epoch_ended] == [4, 8, 10]


def test_details_stay_apart_from_what_is_public() -> None:
    _, reports, plan = train("last-layer", 100)
    assert {"batch_size", "loss", "median_norm", "dropped"} <= reports[0].private_details.keys()
    assert plan.event.steps == 6


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimisation = OptimisationSpec(learning_rate=1.0, warmup_fraction=0.2)
    optimizer, scheduler = make_optimizer({"p": parameter}, optimisation, steps=10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:2] == [0.5, 1.0]
    assert max(rates) == 1.0
    assert all(a >= b for a, b in pairwise(rates[1:]))
    assert optimizer.param_groups[0]["lr"] == 0.0
