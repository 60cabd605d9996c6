"""The lines of a ledger: how they are chained, and what they add up to.

A line is a JSON object whose last key, ``checksum``, is the SHA-256 of the line before's checksum and of the
line's own bytes up to there. So a line that was torn, altered, removed from the middle or moved is seen. The
chain is not keyed: it catches accidents and edits, not an owner who recomputes it, nor the removal of whole
lines from the end.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from dpft.errors import PrivacyError
from dpft.runs.manifest_parts import Event

__all__ = [
    "SCHEMA_VERSION",
    "Damage",
    "Entry",
    "apply",
    "checked_event",
    "decode",
    "encode",
    "start_of_chain",
]

SCHEMA_VERSION = "1.0"
"""Of each line of a ledger."""

_TAIL = re.compile(rb',"checksum":"([0-9a-f]{64})"\}\Z')


class Damage(Exception):  # noqa: N818 (it becomes an error where the file's name is known)
    """A line that is not what was written, or not where it was."""


@dataclass(frozen=True)
class Entry:
    """One charge as it stands: what a run may have released of a dataset, or has.

    All counts of steps are of this charge's own steps: a run resumed after its 500th step charges anew, with
    ``start_step`` 500, for the steps that remain.

    Attributes:
        fingerprint: of the dataset.
        charge_id: 16 hex characters.
        run_id: the run's.
        name: the run's.
        dataset: what the run called the dataset.
        source: what kind of place the rows came from.
        mode: the fine-tune mode.
        event: ``sample_rate``, ``noise_multiplier``, ``steps`` planned and ``adjacency``; None for a run
            without privacy.
        delta: δ of the run; None without privacy.
        start_step: the run's steps that other charges cover.
        time: when it was charged; UTC, ISO 8601.
        mark: steps that may have been released so far, by the last ``advance``; None if there was none.
        settled: steps really taken; None until the charge is settled.
        unaccounted: why no ε covers what ran, if none does.
    """

    fingerprint: str
    charge_id: str
    run_id: str
    name: str
    dataset: str
    source: str
    mode: str
    event: Mapping[str, Any] | None
    delta: float | None
    start_step: int
    time: str
    mark: int | None = None
    settled: int | None = None
    unaccounted: str | None = None

    @property
    def protected(self) -> bool:
        """Whether an ε covers it, or nothing was released."""
        return self.settled == 0 or (self.event is not None and self.unaccounted is None)

    @property
    def steps(self) -> int | None:
        """Steps it counts for: those taken, or all that were planned; None where no ε counts them."""
        if self.settled is not None:
            return self.settled
        return None if self.event is None else int(self.event["steps"])

    @property
    def spent(self) -> dict[str, Any] | None:
        """The event to be composed; None where nothing was released or no ε covers it."""
        if self.event is None or self.unaccounted is not None or not self.steps:
            return None
        return {**self.event, "steps": self.steps}


def start_of_chain() -> str:
    """What stands for the checksum of the line before the first."""
    return hashlib.sha256(b"dpft/ledger/v1").hexdigest()


def encode(record: Mapping[str, Any], previous: str) -> bytes:
    """One line, without its line feed.

    Args:
        record: JSON values.
        previous: checksum of the line before.
    """
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    return body[:-1] + f',"checksum":"{_checksum(body, previous)}"}}'.encode()


def decode(line: bytes, sequence: int, previous: str) -> tuple[dict[str, Any], str]:
    """Check one line and read it.

    Args:
        line: without its line feed.
        sequence: its place, from 0.
        previous: checksum of the line before.

    Returns:
        The record and the line's checksum.

    Raises:
        Damage: it is not the line that was written there.
        PrivacyError: it was written by a newer dpft, whose meaning is not known.
    """
    found = _TAIL.search(line)
    if found is None:
        raise Damage("it is not a line of a ledger")
    body, checksum = line[: found.start()] + b"}", found.group(1).decode()
    if checksum != _checksum(body, previous):
        raise Damage("its checksum is not that of its content and of the lines before")
    record = json.loads(body)  # what has the right checksum was written by encode
    version = str(record.get("schema_version"))
    if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise PrivacyError(
            f"a ledger has lines of schema {version}; this dpft reads {SCHEMA_VERSION.partition('.')[0]}.x",
            hint="upgrade dpft: what it cannot read it cannot count",
        )
    if record.get("seq") != sequence:
        raise Damage(f"its number is {record.get('seq')}")
    return record, checksum


def apply(fingerprint: str, record: Mapping[str, Any], entries: dict[str, Entry]) -> None:
    """Let one line after the head change what stands; ``entries`` is in the order of charging.

    Raises:
        Damage: it makes no sense after the lines before it.
    """
    try:
        _apply(fingerprint, record, entries)
    except (KeyError, TypeError, ValueError, PrivacyError) as error:
        raise Damage("it cannot be understood after those before it") from error


def checked_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event's four fields, validated.

    Raises:
        PrivacyError: a field missing, unknown, or out of range: what cannot be accounted cannot be charged.
    """
    try:
        return Event.model_validate(dict(event), strict=True).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PrivacyError(
            f"an event that cannot be charged: {place}: {first['msg']}", hint="nothing was trained; report it"
        ) from error


def _apply(fingerprint: str, record: Mapping[str, Any], entries: dict[str, Entry]) -> None:
    kind, charge_id = record["kind"], str(record["charge_id"])
    if kind in ("charge", "unprotected"):
        if charge_id in entries:
            raise ValueError("charged twice under one id")
        entries[charge_id] = _new_entry(fingerprint, record)
        return
    entry = entries[charge_id]
    if kind == "advance":
        entries[charge_id] = replace(entry, mark=_count(record["upto"]))
    elif kind == "settle":
        if entry.settled is not None:
            raise ValueError("settled twice")
        entries[charge_id] = replace(
            entry, settled=_count(record["steps"]), unaccounted=record.get("unaccounted") or entry.unaccounted
        )
    else:
        raise ValueError("a line of an unknown kind")


def _new_entry(fingerprint: str, record: Mapping[str, Any]) -> Entry:
    private = record["kind"] == "charge"
    names = ("charge_id", "run_id", "name", "dataset", "source", "mode", "time")
    texts: dict[str, Any] = {name: str(record[name]) for name in names}
    return Entry(
        fingerprint=fingerprint,
        event=checked_event(record["event"]) if private else None,
        delta=_delta(record["delta"]) if private else None,
        start_step=_count(record["start_step"]),
        unaccounted=record.get("unaccounted"),
        **texts,
    )


def _count(value: object) -> int:
    if type(value) is not int or not value >= 0:
        raise ValueError(f"{value!r} is no number of steps")
    return value


def _delta(value: object) -> float:
    if not (type(value) is float and 0 < value < 1):
        raise ValueError(f"{value!r} is no δ")
    return value


def _checksum(body: bytes, previous: str) -> str:
    return hashlib.sha256(previous.encode() + b"\n" + body).hexdigest()
