import logging
import math

import numpy as np
import pytest

from dpft.accounting import MechanismEvent, rdp
from dpft.accounting.rdp import RDP, RdpAccountant
from dpft.errors import PrivacyError

EVENT = MechanismEvent(0.1, 3.0, 512)


@pytest.fixture(autouse=True)
def _nothing_remembered():
    """The library is spoilt here, and what was computed so must not be remembered."""
    rdp._divergences.cache_clear()
    yield
    rdp._divergences.cache_clear()


def test_more_orders_never_raise_epsilon():
    few = RdpAccountant(orders=(2, 4, 8, 16)).epsilon([EVENT], 1e-6)
    assert RDP.epsilon([EVENT], 1e-6) <= RdpAccountant(orders=(2, 4, 6, 8, 16)).epsilon([EVENT], 1e-6) < few


def test_large_orders_serve_small_epsilons():
    epsilon = RDP.epsilon([MechanismEvent(0.01, 500.0, 100)], 1e-6)
    assert 0 < epsilon < 0.01


def test_replace_one_is_refused_with_the_remedy():
    with pytest.raises(PrivacyError, match="replace-one") as caught:
        RDP.epsilon([EVENT.with_adjacency("replace-one")], 1e-6)
    assert "pld" in caught.value.hint


@pytest.mark.parametrize("accident", [math.nan, -1e-3, math.inf])
def test_a_numerical_accident_at_one_order_is_no_guarantee(monkeypatch, accident):
    # The library's own conversion turns a NaN or negative divergence into ε = 0.
    library = pytest.importorskip("dp_accounting.rdp").RdpAccountant
    divergences = np.array([accident, 1.5])
    monkeypatch.setattr(library, "rdp", property(lambda self: divergences))
    with_accident = RdpAccountant(orders=(4, 6)).epsilon([EVENT], 1e-6)
    divergences = np.array([1.5])
    assert with_accident == RdpAccountant(orders=(6,)).epsilon([EVENT], 1e-6) > 1


@pytest.mark.parametrize("accident", [math.nan, -1e-3, math.inf])
def test_accidents_at_all_orders_fail_closed(monkeypatch, accident):
    library = pytest.importorskip("dp_accounting.rdp").RdpAccountant
    monkeypatch.setattr(library, "rdp", property(lambda self: np.array([accident, accident])))
    with pytest.raises(PrivacyError):
        RdpAccountant(orders=(4, 6)).epsilon([EVENT], 1e-6)


def test_the_library_does_not_write_past_our_printer(caplog):
    # At this order its series does not converge, of which it warns; the order is left out.
    logger = logging.getLogger("absl")
    filters, propagates = list(logger.filters), logger.propagate
    logger.propagate = True
    try:
        with caplog.at_level(logging.DEBUG):
            RdpAccountant(orders=(1.5, 4)).epsilon([MechanismEvent(0.1, 1.0, 10)], 1e-6)
    finally:
        logger.propagate = propagates
    assert not caplog.records
    assert logger.filters == filters
