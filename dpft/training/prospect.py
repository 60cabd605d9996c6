"""What a run would cost before there is one: ε, what more or less noise would change, how far a target goes.

Nothing here reads data or loads a model; imports no torch, so that ``dpft plan`` is quick.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dpft.accounting.afford import Target, largest_batch, most_steps
from dpft.accounting.calibrate import Guarantee, calibrate_noise_multiplier, guarantee, round_up
from dpft.accounting.event import MechanismEvent
from dpft.accounting.frontier import epsilons, never_rising
from dpft.privacy.schedule import Schedule, schedule_for
from dpft.spec import OptimisationSpec, PrivacySpec

__all__ = [
    "Affordable",
    "Curve",
    "Frontier",
    "Prospect",
    "affordable_batch",
    "affordable_epochs",
    "foresee",
    "frontier",
]

_POINTS = 14  # of a curve, besides the plan's own
_NOISE_SPAN = (0.5, 4.0)  # of the plan's σ
_BATCH_SPAN = (1 / 8, 8.0)
_EPOCH_SPAN = (0.25, 4.0)
_LEAST_NOISE = 0.05  # as calibration has it
_EPOCH_DIGITS = range(4, 13)


@dataclass(frozen=True)
class Prospect:
    """A run that might be.

    Attributes:
        schedule: q, steps and δ.
        epochs: passes over the examples.
        noise_multiplier: σ.
        target_epsilon: that σ was chosen for; None where σ was given.
        guarantee: what all steps together guarantee.
    """

    schedule: Schedule
    epochs: float
    noise_multiplier: float
    target_epsilon: float | None
    guarantee: Guarantee

    @property
    def event(self) -> MechanismEvent:
        """The mechanism, if every step is taken."""
        return MechanismEvent(self.schedule.sample_rate, self.noise_multiplier, self.schedule.steps)


@dataclass(frozen=True)
class Curve:
    """ε against one quantity, the others as planned.

    Attributes:
        values: of the quantity, ascending.
        epsilons: ε at each, rounded up to four decimals.
        steps: of each.
        planned: where in ``values`` the plan is.
    """

    values: tuple[float, ...]
    epsilons: tuple[float, ...]
    steps: tuple[int, ...]
    planned: int


@dataclass(frozen=True)
class Frontier:
    """What ε would be otherwise. With other batch sizes and epochs, σ stays as planned."""

    noise: Curve
    batch_size: Curve
    epochs: Curve


@dataclass(frozen=True)
class Affordable:
    """The most that keeps to a target.

    Attributes:
        epochs: rounded down to as many decimals as it takes to plan exactly ``steps``; 0 if nothing fits.
        batch_size: expected; 0 if nothing fits.
        steps: of both.
        epsilon: of what was spent before and this together; at most the target, unless nothing fits.
        target_epsilon: the target.
        delta: δ of both.
    """

    epochs: float
    batch_size: int
    steps: int
    epsilon: float
    target_epsilon: float
    delta: float


def foresee(examples: int, optimisation: OptimisationSpec, privacy: PrivacySpec) -> Prospect:
    """σ and ε of a run, exactly as ``train`` would have them.

    Args:
        examples: n.
        optimisation: batch size and epochs.
        privacy: a target or a noise multiplier.

    Raises:
        UsageError: a batch larger than the dataset, or a value out of range.
        PrivacyError: an empty guarantee, or a target that cannot be reached.
    """
    schedule = schedule_for(examples, optimisation, privacy)
    noise = privacy.noise_multiplier
    if noise is None:
        assert privacy.target_epsilon is not None
        noise = calibrate_noise_multiplier(
            sample_rate=schedule.sample_rate,
            steps=schedule.steps,
            target_epsilon=privacy.target_epsilon,
            target_delta=schedule.delta,
        ).noise_multiplier
    event = MechanismEvent(schedule.sample_rate, noise, schedule.steps)
    return Prospect(
        schedule=schedule,
        epochs=optimisation.epochs,
        noise_multiplier=noise,
        target_epsilon=privacy.target_epsilon,
        guarantee=guarantee([event], schedule.delta),
    )


def frontier(prospect: Prospect) -> Frontier:
    """ε against σ, batch size and epochs, around the plan; about 40 points in a few seconds.

    ε falls with σ and rises with epochs; against the batch size it need not rise everywhere, since the number
    of steps is whole.
    """
    schedule, noise, epochs = prospect.schedule, prospect.noise_multiplier, prospect.epochs
    examples, batch = schedule.examples, schedule.expected_batch_size

    def at(batch_size: float, passes: float) -> MechanismEvent:
        steps = _steps(examples, int(batch_size), passes)
        return MechanismEvent(int(batch_size) / examples, noise, steps)

    noises = _around(noise, _NOISE_SPAN, lambda value: max(_LEAST_NOISE, _significant(value)))
    batches = _around(batch, _BATCH_SPAN, lambda value: min(examples, max(1, round(value))))
    passes = _around(epochs, _EPOCH_SPAN, _significant)
    own = prospect.event
    return Frontier(
        noise=_curve(
            prospect, noise, noises, [MechanismEvent(own.sample_rate, value, own.steps) for value in noises]
        ),
        batch_size=_curve(prospect, batch, batches, [at(value, epochs) for value in batches]),
        epochs=_curve(prospect, epochs, passes, [at(batch, value) for value in passes]),
    )


def affordable_epochs(examples: int, batch_size: int, noise_multiplier: float, target: Target) -> Affordable:
    """The most epochs that keep to ``target``: with one step more, it would be passed."""
    step = MechanismEvent(batch_size / examples, noise_multiplier, 1)
    steps = most_steps(step, target)
    return Affordable(
        epochs=_epochs_of(steps, examples, batch_size),
        batch_size=batch_size if steps else 0,
        steps=steps,
        epsilon=target.epsilon_with(step.with_steps(steps)),
        target_epsilon=target.epsilon,
        delta=target.delta,
    )


def affordable_batch(examples: int, epochs: float, noise_multiplier: float, target: Target) -> Affordable:
    """The largest expected batch size that keeps to ``target`` for so many epochs."""
    batch = largest_batch(examples, lambda size: _steps(examples, size, epochs), noise_multiplier, target)
    if not batch:
        return Affordable(0.0, 0, 0, target.epsilon_with(), target.epsilon, target.delta)
    event = MechanismEvent(batch / examples, noise_multiplier, _steps(examples, batch, epochs))
    return Affordable(epochs, batch, event.steps, target.epsilon_with(event), target.epsilon, target.delta)


def _steps(examples: int, batch_size: int, epochs: float) -> int:
    optimisation = OptimisationSpec(learning_rate=1.0, epochs=epochs, batch_size=batch_size)
    return schedule_for(examples, optimisation, PrivacySpec()).steps


def _epochs_of(steps: int, examples: int, batch_size: int) -> float:
    """So many epochs that they are ``steps`` steps, in few decimals."""
    exact = steps * batch_size / examples
    for digits in _EPOCH_DIGITS if steps else ():
        epochs = math.floor(exact * 10.0**digits) / 10.0**digits
        if epochs > 0 and _steps(examples, batch_size, epochs) == steps:
            return epochs
    return (steps - 0.5) * batch_size / examples if steps else 0.0


def _curve(
    prospect: Prospect, centre: float, values: Sequence[float], events: Sequence[MechanismEvent]
) -> Curve:
    own = prospect.event
    bounds = epsilons(events, prospect.schedule.delta)
    # Where the plan is, its own ε is known from a finer grid.
    bounds = [
        prospect.guarantee.epsilon if event == own else bound
        for event, bound in zip(events, bounds, strict=True)
    ]
    if _ordered(events, lambda event: event.noise_multiplier):
        bounds = never_rising(bounds)
    elif _ordered(events, lambda event: event.steps) and len({e.sample_rate for e in events}) == 1:
        bounds = never_rising(bounds[::-1])[::-1]
    points = [
        (value, round_up(bound), event)
        for value, bound, event in zip(values, bounds, events, strict=True)
        if bound is not None
    ]
    return Curve(
        values=tuple(value for value, _, _ in points),
        epsilons=tuple(epsilon for _, epsilon, _ in points),
        steps=tuple(event.steps for _, _, event in points),
        planned=next(index for index, (value, _, _) in enumerate(points) if value == centre),
    )


def _ordered(events: Sequence[MechanismEvent], key: Callable[[MechanismEvent], float]) -> bool:
    keys = [key(event) for event in events]
    return len(set(keys)) > 1 and keys == sorted(keys)


def _around(centre: float, span: tuple[float, float], tidy: Callable[[float], float]) -> list[float]:
    """Values from ``span[0]`` to ``span[1]`` times ``centre``, evenly in logarithm, and the centre itself."""
    low, high = span
    ratio = (high / low) ** (1 / (_POINTS - 1))
    return sorted({centre, *(tidy(centre * low * ratio**index) for index in range(_POINTS))})


def _significant(value: float) -> float:
    """To three digits.

    >>> _significant(0.54563), _significant(1234.5)
    (0.546, 1230.0)
    """
    return float(f"{value:.3g}")
