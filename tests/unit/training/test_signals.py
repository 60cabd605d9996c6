"""Ctrl-C and SIGTERM wait where they would tear something."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from dpft.training.signals import Deferred, uninterrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = [signal.signal(number, stop) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, previous, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_end_of_the_block(number: signal.Signals) -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 (what is reached is the point)
        with Deferred():
            signal.raise_signal(number)
            reached.append("the end of the block")
        reached.append("beyond")
    assert reached == ["the end of the block"]


def test_planted_block_that_does_not_wait_is_noticed() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        reached.append("the end of the block")
    assert reached == []


def test_it_is_let_through_where_it_does_no_harm() -> None:
    held = Deferred()
    with pytest.raises(KeyboardInterrupt), held:  # noqa: PT012
        held.check()
        signal.raise_signal(signal.SIGTERM)
        held.check()
        raise AssertionError("it was not let through")
    with held:  # and it may be used again
        held.check()
    signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_error_in_the_block_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, Deferred():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        raise ValueError("first")
    assert isinstance(caught.value.__context__, ValueError)


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Deferred():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    with uninterrupted(), Deferred():
        signal.raise_signal(signal.SIGTERM)


def test_in_another_thread_it_does_nothing() -> None:
    done = []

    def work() -> None:
        with Deferred() as held, uninterrupted():
            held.check()
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
