"""Rényi differential privacy: the quick accountant, and the second opinion in every manifest."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from dpft.accounting.accountant import check_delta, check_epsilon, compose
from dpft.accounting.event import MechanismEvent
from dpft.errors import PrivacyError

__all__ = ["RDP", "RdpAccountant"]

# Dense where DP-SGD has its optimum (small orders for little noise), sparse where ε is far below 1.
_ORDERS: Final[tuple[float, ...]] = (
    *(1 + tenths / 10 for tenths in range(1, 100)),
    *range(11, 65),
    *(80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024, 1536, 2048),
)

# Rounding error of one step's log moment, a few units in the last place of 1, taken on the private side.
_ROUNDING_PER_STEP: Final = 2.0**-50


@dataclass(frozen=True)
class RdpAccountant:
    """Composes Rényi divergences and converts them to (ε, δ); a little loose, never too low.

    The divergences of every order add up over steps (Mironov 2017, arXiv 1702.07476, Proposition 1); those of
    one step of the Poisson-subsampled Gaussian are from Mironov et al. 2019 (arXiv 1908.10530, §3.3); the
    conversion is Proposition 12 of Canonne et al. 2020 (arXiv 2004.00010), minimised over ``orders``.

    Args:
        orders: Rényi orders, each above 1; more of them can only lower ε.
    """

    orders: tuple[float, ...] = _ORDERS
    name: str = field(default="rdp", init=False)

    def epsilon(self, events: Sequence[MechanismEvent], delta: float) -> float:
        """Return an upper bound of ε for add-or-remove-one adjacency; see :class:`Accountant`.

        Orders whose divergence is not a number, infinite or below zero (all of them numerical accidents, and
        each able to pass for a good guarantee) are left out of the minimum.

        Raises:
            UsageError: δ out of range.
            PrivacyError: replace-one events, or no order gives a finite ε.
        """
        check_delta(delta)
        composed = compose(events)
        if any(event.adjacency != "add-or-remove-one" for event in events):
            raise PrivacyError(
                "the rdp accountant has no bound for Poisson sampling under replace-one adjacency",
                hint="use the pld accountant for the replace-one ε",
            )
        if not composed:
            return 0.0
        divergences = _divergences(composed, self.orders)
        usable = [(order, value) for order, value in zip(self.orders, divergences, strict=True) if value >= 0]
        if not usable:
            raise PrivacyError(
                "the rdp accountant found no usable order for these events",
                hint="use the pld accountant, a larger noise multiplier, or fewer steps",
            )
        # Imported late: scipy comes with it, and ``dpft --help`` must not pay for that.
        from dp_accounting.rdp import compute_epsilon

        orders, values = zip(*usable, strict=True)
        epsilon, _ = compute_epsilon(orders, values, delta)
        return check_epsilon(epsilon, accountant=self.name)


# A run asks for the same events when it is planned, when it ends, and when it is verified.
@lru_cache(maxsize=256)
def _divergences(events: tuple[MechanismEvent, ...], orders: tuple[float, ...]) -> tuple[float, ...]:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant as Library

    library = Library(orders)
    with _silenced("absl"):
        for event in events:
            step = PoissonSampledDpEvent(event.sample_rate, GaussianDpEvent(event.noise_multiplier))
            library.compose(step, event.steps)
    rounding = _ROUNDING_PER_STEP * sum(event.steps for event in events)
    return tuple(
        float(value) + rounding / (order - 1) for order, value in zip(orders, library.rdp, strict=True)
    )


@contextmanager
def _silenced(logger: str) -> Iterator[None]:
    """Drop a logger's records meanwhile: the library warns of each order whose series did not converge."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    target = logging.getLogger(logger)
    target.addFilter(drop)
    try:
        yield
    finally:
        target.removeFilter(drop)


RDP: Final = RdpAccountant()
