"""Runs side by side: field by field, what differs, and which value is the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord
    from dpft.spec import RunSpec

__all__ = ["Row", "Subject", "compare", "not_comparable"]

_WHAT = ("run_id", "dataset", "finetune_mode", "model_checkpoint", "status", "private")
_COST = ("epsilon", "delta")
_OTHER_OPINIONS = ("replace_one_epsilon", "second_epsilon")
_MECHANISM = ("target_epsilon", "noise_multiplier", "sample_rate")
_EFFORT = ("steps", "steps_planned", "trainable_parameters", "seconds")
_PARTS = ("data", "model", "tuning", "privacy", "optimisation", "hardware")
_WORDS = ("created", "finished", "tags", "note", "error")
_SAID_ALREADY = {
    "schema_version", "name", "tags", "note", "dataset", "checkpoint", "mode", "enabled", "target_epsilon",
    "noise_multiplier", "target_delta",
}  # fmt: skip
_ALWAYS_DIFFER = {"run_id", "created", "finished"}
_EPSILONS = {"epsilon", *_OTHER_OPINIONS}
_SMALLER_IS_BETTER = {*_EPSILONS, "seconds"}


@dataclass(frozen=True)
class Subject:
    """One of the runs.

    Attributes:
        record: its record.
        spec: what it was asked to do.
        manifest: its ``privacy.json``; None if it has none.
    """

    record: RunRecord
    spec: RunSpec
    manifest: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Row:
    """One field.

    Attributes:
        field: its name.
        values: JSON values, one for each run in order; None where a run has none.
        best: positions of the best values; empty where none is better, or they cannot be compared.
        is_metric: whether it is a score.
    """

    field: str
    values: tuple[Any, ...]
    best: tuple[int, ...] = ()
    is_metric: bool = False

    @property
    def differs(self) -> bool:
        """Whether the runs differ in it, ids and times apart."""
        different = any(value != self.values[0] for value in self.values[1:])
        return different and self.field not in _ALWAYS_DIFFER

    def to_json(self) -> dict[str, Any]:
        """As ``compare --json`` prints it."""
        return {"field": self.field, "values": [*self.values], "best": [*self.best]}


def compare(subjects: Sequence[Subject]) -> list[Row]:
    """Every field that any of the runs has.

    The best is marked of scores (larger), where all are on one dataset; of ε (smaller), where all are at one
    δ; and of seconds (fewer).

    Args:
        subjects: two or more.
    """
    columns = [dict(_facts(subject)) for subject in subjects]
    metrics = dict.fromkeys(name for subject in subjects for name in subject.record.metrics)
    rows = []
    for field in dict.fromkeys(name for column in columns for name in column):
        values = tuple(column.get(field) for column in columns)
        rows.append(Row(field, values, _best(field, values, subjects, field in metrics), field in metrics))
    return rows


def not_comparable(subjects: Sequence[Subject]) -> str:
    """Why some best values are not marked, in words; empty where all are."""
    reasons = []
    if not _one(subject.record.dataset for subject in subjects):
        reasons.append("the datasets differ, so no best score is marked")
    if not _one(s.record.delta for s in subjects if s.record.epsilon is not None):
        reasons.append("the δ's differ, so no best ε is marked")
    return "; ".join(reasons)


def _facts(subject: Subject) -> Iterator[tuple[str, Any]]:
    record, manifest = subject.record, subject.manifest or {}
    document = record.model_dump(mode="json")
    guarantee, mechanism = manifest.get("guarantee") or {}, manifest.get("mechanism") or {}
    yield from ((name, document[name]) for name in _WHAT)
    yield from record.metrics.items()
    yield "majority", record.baselines.get("majority")
    yield from ((name, document[name]) for name in _COST)
    yield from ((name, guarantee.get(name)) for name in _OTHER_OPINIONS)
    yield from ((name, document[name]) for name in (*_MECHANISM, *_EFFORT))
    for part in _PARTS:
        settings = getattr(subject.spec, part).model_dump(mode="json")
        yield from ((name, value) for name, value in settings.items() if name not in _SAID_ALREADY)
    yield "expected_batch_size", mechanism.get("expected_batch_size")
    yield from ((name, document[name] or None) for name in _WORDS)


def _best(field: str, values: Sequence[Any], subjects: Sequence[Subject], is_metric: bool) -> tuple[int, ...]:
    smaller = field in _SMALLER_IS_BETTER
    if not smaller and not is_metric:
        return ()
    if is_metric and not _one(subject.record.dataset for subject in subjects):
        return ()
    if field in _EPSILONS and not _one(s.record.delta for s in subjects if s.record.epsilon is not None):
        return ()
    known = [value for value in values if value is not None]
    if len(known) < 2 or min(known) == max(known):
        return ()
    wanted = min(known) if smaller else max(known)
    return tuple(position for position, value in enumerate(values) if value == wanted)


def _one(values: Iterator[Any]) -> bool:
    return len({*values}) <= 1
