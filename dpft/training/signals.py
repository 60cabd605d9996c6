"""When Ctrl-C and SIGTERM may be heard: not while a step is half applied, nor while a run is being saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Deferred", "uninterrupted"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let no second Ctrl-C (nor SIGTERM) tear what is being saved; saving takes a moment."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = [signal.signal(number, signal.SIG_IGN) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, previous, strict=True):
            signal.signal(number, handler)


class Deferred:
    """Holds Ctrl-C and SIGTERM back inside its block, to let them through at its end or at :meth:`check`.

    An interruption between an optimizer's first tensor and its last would leave weights that belong to no
    step. It may be entered again and again; outside the main thread, where no signal arrives, it does
    nothing.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._came: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if handler is not None and handler is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_through()

    def check(self) -> None:
        """Let through what came: here an interruption does no harm.

        Raises:
            KeyboardInterrupt: or whatever the handler of what came does.
        """
        if self._came is not None:
            self._let_through()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._came = number

    def _let_through(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        came, self._came = self._came, None
        if came is not None:
            signal.raise_signal(came)
