"""Numbers and texts in words."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from dpft.runs.statement import round_up_delta, round_up_epsilon

if TYPE_CHECKING:
    from dpft.training.observer import Estimate, LedgerEffect, RunFacts

__all__ = [
    "NONE",
    "age",
    "duration",
    "expected",
    "file_size",
    "ledger_effect",
    "number_of_examples",
    "one_line",
    "privacy",
    "score",
]

NONE = "—"


def age(created: str, now: datetime) -> str:
    """How long ago, in one unit.

    >>> age("2026-01-01T12:00:00.000000Z", datetime.fromisoformat("2026-01-03T11:00:00Z"))
    '47h'
    """
    seconds = max(0.0, (now - datetime.fromisoformat(created)).total_seconds())
    for unit, length, most in (("s", 1, 60), ("m", 60, 60), ("h", 3600, 48)):
        if seconds < length * most:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds // 86400)}d"


def duration(seconds: float | None) -> str:
    """A time span for people.

    >>> [duration(value) for value in (0.84, 59.7, 133, 3900, None)]
    ['0.8 s', '1 min 00 s', '2 min 13 s', '1 h 05 min', '—']
    """
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def expected(estimate: Estimate) -> str:
    """How long a run is likely to take, and its memory."""
    words = f"about {duration(estimate.seconds)} of training on this machine as it is now"
    if estimate.peak_memory_bytes is None:
        return words
    return f"{words}; about {estimate.peak_memory_bytes / 1e9:.1f} GB of memory"


def privacy(private: bool, epsilon: float | None, delta: float | None, steps: int | None = None) -> Text:
    """The guarantee in a few words; ε and δ are rounded up, never down."""
    if not private:
        return Text("none: trained without differential privacy", "yellow")
    if steps == 0:
        return Text("nothing was released: no step was taken")
    if epsilon is None or delta is None:
        return Text("no valid (ε, δ) claimed", "red")
    return Text.assemble(
        ("ε ≤ ", ""), (round_up_epsilon(epsilon), "bold"), f" at δ ≤ {round_up_delta(delta)}"
    )


def ledger_effect(effect: LedgerEffect, *, private: bool) -> Text:
    """What was spent on the data before, and what would be with this run."""
    runs = "1 run" if effect.runs == 1 else f"{effect.runs} runs"
    text = Text("no run on this data so far" if effect.runs == 0 else f"{runs} on this data so far")
    if effect.runs and effect.delta is not None:
        text.append(f": {_at_most(effect.before)}")
    if effect.unprotected_runs:
        text.append(f" ({effect.unprotected_runs} without protection)", "yellow")
    if private and effect.delta is not None:
        text.append(f"; with this one {_at_most(effect.after)} at δ ≤ {round_up_delta(effect.delta)}")
    elif not private:
        text.append("; this one would be recorded as unprotected", "yellow")
    return text


def _at_most(epsilon: float | None) -> str:
    return "no finite ε" if epsilon is None else f"ε ≤ {round_up_epsilon(epsilon)}"


def score(value: float | None) -> str:
    """A metric with 4 decimals.

    >>> score(0.81234), score(None)
    ('0.8123', '—')
    """
    return NONE if value is None else f"{value:.4f}"


def number_of_examples(facts: RunFacts) -> str:
    """How many examples; where the number is private, the declared one."""
    return f"{facts.examples:,} examples" + (" (declared)" if facts.examples_declared else "")


def file_size(size: int) -> str:
    """A file's size for people.

    >>> [file_size(size) for size in (812, 20_480, 17_000_000)]
    ['812 B', '20.5 kB', '17.0 MB']
    """
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"


def one_line(text: str) -> str:
    """Text on one line, with control characters made visible."""
    flat = " ".join(text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in flat)
