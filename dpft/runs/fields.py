"""What can be asked of a run by name: the fields that lists are sorted, filtered and made of.

A field has one name and a few short ones (``sigma`` and ``σ`` are ``noise_multiplier``). Beside these, every
metric that a run has is a field. Imports nothing heavy, since help texts and completions name the fields.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dpft.errors import UsageError

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord

__all__ = ["ALIASES", "FIELDS", "METRICS", "canonical", "nearest", "value_of"]

FIELDS = (
    "id", "name", "dataset", "finetune_mode", "model_checkpoint", "status", "private", "epsilon", "delta",
    "target_epsilon", "noise_multiplier", "sample_rate", "steps", "steps_planned", "trainable_parameters",
    "majority", "seconds", "created", "finished", "age", "tags", "note", "error",
)  # fmt: skip
"""Of every run; one that a run does not have is None."""

METRICS = ("accuracy", "f1")
"""Fields even where no run has them (yet)."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "run_id": "id", "data": "dataset", "mode": "finetune_mode", "model": "model_checkpoint",
        "ε": "epsilon", "eps": "epsilon", "δ": "delta", "σ": "noise_multiplier", "sigma": "noise_multiplier",
        "q": "sample_rate", "parameters": "trainable_parameters", "tag": "tags",
    }
)  # fmt: skip
"""Other names, and what they stand for."""


def canonical(name: str, metrics: Iterable[str] = METRICS) -> str:
    """The field that a name means, whatever its case and with ``-`` or ``_``.

    Args:
        name: as the user wrote it.
        metrics: names of further fields.

    Raises:
        UsageError: there is none; the hint has the nearest, or all.
    """
    wanted = name.strip().casefold()
    for spelled in (wanted, wanted.replace("-", "_")):
        found = ALIASES.get(spelled, spelled)
        if found in FIELDS or found in metrics:
            return found
    known = [*FIELDS, *dict.fromkeys([*METRICS, *metrics])]
    raise UsageError(f"unknown column {name!r}", hint=nearest(wanted, [*known, *ALIASES], known))


def nearest(wanted: str, candidates: Iterable[str], listed: Iterable[str]) -> str:
    """A hint: what is nearest to ``wanted``, or else all there is."""
    close = difflib.get_close_matches(wanted, [*candidates], n=1)
    if close:
        return f"did you mean {close[0]!r}? 'dpft list --help' names all"
    return f"choose one of: {', '.join(listed)}"


def value_of(record: RunRecord, field: str) -> Any:
    """A run's value; None where it has none.

    Args:
        record: the run.
        field: from :func:`canonical`.

    Returns:
        A string, number, truth value or tuple of strings. ``age`` sorts as time passes: it is the negative of
        when the run was created, and not meant to be shown.
    """
    if field == "id":
        return record.run_id
    if field == "majority":
        return record.baselines.get("majority")
    if field == "age":
        return -_seconds(record.created)
    if field in FIELDS:
        return getattr(record, field)
    return record.metrics.get(field)


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()
