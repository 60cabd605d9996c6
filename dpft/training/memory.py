"""How many tokens should go through the model at once: measured, on the user's machine."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cost", "Memory", "available_bytes", "measure", "peak_bytes", "reset_peak", "suggest"]

_BUDGETS = (512, 1024, 2048, 4096, 8192, 16384)  # tokens
_SECONDS = 15.0  # CPU time after which no larger size is tried
_SHARE = 0.7  # of the available memory that may be used
_AS_GOOD = 1.05  # a size that costs at most this much more per token is as good, and needs less memory
_WORSE = 1.2  # beyond the best, so much more per token that larger sizes are not worth a look


@dataclass(frozen=True)
class Cost:
    """What one micro-batch cost.

    Attributes:
        tokens: of the micro-batch, padding included.
        examples: in it.
        seconds_per_1000_tokens: CPU time, all threads together.
        peak_bytes: of the whole process; None where the system does not tell.
    """

    tokens: int
    examples: int
    seconds_per_1000_tokens: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Memory:
    """Costs by size, and the size to choose.

    Attributes:
        length: tokens per example that it was measured with.
        costs: in growing size.
        suggested_tokens: for ``--micro-batch-tokens``.
        estimated_bytes: that a run with it takes; None where the system does not tell.
        available_bytes: that the process may still take; None where the system does not tell.
    """

    length: int
    costs: tuple[Cost, ...]
    suggested_tokens: int
    estimated_bytes: int | None
    available_bytes: int | None


def measure(run: Callable[[int], None], length: int, extra_bytes: int = 0) -> Memory:
    """Measure micro-batches of growing size.

    It stops before memory would run short (a size is taken to need twice what the last one added), or when
    enough time was spent.

    Args:
        run: puts that many examples of ``length`` tokens through model and engine, once.
        length: tokens per example.
        extra_bytes: that a run takes besides (the optimizer's state).
    """
    run(1)  # whatever is made once
    reset_peak()
    available, before = available_bytes(), _resident()
    costs: list[Cost] = []
    spent, added = 0.0, 0
    for budget in _BUDGETS:
        examples = max(1, budget // length)
        if costs and examples == costs[-1].examples:
            continue
        if spent > _SECONDS or (available is not None and 2 * added > _SHARE * available):
            break
        reset_peak()
        began = time.process_time()
        run(examples)
        seconds = time.process_time() - began
        spent += seconds
        peak = peak_bytes()
        added = max(added, peak - before) if peak is not None and before is not None else 0
        tokens = examples * length
        costs.append(Cost(tokens, examples, 1000 * seconds / tokens, peak))
        if costs[-1].seconds_per_1000_tokens > _WORSE * suggest(costs).seconds_per_1000_tokens:
            break
    best = suggest(costs)
    estimated = best.peak_bytes + extra_bytes if best.peak_bytes is not None else None
    return Memory(length, tuple(costs), best.tokens, estimated, available)


def suggest(costs: Sequence[Cost]) -> Cost:
    """The smallest size that is about as cheap per token as the cheapest."""
    least = min(cost.seconds_per_1000_tokens for cost in costs)
    return next(cost for cost in costs if cost.seconds_per_1000_tokens <= _AS_GOOD * least)


def reset_peak() -> None:
    """Begin to count the peak anew, where the system can (Linux); elsewhere it only ever grows.

    What was freed but is kept by the C library counts as resident, so it is given back first.
    """
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int | None:
    """Largest resident size of this process since :func:`reset_peak`."""
    found = _status("VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def available_bytes() -> int | None:
    """What the system says may still be taken, a container's limit included."""
    found = _field(Path("/proc/meminfo"), "MemAvailable")
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        left = limit - int((group / "memory.current").read_text())
        found = left if found is None else min(found, left)
    return found


def _resident() -> int | None:
    return _status("VmRSS")


def _status(name: str) -> int | None:
    return _field(Path("/proc/self/status"), name)


def _field(path: Path, name: str) -> int | None:
    """``name: 123 kB`` of a file, in bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None
