"""How much noise a target needs, and what a list of events guarantees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Final

from dpft.accounting.accountant import check_delta
from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD, PldAccountant
from dpft.accounting.rdp import RDP, RdpAccountant
from dpft.errors import PrivacyError, UsageError

__all__ = ["Calibration", "Guarantee", "calibrate_noise_multiplier", "guarantee", "round_up"]

_LEAST_NOISE: Final = 0.05
_MOST_NOISE: Final = 1e5
_DECIMALS: Final = 4
_TICK: Final = 10.0**-_DECIMALS

# The quick stages only choose where the precise one starts.
_QUICK_RDP: Final = RdpAccountant(orders=(2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128, 256, 512))
_QUICK_INTERVAL: Final = 1e-3
_QUICK_TOLERANCE: Final = 1e-3
_MAX_EVALUATIONS: Final = 40

_Curve = Callable[[float], float]


@dataclass(frozen=True)
class Calibration:
    """A noise multiplier, and the (ε, δ) that it achieves under add-or-remove-one adjacency."""

    noise_multiplier: float
    epsilon: float
    delta: float


@dataclass(frozen=True)
class Guarantee:
    """What a list of events guarantees, in all the ways in which a manifest states it.

    Attributes:
        epsilon: ε under add-or-remove-one adjacency, by the pld accountant; the one to claim.
        delta: δ of all three.
        epsilon_replace_one: ε under replace-one adjacency, by the pld accountant; never below ``epsilon``.
        epsilon_rdp: ε under add-or-remove-one adjacency, by the rdp accountant; the second opinion.
    """

    epsilon: float
    delta: float
    epsilon_replace_one: float
    epsilon_rdp: float


def guarantee(events: Sequence[MechanismEvent], delta: float) -> Guarantee:
    """State what ``events`` guarantee together.

    Args:
        events: add-or-remove-one events; none, or none with steps, guarantee ε = 0.
        delta: δ, in (0, 1).

    Raises:
        UsageError: δ out of range.
        PrivacyError: the events are not add-or-remove-one, or have no finite ε.
    """
    if any(event.adjacency != "add-or-remove-one" for event in events):
        raise PrivacyError(
            "a guarantee is stated for add-or-remove-one events; the replace-one ε is derived from them",
            hint="record the events under add-or-remove-one adjacency",
        )
    epsilon = PLD.epsilon(events, delta)
    replace_one = PLD.epsilon([event.with_adjacency("replace-one") for event in events], delta)
    return Guarantee(
        epsilon=epsilon,
        delta=delta,
        # The null example may replace any other, so that the true value is no lower; nor is the stated one.
        epsilon_replace_one=max(epsilon, replace_one),
        epsilon_rdp=RDP.epsilon(events, delta),
    )


def round_up(value: float, digits: int = _DECIMALS) -> float:
    """Return ``value`` rounded up to ``digits`` decimals: never below it, and itself if it has no more.

    >>> round_up(0.99991), round_up(7.00001), round_up(0.1), round_up(7.4e-6, digits=6)
    (1.0, 7.0001, 0.1, 8e-06)

    Raises:
        UsageError: ``value`` is infinite or NaN.
    """
    if not abs(value) < math.inf:
        raise UsageError(f"value is {value!r}, not finite", hint="only finite numbers can be rounded up")
    nearest = round(value, digits)
    if nearest >= value:
        return nearest
    # Decimals, since a float near 2^25 plus 1e-8 is that float again; prec holds every double written out.
    grid = Decimal(1).scaleb(-digits)
    return float(Decimal(value).quantize(grid, ROUND_CEILING, Context(prec=1100)))


def calibrate_noise_multiplier(
    *,
    sample_rate: float,
    steps: int,
    target_epsilon: float,
    target_delta: float,
    tolerance: float = 1e-5,
) -> Calibration:
    """Find the smallest noise multiplier whose ε is at most the target, never above.

    A quick RDP search says where to look, the pld accountant on a coarse grid (interval 1e-3) comes within a
    thousandth, and on the fine grid (interval 1e-4, by which runs are accounted) it settles and confirms the
    value. Each stage follows the secant of log ε over log noise, which is nearly a straight line.

    Args:
        sample_rate: q, in (0, 1].
        steps: noisy updates, 1 or more.
        target_epsilon: ε to stay within, finite and above 0, under add-or-remove-one adjacency.
        target_delta: δ, in (0, 1).
        tolerance: how far above the smallest the result may be, relatively, in (0, 0.1]; or four decimals,
            whichever is coarser.

    Returns:
        The noise multiplier, rounded up to four decimals, 0.05 or more, and the ε that the pld accountant
        finds for it.

    Raises:
        UsageError: an argument out of range.
        PrivacyError: no noise multiplier up to 100,000 reaches the target, or δ is too small to account for.
    """
    check_delta(target_delta, name="target_delta")
    if not 0 < target_epsilon < math.inf:
        raise UsageError(
            f"target_epsilon is {target_epsilon!r}, not a finite number above 0",
            hint="1 to 8 is customary; smaller protects more",
        )
    if not 0 < tolerance <= 0.1:
        raise UsageError(f"tolerance is {tolerance!r}, not in (0, 0.1]", hint="leave it at its default")
    if not MechanismEvent(sample_rate, 1.0, steps).steps >= 1:
        raise UsageError("steps is 0: nothing to calibrate for", hint="train for at least one step")

    def curve(accountant: PldAccountant | RdpAccountant) -> _Curve:
        return lambda noise: accountant.epsilon([MechanismEvent(sample_rate, noise, steps)], target_delta)

    quick = PldAccountant(interval=min(_QUICK_INTERVAL, max(PLD.interval, target_epsilon / 300)))
    start = _guess(curve(_QUICK_RDP), target_epsilon)
    near = _search(curve(quick), target_epsilon, start, _QUICK_TOLERANCE, safe=False)
    found = _search(curve(PLD), target_epsilon, near, tolerance, safe=True)
    if not found.epsilon <= target_epsilon:
        raise PrivacyError(
            f"no noise multiplier up to {_MOST_NOISE:.0f} reaches target_epsilon {target_epsilon!r}"
            f" at target_delta {target_delta!r}",
            hint="ask for a larger ε or δ, or take fewer steps or a smaller batch",
        )
    return Calibration(found.noise_multiplier, found.epsilon, target_delta)


@dataclass(frozen=True)
class _Point:
    """A place on the curve of ε over the noise multiplier, and its fall there, both in logarithms."""

    noise_multiplier: float
    epsilon: float
    fall: float


def _guess(curve: _Curve, target: float) -> _Point:
    """Bracket the target between a noise multiplier and its double, and interpolate."""
    high = 1.0
    while high < _MOST_NOISE and curve(high) > target:
        high = min(2 * high, _MOST_NOISE)
    while high > _LEAST_NOISE and curve(high / 2) <= target:
        high /= 2
    epsilon = curve(high)
    fall = _fall(_Point(high / 2, curve(high / 2), 1.0), high, epsilon)
    return _Point(high * math.exp(_step(epsilon, target, fall)), target, fall)


def _search(curve: _Curve, target: float, start: _Point, tolerance: float, *, safe: bool) -> _Point:
    """Follow the secant until the noise is within ``tolerance``, in logarithm, of where ε is the target.

    Args:
        curve: ε at a noise multiplier.
        target: ε to reach.
        start: where to begin, and with which fall.
        tolerance: when to stop; four decimals of the noise multiplier are enough in any case.
        safe: end on a point that holds the target.

    Returns:
        The point found. It is above the target only if not ``safe``, or if the most noise there is does not
        reach it.
    """
    fall, following = start.fall, start.noise_multiplier
    too_weak, best, previous = 0.0, None, start
    for _ in range(_MAX_EVALUATIONS):
        noise = _tidy(following)
        epsilon = curve(noise)
        fall = _fall(previous, noise, epsilon) if best or too_weak else fall
        previous = point = _Point(noise, epsilon, fall)
        holds = epsilon <= target
        step = _step(epsilon, target, fall)
        if abs(step) <= tolerance and (holds or not safe):
            return point
        if holds:
            best = point
        elif noise < _MOST_NOISE:
            too_weak = noise
        else:
            return point
        following = max(_tidy(noise * math.exp(step)), _tidy(too_weak + _TICK / 2))
        if best and following >= best.noise_multiplier:
            following = _tidy(math.sqrt(too_weak * best.noise_multiplier))
            if holds or following >= best.noise_multiplier:
                return best
    return best or previous


def _fall(previous: _Point, noise: float, epsilon: float) -> float:
    """Return the secant's fall, or the previous one where two points are too near or too flat to tell."""
    distance = math.log(noise / previous.noise_multiplier)
    if abs(distance) < _QUICK_TOLERANCE or not (previous.epsilon > 0 and epsilon > 0):
        return previous.fall
    return min(max(-math.log(epsilon / previous.epsilon) / distance, 0.1), 100.0)


def _step(epsilon: float, target: float, fall: float) -> float:
    """Return how far log noise should move to reach the target; at most to the double or half."""
    step = math.log(epsilon / target) / fall if epsilon > 0 else -math.inf
    return max(-math.log(2), min(step, math.log(2)))


def _tidy(noise_multiplier: float) -> float:
    return min(max(round_up(noise_multiplier, _DECIMALS), _LEAST_NOISE), _MOST_NOISE)
