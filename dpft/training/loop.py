"""The training loop: draw, clip, noise, step. It writes no files and draws no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dpft.data.prepare import PreparedSplit
from dpft.engines.base import MicroBatch, PieceReport, Session
from dpft.errors import PrivacyError
from dpft.privacy.pieces import Cut, Piece, as_they_come, by_own_length
from dpft.privacy.plan import Plan
from dpft.privacy.step import accumulators, step
from dpft.spec import HardwareSpec, OptimisationSpec
from dpft.training.batches import collate
from dpft.training.features import Features
from dpft.training.learner import Learner
from dpft.training.signals import Deferred

Indices = npt.NDArray[np.int64]

__all__ = ["Fit", "StepReport", "begin", "epoch_ended", "fit", "make_optimizer"]


@dataclass(frozen=True)
class StepReport:
    """One step, as told to the caller.

    Attributes:
        step: steps taken, this one included.
        epoch_ended: whether this step completed a pass over (in expectation) all examples.
        seconds: since the first step began.
        private_details: exact numbers about private examples, for ``local-only/`` alone.
    """

    step: int
    epoch_ended: bool
    seconds: float
    private_details: Mapping[str, float]


@dataclass(frozen=True)
class Fit:
    """What the loop works on.

    Attributes:
        plan: draws batches and releases gradients.
        session: computes (clipped) gradient sums.
        parameters: trainable parameters by name.
        split: training examples.
        pad_token_id: of the tokenizer.
        extra_tokens: virtual tokens that lengthen every example inside the model.
        features: stand for the examples, where only the head trains.
        share: the part of a step's micro-batches that this process computes; all of them, if it is alone.
        max_length: what texts of any data are truncated to, in tokens, virtual ones not counted.
    """

    plan: Plan
    session: Session
    parameters: Mapping[str, nn.Parameter]
    split: PreparedSplit
    pad_token_id: int
    extra_tokens: int = 0
    features: Features | None = None
    share: Callable[[Iterator[Piece]], Iterator[Piece]] = iter
    max_length: int = 0


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], optimisation: OptimisationSpec, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with linear warm-up and linear decay to zero; all of it post-processing of released gradients."""
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=optimisation.learning_rate,
        weight_decay=optimisation.weight_decay,
        fused=True,
    )
    warmup = max(1, math.ceil(optimisation.warmup_fraction * steps))

    def factor(done: int) -> float:
        if done < warmup:
            return (done + 1) / warmup
        return max(0.0, (steps - done) / max(1, steps - warmup))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def begin(parameters: Mapping[str, nn.Parameter], optimisation: OptimisationSpec, steps: int) -> Learner:
    """Optimizer and schedule of a run of ``steps`` steps, none of them taken."""
    return Learner(parameters, *make_optimizer(parameters, optimisation, steps))


def epoch_ended(plan: Plan, step: int) -> bool:
    """Whether ``step`` completes a pass over (in expectation) all examples; the last step always does."""
    per_epoch = plan.schedule.examples / plan.schedule.expected_batch_size
    return step == plan.schedule.steps or math.floor(step / per_epoch) > math.floor((step - 1) / per_epoch)


def fit(
    work: Fit,
    optimisation: OptimisationSpec,
    hardware: HardwareSpec,
    report: Callable[[StepReport], None],
    learner: Learner | None = None,
    keep: Callable[[StepReport], None] = lambda report: None,
) -> None:
    """Take every planned step that is not taken yet.

    ``plan.steps_taken`` counts releases, so it is right wherever an interruption falls: a step is counted as
    soon as its noisy gradient exists, even if the optimizer never used it. Ctrl-C and SIGTERM wait for the
    next micro-batch or the end of the step, so that the weights are always those after a whole step.

    Args:
        work: what to train, on what.
        optimisation: of the optimizer.
        hardware: the token budget of micro-batches.
        report: told after every step.
        learner: optimizer and schedule, where steps were taken before; None to begin.
        keep: told before that, while no signal is let through: what it does belongs to the step.

    Raises:
        PrivacyError: a step that could not be released; or plan and learner that disagree on how many were
            taken.
    """
    if work.session.clipper is not work.plan.clipper:
        raise PrivacyError(
            "the engine does not clip as the plan accounts for",
            hint="open the session with the plan's own clipper",
        )
    steps = work.plan.schedule.steps
    learner = learner if learner is not None else begin(work.parameters, optimisation, steps)
    if learner.applied != work.plan.steps_taken:
        raise PrivacyError(
            f"the weights have {learner.applied} steps in them, the accountant has {work.plan.steps_taken}",
            hint="nothing could be claimed of them; continue plan and optimizer from the same checkpoint",
        )
    signals = Deferred()
    features = work.features
    cut = _cut(work, hardware)
    sums = accumulators(work.parameters)
    began = time.monotonic()

    def pieces(indices: Indices) -> Iterator[MicroBatch]:
        for piece in work.share(cut(indices)):
            signals.check()
            if features is not None:
                yield features.batch(piece.rows)
            else:
                yield collate(work.split, piece.rows, work.pad_token_id, piece.width, piece.fill)

    for index in range(learner.applied, steps):
        reports: list[PieceReport] = []

        def accumulate(
            piece: MicroBatch, sums: Mapping[str, Tensor], reports: list[PieceReport] = reports
        ) -> None:
            reports.append(work.session.accumulate(piece, sums).of_first(piece.examples))

        with signals:
            draw = step(work.plan, work.parameters, pieces, accumulate, sums)
            learner.step()
            done = StepReport(
                step=index + 1,
                epoch_ended=epoch_ended(work.plan, index + 1),
                seconds=time.monotonic() - began,
                private_details=_details(len(draw.indices), reports),
            )
            keep(done)
        report(done)


def _cut(work: Fit, hardware: HardwareSpec) -> Cut:
    """How a logical batch is cut: by each example's own length alone, where rounding would tell of others."""
    budget = hardware.micro_batch_tokens
    if work.features is not None:
        return as_they_come(work.features.lengths, budget)
    if hardware.precision == "bf16" and work.plan.clipper is not None:
        return by_own_length(work.split.lengths, work.max_length, budget, work.extra_tokens)
    return as_they_come(work.split.lengths + work.extra_tokens, budget)


def _details(batch_size: int, reports: list[PieceReport]) -> dict[str, Any]:
    """Exact numbers of one step: for this machine only."""
    details: dict[str, Any] = {"batch_size": batch_size, "dropped": sum(r.dropped for r in reports)}
    if reports:
        details["loss"] = float(torch.cat([r.losses for r in reports]).mean())
    norms = [r.norms for r in reports if r.norms is not None]
    if norms:
        details["median_norm"] = float(torch.cat(norms).median())
    return details
