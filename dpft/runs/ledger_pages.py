"""One ledger's file while it is locked: read and checked as a whole, mended if torn, appended to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpft.errors import PrivacyError, StoreError
from dpft.runs.files import append_durably, cut_off, write_atomic
from dpft.runs.ledger_entries import SCHEMA_VERSION, Damage, Entry, apply, decode, encode, start_of_chain
from dpft.runs.record import utc_now

__all__ = ["Pages", "key_check_of"]


class Pages:
    """One ledger's lines, while it is locked: read and checked as a whole, then added to.

    Args:
        path: the file; it need not exist.
        fingerprint: that it must be of.
        check: check value of the store's key.
        warn: told of a torn line.

    Raises:
        PrivacyError: it is damaged.
        StoreError: it cannot be read.
    """

    def __init__(
        self, path: Path, fingerprint: str, check: str, warn: Callable[[str], object] | None
    ) -> None:
        self._path, self._fingerprint, self._check = path, fingerprint, check
        self._length = 0
        self._last = start_of_chain()
        self._entries: dict[str, Entry] = {}
        *lines, tail = _read(path).split(b"\n")
        for number, line in enumerate(lines):
            try:
                self._take(line)
            except Damage as damage:
                raise _damaged(path, number, damage) from damage
        if tail:
            self._mend(lines, tail, warn)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All charges as they stand."""
        return tuple(self._entries.values())

    def get(self, charge_id: str) -> Entry | None:
        """One charge, if it is here."""
        return self._entries.get(charge_id)

    def open_charge(self, charge_id: str) -> Entry:
        """A charge that is not settled.

        Raises:
            PrivacyError: it is, or is gone.
        """
        entry = self.get(charge_id)
        if entry is None or entry.settled is not None:
            state = "is not in the ledger" if entry is None else f"is settled, at {entry.settled} steps"
            raise PrivacyError(
                f"charge {charge_id} {state}",
                hint="another process took this run for dead; take no more steps",
            )
        return entry

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a line, and return when it is on the disk."""
        if not self._length:
            self._append({"kind": "ledger", "fingerprint": self._fingerprint, "key_check": self._check})
        self._append(record)

    def _append(self, record: Mapping[str, Any]) -> None:
        head = {"schema_version": SCHEMA_VERSION, "seq": self._length, "time": utc_now()}
        line = encode({**head, **record}, self._last)
        append_durably(self._path, line)
        self._take(line)

    def _take(self, line: bytes) -> None:
        record, checksum = decode(line, self._length, self._last)
        if self._length:
            apply(self._fingerprint, record, self._entries)
        elif (record.get("kind"), record.get("fingerprint")) != ("ledger", self._fingerprint):
            raise Damage("it is not the head of this dataset's ledger")
        self._length += 1
        self._last = checksum

    def _mend(self, lines: Sequence[bytes], tail: bytes, warn: Callable[[str], object] | None) -> None:
        """Keep the last line if only its line feed is missing; else set it aside, as never acknowledged."""
        try:
            self._take(tail)
        except Damage:
            aside = self._path.with_name(f"{self._path.name}.torn-{re.sub('[^0-9TZ]', '', utc_now())}")
            write_atomic(aside, tail)
            cut_off(self._path, sum(len(line) + 1 for line in lines))
            if warn is not None:
                warn(
                    f"the last line of the ledger {self._path.name[:8]} was torn, as by a power cut; it "
                    f"was set aside as {aside.name}, and nothing that was spent is lost"
                )
        else:
            append_durably(self._path, b"")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StoreError(f"could not read {path}: {error.strerror}", hint="check its permissions") from error


def key_check_of(path: Path) -> str | None:
    """What a ledger's head keeps of its key; None where a torn head is all there is."""
    try:
        with path.open("rb") as stream:
            head = stream.readline()
    except OSError as error:
        raise StoreError(f"could not read {path}: {error.strerror}", hint="check its permissions") from error
    if not head.endswith(b"\n"):
        return None
    try:
        record, _ = decode(head[:-1], 0, start_of_chain())
    except Damage as damage:
        raise _damaged(path, 0, damage) from damage
    return str(record.get("key_check"))


def _damaged(path: Path, number: int, damage: Damage) -> PrivacyError:
    return PrivacyError(
        f"the ledger is damaged: {path}, line {number + 1}: {damage}",
        hint="restore the file from a backup: what was spent cannot be told, so nothing more may be",
    )
