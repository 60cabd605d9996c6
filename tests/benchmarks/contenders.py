"""Who takes the step: dpft's engines, training without privacy, and other libraries as they are used.

A contender is a function of (model, parameters, logical batch, precision) that returns a function: take one
step.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.engines import ordinary
from dpft.engines.base import MicroBatch, Session, autocast
from dpft.privacy.noise import KeyStream
from dpft.privacy.plan import Plan, PrivatePlan, make_plan
from dpft.privacy.release import add_noise
from dpft.privacy.step import accumulators, step
from dpft.spec import OptimisationSpec, PrivacySpec
from dpft.tables import ENGINES
from dpft.training.loop import make_optimizer

__all__ = ["BASELINE", "Contender", "contender", "contenders", "noise_alone", "peers"]

Step = Callable[[], None]
Contender = Callable[[Any, Mapping[str, nn.Parameter], list[MicroBatch], str, ExitStack], Step]

BASELINE = "non-private"
EXAMPLES = 67_349  # of SST-2: the Poisson sampler draws a coin for each, every step
CLIP, SIGMA, RATE = 1.0, 0.6, 1e-6
OPTIMISATION = OptimisationSpec(learning_rate=RATE, epochs=1000)


def _plan(expected: int, *, private: bool) -> Plan:
    return make_plan(
        EXAMPLES,
        OPTIMISATION.model_copy(update={"batch_size": expected}),
        PrivacySpec(enabled=private, target_epsilon=None, noise_multiplier=SIGMA, max_grad_norm=CLIP),
    )


def _stepper(
    plan: Plan, session: Session, parameters: Mapping[str, nn.Parameter], pieces: list[MicroBatch]
) -> Step:
    """What ``training.loop`` does per step; the draw is made, its indices are not looked at."""
    optimizer, scheduler = make_optimizer(parameters, OPTIMISATION, plan.schedule.steps)
    sums = accumulators(parameters)

    def take() -> None:
        step(plan, parameters, lambda _: pieces, session.accumulate, sums)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()

    return take


def _ours(engine: str) -> Contender:
    def start(
        model: Any,
        parameters: Mapping[str, nn.Parameter],
        pieces: list[MicroBatch],
        precision: str,
        stack: ExitStack,
    ) -> Step:
        plan = _plan(sum(piece.examples for piece in pieces), private=True)
        assert isinstance(plan, PrivatePlan)
        opened = ENGINES.get(engine).session(model, parameters, plan.clipper, precision)
        return _stepper(plan, stack.enter_context(opened), parameters, pieces)

    return start


def _ordinary(
    model: Any,
    parameters: Mapping[str, nn.Parameter],
    pieces: list[MicroBatch],
    precision: str,
    stack: ExitStack,
) -> Step:
    plan = _plan(sum(piece.examples for piece in pieces), private=False)
    session = stack.enter_context(ordinary.session(model, parameters, precision))
    return _stepper(plan, session, parameters, pieces)


def _adamw(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters.values(), lr=RATE, weight_decay=0.0, fused=True)


def _losses(model: Any, piece: MicroBatch, precision: str) -> Tensor:
    """Per-example losses, with positions given per example: neither peer is right without."""
    length = piece.inputs["input_ids"].shape[1]
    positions = torch.arange(length).repeat(len(piece), 1)
    with autocast(piece.labels.device, precision):
        logits = model(**piece.inputs, position_ids=positions).logits
    return F.cross_entropy(logits.float(), piece.labels, reduction="none")


def _opacus(
    model: Any,
    parameters: Mapping[str, nn.Parameter],
    pieces: list[MicroBatch],
    precision: str,
    stack: ExitStack,
) -> Step:
    """Opacus, ghost clipping, with the noise of its default (torch.normal, float32)."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        model.train(), max_grad_norm=CLIP, use_ghost_clipping=True, loss_reduction="sum", strict=False
    )
    optimizer = DPOptimizerFastGradientClipping(
        _adamw(parameters),
        noise_multiplier=SIGMA,
        max_grad_norm=CLIP,
        expected_batch_size=sum(piece.examples for piece in pieces),
        loss_reduction="sum",
    )

    def take() -> None:
        for number, piece in enumerate(pieces):
            optimizer.signal_skip_step(do_skip=number + 1 < len(pieces))
            DPTensorFastGradientClipping(
                wrapped, optimizer, _losses(wrapped, piece, precision), "sum"
            ).backward()
            wrapped.enable_hooks()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return take


class _Plain(nn.Module):
    """A model of no kind that private-transformers knows.

    It would replace the forward pass of those it does, to give positions per example, by one that needs an
    older transformers; here they are given.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, **inputs: Tensor) -> Any:
        return self.inner(**inputs)


def _private_transformers(
    model: Any,
    parameters: Mapping[str, nn.Parameter],
    pieces: list[MicroBatch],
    precision: str,
    stack: ExitStack,
) -> Step:
    """private-transformers, ghost clipping, with its own noise (torch.normal, float32)."""
    from private_transformers import PrivacyEngine

    wrapped = _Plain(model).train()
    engine = PrivacyEngine(
        wrapped,
        batch_size=sum(piece.examples for piece in pieces),
        sample_size=EXAMPLES,
        epochs=3,
        max_grad_norm=CLIP,
        noise_multiplier=SIGMA,
        clipping_mode="ghost",
        skip_checks=True,
        named_params=list(parameters.items()),
    )
    optimizer: Any = _adamw(parameters)
    engine.attach(optimizer)

    def take() -> None:
        for piece in pieces[:-1]:
            optimizer.virtual_step(loss=_losses(wrapped, piece, precision))
        optimizer.step(loss=_losses(wrapped, pieces[-1], precision))
        optimizer.zero_grad()

    return take


PEERS = {
    "opacus ghost": ("opacus", _opacus),
    "private-transformers ghost": ("private_transformers", _private_transformers),
}


def noise_alone(parameters: Mapping[str, nn.Parameter]) -> float:
    """Seconds of CPU time that it takes to draw and add one step's noise."""
    stream, sums, taken = KeyStream(), accumulators(parameters), []
    for _ in range(5):
        began = time.process_time()
        add_noise(sums, stream.normals, SIGMA * CLIP, 1.0)
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def contenders() -> list[str]:
    """Names of those that can run here, the baseline first."""
    return [BASELINE, *ENGINES.names(), *peers()]


def peers() -> list[str]:
    """Names of the other libraries that are installed."""
    return [name for name, (module, _) in PEERS.items() if importlib.util.find_spec(module)]


def contender(name: str) -> Contender:
    """The contender called ``name``."""
    if name == BASELINE:
        return _ordinary
    return PEERS[name][1] if name in PEERS else _ours(name)
