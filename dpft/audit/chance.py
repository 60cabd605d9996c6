"""Layer 1, second half: is the noise the noise, and the sample the sample, that the accountant assumes?"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from dpft.accounting.event import MechanismEvent
from dpft.audit.bench import Bench, Extreme
from dpft.audit.pvalues import correlations_p_value, sampler_p_values, variance_p_value
from dpft.audit.result import Check

__all__ = ["check_noise", "check_noise_independence", "check_sampler", "check_tails"]

Floats = npt.NDArray[np.float64]

NOISE_ALPHA = 1e-4 / 3  # the other thirds: noise of empty batches, noise of the canaries that are out
INDEPENDENCE_ALPHA = 1e-4 / 2  # the other half: lag-1 correlation over the training steps
SAMPLER_ALPHA = 1e-4

_ENOUGH = 4096  # values per tensor: noise × 0.9 is caught on each tensor with probability above 0.999
_SEGMENT = 512
_RELEASES, _TENSORS = 4, 16
_VISITS = 2_000_000
_FURTHEST = math.sqrt(106 * math.log(2.0))  # |z| of the smallest 53-bit uniform: 8.57


def check_noise(bench: Bench) -> Check:
    """χ² of the released noise, tensor by tensor, against (σS/B)²; small ones in a longer accumulator too."""
    claim, plan = bench.claim, bench.plan()
    parameters = bench.subject.parameters
    values: dict[str, list[Floats]] = {name: [] for name in parameters}
    few = {name: torch.zeros(_ENOUGH - p.numel()) for name, p in parameters.items() if p.numel() < _ENOUGH}
    for sums in ({name: torch.zeros_like(p) for name, p in parameters.items()}, few):
        for name, noise in plan.release(plan.draw(), sums).items():
            values[name].append(noise.double().flatten().numpy() / claim.noise_on_release)
    p_values = {name: variance_p_value(np.concatenate(found)) for name, found in values.items()}
    worst = min(p_values, key=p_values.__getitem__)
    limit = NOISE_ALPHA / len(p_values)
    pooled = math.sqrt(
        sum(float(np.square(v).sum()) for found in values.values() for v in found)
        / sum(v.size for found in values.values() for v in found)
    )
    failed = not p_values[worst] >= limit
    detail = f"noise is {pooled:.4f}·σC over {len(p_values)} tensors; least p = {p_values[worst]:.2g}"
    return Check(
        "noise per tensor",
        "conformance",
        "fail" if failed else "pass",
        f"{detail} ({worst})" if failed else detail,
        p_values[worst],
        limit,
        NOISE_ALPHA,
        {"noise_ratio": pooled},
    )


def check_noise_independence(bench: Bench) -> Check:
    """No two tensors, and no two releases, share their noise."""
    plan = bench.plan()
    names = list(bench.subject.parameters)[-_TENSORS:]
    segments = []
    for _ in range(_RELEASES):
        probes = {name: torch.zeros(_SEGMENT) for name in names}
        released = plan.release(plan.draw(), probes)
        segments += [noise.double().numpy() for noise in released.values()]
    p_value = correlations_p_value(np.stack(segments))
    return Check(
        "noise independence",
        "conformance",
        "fail" if not p_value >= INDEPENDENCE_ALPHA else "pass",
        f"strongest correlation among {len(segments)} stretches of noise: p = {p_value:.2g}",
        p_value,
        INDEPENDENCE_ALPHA,
        INDEPENDENCE_ALPHA,
    )


def check_tails(bench: Bench) -> Check:
    """The smallest 53-bit uniform gives noise of 8.57 standard deviations, exact in float64."""
    claim, plan = bench.claim, bench.plan(kind=Extreme)
    released = plan.release(plan.draw(), {"probe": torch.zeros(2, dtype=torch.float64)})["probe"]
    reach = float(released.abs().max()) / claim.noise_on_release
    exact = abs(reach / _FURTHEST - 1) <= 1e-12
    return Check(
        "noise tails",
        "conformance",
        "pass" if exact else "fail",
        f"the furthest draw is {reach:.4f} standard deviations out (53-bit uniforms: {_FURTHEST:.4f})",
        reach,
        _FURTHEST,
    )


def check_sampler(bench: Bench) -> Check:
    """Poisson: batch sizes, visits, coming back and company are those of independent coins."""
    claim = bench.claim
    steps = min(1500, max(200, _VISITS // claim.examples))
    plan = bench.plan(steps=steps)
    visits = np.zeros((steps, claim.examples), dtype=np.bool_)
    for index in range(steps):
        draw = plan.draw()
        visits[index, draw.indices] = True
        plan.release(draw, {"probe": torch.zeros(1)})
    p_values = sampler_p_values(visits, claim.sample_rate)
    worst = min(p_values, key=p_values.__getitem__)
    limit = SAMPLER_ALPHA / len(p_values)
    spread = float(visits.sum(1).var()) / (claim.examples * claim.sample_rate * (1 - claim.sample_rate))
    ran = plan.event == MechanismEvent(claim.sample_rate, claim.noise_multiplier, steps)
    detail = (
        f"batch-size variance is {spread:.3f}·nq(1-q), rate {visits.mean():.5f} for {claim.sample_rate:.5f} "
        f"over {steps} draws; least p = {p_values[worst]:.2g} ({worst})"
    )
    return Check(
        "sampler",
        "conformance",
        "pass" if p_values[worst] >= limit and ran else "fail",
        detail if ran else f"the plan records {plan.event}, which is not what was asked for",
        p_values[worst],
        limit,
        SAMPLER_ALPHA,
    )
