"""A run's fields as columns: their heads, and what stands in a cell."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.text import Text

from dpft.cli.render import status_text
from dpft.cli.wording import NONE, age, duration, one_line, score
from dpft.runs.fields import value_of
from dpft.runs.statement import round_up_delta, round_up_epsilon

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord

__all__ = ["UNKNOWN", "cell", "head", "is_number", "plain"]

UNKNOWN = "?"
"""ε of a private run of which nothing can be claimed (yet)."""

_HEADS: Mapping[str, str] = MappingProxyType(
    {
        "dataset": "data", "finetune_mode": "mode", "model_checkpoint": "model", "epsilon": "ε", "delta": "δ",
        "target_epsilon": "target ε", "noise_multiplier": "σ", "sample_rate": "q",
        "steps_planned": "planned", "trainable_parameters": "trained", "seconds": "time",
    }
)  # fmt: skip
_TEXTS = {
    "id", "name", "dataset", "finetune_mode", "model_checkpoint", "status", "private", "created", "finished",
    "tags", "note", "error",
}  # fmt: skip


def head(field: str) -> str:
    """What stands above a column."""
    return _HEADS.get(field, field)


def is_number(field: str) -> bool:
    """Whether a column is set to the right."""
    return field not in _TEXTS


def cell(record: RunRecord, field: str) -> Text:
    """What a run has, on one line; ε and δ are rounded up, never down."""
    if field == "id":
        return Text(record.run_id[:8], "cyan")
    if field == "name":
        return Text(one_line(record.name), "bold")
    if field == "status":
        return status_text(record)
    if field == "age":
        return Text(age(record.created, datetime.now(UTC)), "dim")
    if field in ("epsilon", "delta") and not record.private:
        return Text(NONE, "yellow")
    if field == "epsilon":
        return Text(UNKNOWN if record.epsilon is None else round_up_epsilon(record.epsilon))
    return Text(plain(field, value_of(record, field)))


def plain(field: str, value: object) -> str:
    """A value in words; :func:`cell` knows what it means that there is none."""
    if value is None or value in ("", ()):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return one_line(", ".join(value))
    if isinstance(value, str):
        return value[:19].replace("T", " ") if field in ("created", "finished") else one_line(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return NONE
    if field == "delta":
        return round_up_delta(value)
    if field == "epsilon":
        return round_up_epsilon(value)
    if field == "seconds":
        return duration(value)
    if field in ("noise_multiplier", "sample_rate", "target_epsilon"):
        return f"{value:.3g}"
    return score(value)
