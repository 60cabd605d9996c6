"""Layer 2: one short training run with canaries, watched from inside.

The adversary sees every released gradient, knows which entry belongs to which canary, and must tell which
canaries were in. All statistics and thresholds are settled before the run (:mod:`dpft.audit.simulate`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dpft.accounting.pld import PLD
from dpft.audit.bench import Bench, norm
from dpft.audit.one_run import epsilon_lower_bound
from dpft.audit.pvalues import correlations_p_value, lag_one_p_value, variance_p_value
from dpft.audit.result import Check
from dpft.audit.simulate import (
    LEVEL,
    OneRunDesign,
    Reference,
    f_dp_lower_bound,
    in_minus_out,
    log_likelihood_ratio,
    right_guesses,
)
from dpft.audit.subject import AUDIT_VECTOR
from dpft.spec import OptimisationSpec
from dpft.training.loop import begin

__all__ = ["Observations", "canary_norm", "judge", "observe"]

OUT_NOISE_ALPHA = 1e-4 / 3
LAG_ALPHA = 1e-4 / 4
REPEAT_ALPHA = 1e-4 / 4

_BEYOND_DOUBT = 5.0  # standard errors of the simulated δ


@dataclass(frozen=True, eq=False)
class Observations:
    """What the adversary saw.

    Attributes:
        values: (steps, canaries), released entries of the audit vector in units of the claimed noise.
        coins: (canaries), who was in.
        epsilon: of the event that the plan recorded.
        steps: releases that the audit counted.
        steps_recorded: releases that the plan counted.
    """

    values: npt.NDArray[np.float64]
    coins: npt.NDArray[np.bool_]
    epsilon: float
    steps: int
    steps_recorded: int


def canary_norm(bench: Bench) -> float:
    """What a canary delivers, in units of the sensitivity, by production clipping."""
    plan = bench.plan()
    with bench.session(plan) as session:
        row = bench.subject.rows.canaries_in[:1]
        return norm(bench.sums(session, bench.pieces(row))) / bench.claim.sensitivity


def observe(
    bench: Bench, *, learning_rate: float, progressed: Callable[[int], None] = lambda step: None
) -> Observations:
    """Train for the claimed steps with the production step and optimizer, and watch the audit vector.

    Args:
        bench: parts, subject, claim.
        learning_rate: of the production optimizer.
        progressed: told after each step.
    """
    claim, plan = bench.claim, bench.plan()
    learner = begin(bench.subject.parameters, OptimisationSpec(learning_rate=learning_rate), claim.steps)
    values = np.zeros((claim.steps, bench.subject.rows.canaries))
    bench.clear()
    with bench.session(plan) as session:
        for index in range(claim.steps):
            bench.take_step(plan, session, pieces=bench.pieces)
            gradient = bench.subject.parameters[AUDIT_VECTOR].grad
            if gradient is not None:
                values[index] = gradient[1:, 0].double().numpy() / claim.noise_on_release
            learner.step()
            progressed(index + 1)
    coins = bench.subject.rows.coins[: bench.subject.rows.canaries]
    epsilon = PLD.epsilon([plan.event], claim.delta)
    return Observations(values, coins, epsilon, claim.steps, plan.steps_taken)


def judge(bench: Bench, seen: Observations, reference: Reference, canary: float) -> list[Check]:
    """Every pre-registered question, in order."""
    claim = bench.claim
    shift = min(1.0, canary) / claim.noise_multiplier
    ratios = log_likelihood_ratio(seen.values, claim.sample_rate, shift).sum(0)
    return [
        _out_noise(seen),
        _lag(seen),
        _repeats(seen),
        _shift(seen, reference),
        _ratio(seen, ratios, reference),
        _f_dp_bound(bench, seen, ratios, reference),
        _epsilon_delta_bound(bench, seen, ratios, reference),
        _spent(bench, seen, reference),
    ]


def _out_noise(seen: Observations) -> Check:
    """Entries of the canaries that are out hold noise alone."""
    noise = seen.values[:, ~seen.coins]
    p_value = variance_p_value(noise)
    ratio = float(np.sqrt(np.square(noise).mean()))
    return Check(
        "noise in training",
        "white-box",
        "fail" if not p_value >= OUT_NOISE_ALPHA else "pass",
        f"noise is {ratio:.4f}·σC over {noise.size:,} entries of canaries that are out: p = {p_value:.2g}",
        p_value,
        OUT_NOISE_ALPHA,
        OUT_NOISE_ALPHA,
        {"noise_ratio": ratio},
    )


def _lag(seen: Observations) -> Check:
    """The noise of one step tells nothing of the next one's."""
    p_value = lag_one_p_value(seen.values[:, ~seen.coins])
    return Check(
        "lag-1 correlation",
        "white-box",
        "fail" if not p_value >= LAG_ALPHA else "pass",
        f"between the noise of consecutive steps: p = {p_value:.2g}",
        p_value,
        LAG_ALPHA,
        LAG_ALPHA,
    )


