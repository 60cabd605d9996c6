"""The privacy profile: δ as a function of ε, which is all that a mechanism's trade-off curve holds."""

from __future__ import annotations

from collections.abc import Sequence

from dpft.accounting.accountant import compose
from dpft.accounting.event import MechanismEvent
from dpft.errors import PrivacyError, UsageError

__all__ = ["privacy_profile"]


def privacy_profile(
    events: Sequence[MechanismEvent], epsilons: Sequence[float], *, interval: float = 1e-3
) -> list[float]:
    """δ(ε) of all events together, for each ε.

    Args:
        events: of add-or-remove-one adjacency.
        epsilons: at least 0.
        interval: width of a grid cell of the privacy loss distribution, in nats.

    Returns:
        Upper bounds of δ, by connecting the dots (Doroshenko et al. 2022, arXiv 2207.04380), one for each ε.

    Raises:
        UsageError: a negative ε or NaN.
        PrivacyError: events of another adjacency, or noise too weak for any statement.
    """
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    if not all(epsilon >= 0 for epsilon in epsilons):
        raise UsageError(f"ε out of range in {list(epsilons)!r}", hint="give values of 0 and above")
    if any(event.adjacency != "add-or-remove-one" for event in events):
        raise PrivacyError(
            "a profile is computed for add-or-remove-one events",
            hint="record the events under add-or-remove-one adjacency",
        )
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, interval)
    for event in compose(events):
        step = PoissonSampledDpEvent(event.sample_rate, GaussianDpEvent(event.noise_multiplier))
        accountant.compose(step, event.steps)
    return [float(accountant.get_delta(epsilon)) for epsilon in epsilons]
