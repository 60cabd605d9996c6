"""Privacy loss distributions: the accountant whose ε is claimed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from dpft.accounting.accountant import check_delta, check_epsilon, compose
from dpft.accounting.event import MechanismEvent
from dpft.errors import PrivacyError, UsageError

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution as Distribution

__all__ = ["PLD", "PldAccountant"]

# Grid cells, for all events together, beyond which the grid is coarsened: to build the steps' distributions
# (slow), and to convolve them (large). They bound an evaluation to seconds, and to less than 1 GB.
_MAX_CELLS_TO_BUILD: Final = 500_000
_MAX_CELLS_TO_CONVOLVE: Final = 2_000_000

# In nats: a privacy loss that no statement is worth making about.
_MAX_LOSS: Final = 100_000.0

# Fourier transforms leave an error in δ: measured against closed forms at 10 to 10⁶ steps, at most 2⁻⁵³ per
# step. Four times that, and a floor per convolution, are taken off δ before ε is read from the distribution.
_ROUNDING_PER_STEP: Final = 2.0**-51
_ROUNDING_PER_EVENT: Final = 1e-14
_MIN_DELTA_TO_ROUNDING: Final = 10.0


@dataclass(frozen=True)
class PldAccountant:
    """Convolves the privacy loss distributions of all steps numerically; tight, and never too low.

    Composition of privacy loss distributions by Fourier transform is from Koskela et al. 2020 (arXiv
    1906.03049); each step's distribution is discretised by connecting the dots (Doroshenko et al. 2022, arXiv
    2207.04380, §4), which dominates the true one, so that the hockey-stick divergence
    δ(ε) = E[max(0, 1 - exp(ε - loss))] is an upper bound at every ε. Full-batch steps are not convolved: T
    Gaussians are exactly one of 1/√T the noise multiplier. Where losses are so wide that the grid would have
    too many cells it is coarsened, which again can only raise ε.

    Args:
        interval: width of a grid cell, in nats of privacy loss, in (0, 1]; smaller is tighter and slower.

    Raises:
        UsageError: ``interval`` out of range.
    """

    interval: float = 1e-4
    name: str = field(default="pld", init=False)

    def __post_init__(self) -> None:
        if not 0 < self.interval <= 1:
            raise UsageError(
                f"interval is {self.interval!r}, not in (0, 1]", hint="1e-4 is precise, 1e-3 is quick"
            )

    def epsilon(self, events: Sequence[MechanismEvent], delta: float) -> float:
        """Return an upper bound of ε, for either adjacency; see :class:`Accountant`.

        Raises:
            UsageError: δ out of range.
            PrivacyError: mixed adjacencies; δ too small for double precision; noise too weak for any ε worth
                stating (losses beyond 100,000 nats).
        """
        check_delta(delta)
        composed = _collapse_full_batches(compose(events))
        return _epsilon(composed, delta, self.interval, self.name) if composed else 0.0


PLD: Final = PldAccountant()


# A run asks for the same ε several times: to calibrate, to plan, and to state what was spent.
@lru_cache(maxsize=256)
def _epsilon(composed: tuple[MechanismEvent, ...], delta: float, interval: float, name: str) -> float:
    # Imported late, as is dp_accounting with its scipy: ``dpft --help`` must not pay for them.
    import numpy

    safe_delta = _take_off_rounding(delta, composed)
    distribution = _compose_in_library(composed, _affordable_interval(composed, interval))
    with numpy.errstate(over="ignore"):  # an overflow is an infinite ε, which is refused next
        epsilon = distribution.get_epsilon_for_delta(safe_delta)
    return check_epsilon(epsilon, accountant=name)


def _compose_in_library(events: Sequence[MechanismEvent], interval: float) -> Distribution:
    # The library's accountant in its own order, to the last bit; only that it would build each step anew.
    from dp_accounting.pld.privacy_loss_distribution import identity

    composed = identity(value_discretization_interval=interval)
    for event in events:
        step = _one_step(event.adjacency, event.sample_rate, event.noise_multiplier, interval)
        composed = composed.compose(step.self_compose(event.steps))
    return composed


# To build a step's distribution takes longer than to compose it, and a run asks again after every few steps.
@lru_cache(maxsize=4)
def _one_step(adjacency: str, sample_rate: float, noise_multiplier: float, interval: float) -> Distribution:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    relations = {
        "add-or-remove-one": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace-one": NeighboringRelation.REPLACE_ONE,
    }
    return from_gaussian_mechanism(
        noise_multiplier,
        value_discretization_interval=interval,
        sampling_prob=sample_rate,
        neighboring_relation=relations[adjacency],
    )


def _collapse_full_batches(events: Sequence[MechanismEvent]) -> tuple[MechanismEvent, ...]:
    full = [event for event in events if event.sample_rate >= 1]
    if not full:
        return tuple(events)
    precision = math.fsum(event.steps / event.noise_multiplier**2 for event in full)
    once = replace(full[0], noise_multiplier=1 / math.sqrt(precision), steps=1)
    return (*(event for event in events if event.sample_rate < 1), once)


def _take_off_rounding(delta: float, events: Sequence[MechanismEvent]) -> float:
    steps = sum(event.steps for event in events)
    rounding = _ROUNDING_PER_STEP * steps + _ROUNDING_PER_EVENT * len(events)
    if not delta >= _MIN_DELTA_TO_ROUNDING * rounding:
        raise PrivacyError(
            f"δ = {delta!r} is too small to account for {steps} steps in double precision",
            hint=f"use a δ of at least {_MIN_DELTA_TO_ROUNDING * rounding:.1e}",
        )
    return delta - rounding


def _affordable_interval(events: Sequence[MechanismEvent], interval: float) -> float:
    one_step, all_steps = 0.0, 0.0
    for event in events:
        # Only sizes: the noise reaches ten standard deviations, and by convexity of the divergence the mean
        # loss of a subsampled step is at most q times that of a full one.
        signal = (1 if event.adjacency == "add-or-remove-one" else 2) / event.noise_multiplier
        mean = event.steps * event.sample_rate * signal**2 / 2
        one_step += signal**2 / 2 + 10 * signal
        all_steps += mean + 8 * math.sqrt(2 * mean)
    if not max(one_step, all_steps) <= _MAX_LOSS:
        weakest = min(event.noise_multiplier for event in events)
        raise PrivacyError(
            f"the noise is too weak for a guarantee: losses may reach {max(one_step, all_steps):.3g} nats"
            f" (noise_multiplier {weakest!r})",
            hint="use a larger noise multiplier or fewer steps",
        )
    return max(interval, one_step / _MAX_CELLS_TO_BUILD, all_steps / _MAX_CELLS_TO_CONVOLVE)