def _repeats(seen: Observations) -> Check:
    """Nor of any other step's."""
    p_value = correlations_p_value(seen.values[:, ~seen.coins])
    return Check(
        "noise repeated",
        "white-box",
        "fail" if not p_value >= REPEAT_ALPHA else "pass",
        f"strongest correlation between the noise of any two steps: p = {p_value:.2g}",
        p_value,
        REPEAT_ALPHA,
        REPEAT_ALPHA,
    )


def _shift(seen: Observations, reference: Reference) -> Check:
    """Mean of the canaries that are in, less that of those that are out."""
    measured = float(in_minus_out(seen.values.mean(0), seen.coins))
    return Check(
        "mean shift",
        "white-box",
        "fail" if not measured <= reference.shift_threshold else "pass",
        f"in less out: {measured:.4f} σC; the claim's 99.9% quantile (with the next): "
        f"{reference.shift_threshold:.4f}",
        measured,
        reference.shift_threshold,
        reference.false_alarm_rate / 2,
    )


def _ratio(seen: Observations, ratios: npt.NDArray[np.float64], reference: Reference) -> Check:
    """The same of the log-likelihood ratios of DP-SGD's subsampled Gaussian."""
    measured = float(in_minus_out(ratios, seen.coins))
    return Check(
        "likelihood ratio",
        "white-box",
        "fail" if not measured <= reference.ratio_threshold else "pass",
        f"in less out: {measured:.4f} nats; the claim's 99.9% quantile (with the one above): "
        f"{reference.ratio_threshold:.4f}",
        measured,
        reference.ratio_threshold,
        reference.false_alarm_rate / 2,
    )


def _f_dp_bound(
    bench: Bench, seen: Observations, ratios: npt.NDArray[np.float64], reference: Reference
) -> Check:
    """ε that the number of rightly guessed coins implies, along the family of the claim with other σ."""
    design = reference.f_dp
    right = int(right_guesses(ratios, seen.coins, design.guesses))
    bound = f_dp_lower_bound(bench.claim, len(seen.coins), design.guesses, right)
    return _bound("one-run f-DP bound", bench, design, right, bound)


def _epsilon_delta_bound(
    bench: Bench, seen: Observations, ratios: npt.NDArray[np.float64], reference: Reference
) -> Check:
    """The same for plain (ε, δ)-DP."""
    design = reference.epsilon_delta
    right = int(right_guesses(ratios, seen.coins, design.guesses))
    bound = epsilon_lower_bound(len(seen.coins), design.guesses, right, bench.claim.delta, level=LEVEL)
    return _bound("one-run (ε, δ) bound", bench, design, right, bound)


def _bound(name: str, bench: Bench, design: OneRunDesign, right: int, bound: float) -> Check:
    failed = right >= design.critical
    return Check(
        name,
        "white-box",
        "fail" if failed else "pass",
        f"{right} of {design.guesses} guesses right: ε ≥ {bound:.3f} with 95% confidence; "
        f"claimed {bench.claim.epsilon:.3f}",
        bound,
        bench.claim.epsilon,
        design.false_alarm_rate,
        {"guesses": design.guesses, "right": right, "right_guesses_that_reject": design.critical},
    )


def _spent(bench: Bench, seen: Observations, reference: Reference) -> Check:
    """ε of what really ran is at most what was claimed, and the claim stands up to simulation."""
    claim = bench.claim
    delta, error = reference.least_delta
    least = delta - _BEYOND_DOUBT * error
    wrong = ""
    if seen.steps != seen.steps_recorded:
        wrong = f"{seen.steps} steps were taken, {seen.steps_recorded} were recorded"
    elif not seen.epsilon <= claim.epsilon:
        wrong = f"the executed steps cost ε = {seen.epsilon:.4f}, more than the claimed {claim.epsilon:.4f}"
    elif not least <= claim.delta:
        wrong = f"the claimed ε needs δ ≥ {least:.3g} by simulation; {claim.delta:.3g} is claimed"
    return Check(
        "accounting",
        "white-box",
        "fail" if wrong else "pass",
        wrong
        or f"the {seen.steps} executed steps cost ε = {seen.epsilon:.4f} (claimed {claim.epsilon:.4f}); "
        f"simulated δ there: {delta:.3g} ± {error:.1g} (claimed {claim.delta:.3g})",
        seen.epsilon,
        claim.epsilon,
        numbers={"simulated_delta": delta, "simulated_delta_error": error},
    )
