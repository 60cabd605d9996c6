"""The index of runs: a TinyDB file that many processes may change at once.

TinyDB's own storage rewrites its file in place and knows no locks. Here one file lock is held around the
whole read-modify-write, and the file is replaced atomically. The index can be lost without loss: the run
folders are the truth, and a missing or unreadable index is rebuilt from them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tinydb import TinyDB, where
from tinydb.storages import Storage
from tinydb.table import Document, Table

from dpft.errors import LockedError, StoreError
from dpft.runs.files import ensure_directory, write_atomic
from dpft.runs.record import RunRecord, load_record, parse_record
from dpft.runs.schema import MIGRATIONS, SCHEMA_VERSION, Migration, major

__all__ = ["AtomicStorage", "Index", "Registry"]

_log = logging.getLogger(__name__)
_TABLE = "runs"

Records = list[RunRecord]


class _DamagedIndexError(Exception):
    """The index cannot be read and must be rebuilt; never leaves this module.

    Args:
        why: in words.
        version: of an index that is whole, and of an older major.
    """

    def __init__(self, why: str, version: str = "") -> None:
        super().__init__(why)
        self.version = version


class AtomicStorage(Storage):
    """TinyDB storage whose file is replaced as a whole, with the schema version at its top.

    It takes no lock: :class:`Registry` holds one around every use that writes.

    Args:
        path: the JSON file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, dict[str, Any]] | None:
        """The tables, or None where the file is missing.

        Raises:
            StoreError: the file was written by a newer dpft.
        """
        try:
            document = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(
                f"could not read {self._path}: {error.strerror}", hint="check its owner and permissions"
            ) from error
        except (ValueError, RecursionError) as error:
            raise _DamagedIndexError("not valid JSON") from error
        if not isinstance(document, dict):
            raise _DamagedIndexError("not a JSON object")
        self._check_version(document)
        tables = {name: table for name, table in document.items() if name != "schema_version"}
        if not all(isinstance(table, dict) for table in tables.values()):
            raise _DamagedIndexError("a table is not a JSON object")
        return tables

    def write(self, data: dict[str, dict[str, Any]]) -> None:
        """Replace the file.

        Raises:
            StoreError: the disk is full or the folder cannot be written; the old index is intact.
        """
        document = {"schema_version": SCHEMA_VERSION, **data}
        write_atomic(self._path, json.dumps(document, ensure_ascii=False, allow_nan=False, default=dict))

    def _check_version(self, document: Mapping[str, Any]) -> None:
        try:
            theirs = major(document, self._path)
        except StoreError as error:
            raise _DamagedIndexError(error.message) from error
        ours = major({"schema_version": SCHEMA_VERSION}, self._path)
        if theirs > ours:
            raise StoreError(
                f"{self._path} has schema {document['schema_version']}; this dpft reads up to {ours}.x",
                hint="upgrade dpft to open this store",
            )
        if theirs < ours:
            version = str(document["schema_version"])
            raise _DamagedIndexError(f"schema {version} is older", version)


class Index:
    """The registry's content, while its lock is held.

    Args:
        table: TinyDB's.
        runs: the folder of the run folders.
    """

    def __init__(self, table: Table, runs: Path) -> None:
        self._table = table
        self._runs = runs

    def records(self) -> Records:
        """All records, in the order they were first put."""
        return [parse_record(document, self._runs / document["run_id"]) for document in self._table.all()]

    def put(self, record: RunRecord) -> None:
        """Insert the record, or replace the one with its id."""
        document = record.model_dump(mode="json")
        known = self._table.get(where("run_id") == record.run_id)
        if isinstance(known, Document):
            self._table.update(document, doc_ids=[known.doc_id])
        else:
            self._table.insert(document)

    def remove(self, record: RunRecord) -> None:
        """Forget a record; one that is not there is no error."""
        self._table.remove(where("run_id") == record.run_id)


class Registry:
    """``registry.json`` of a store.

    Args:
        home: the store.
        lock_timeout: seconds to wait for another process before giving up.
        migrations: for the records of older majors that it finds when it is rebuilt.
    """

    def __init__(
        self, home: Path, *, lock_timeout: float = 30.0, migrations: Mapping[str, Migration] = MIGRATIONS
    ) -> None:
        self._home = home
        self._path = home / "registry.json"
        self._runs = home / "runs"
        self._lock_timeout = lock_timeout
        self._migrations = migrations

    def records(self) -> Records:
        """All records, as indexed. Reads without the lock: the file is only ever replaced whole.

        Raises:
            StoreError: the index was written by a newer dpft.
            LockedError: it must be rebuilt, and another process holds the lock.
        """
        try:
            tables = self._read()
            return [self._parse(document) for document in (tables or {}).get(_TABLE, {}).values()]
        except _DamagedIndexError:
            with self.transaction() as index:
                return index.records()

    def damage(self) -> str | None:
        """Why the index would have to be rebuilt; None where it can be read. Mends nothing.

        Raises:
            StoreError: the index was written by a newer dpft, or may not be read.
        """
        try:
            for document in (self._read() or {}).get(_TABLE, {}).values():
                self._parse(document)
        except _DamagedIndexError as damage:
            return str(damage)
        return None

    @contextmanager
    def transaction(self) -> Iterator[Index]:
        """Hold the lock around a read-modify-write. Keep it short; never train inside.

        Raises:
            LockedError: another process holds the lock for longer than the time-out.
            StoreError: the index was written by a newer dpft, or cannot be written.
        """
        with self._locked():
            try:
                tables = self._read()
                for document in (tables or {}).get(_TABLE, {}).values():
                    self._parse(document)
            except _DamagedIndexError as damage:
                self._rebuild(str(damage), damage.version)
            yield Index(TinyDB(self._path, storage=AtomicStorage).table(_TABLE), self._runs)

    def rebuild(self) -> Records:
        """Write the index anew from the run folders.

        A folder whose ``run.json`` cannot be read is left alone, and told of in the log.

        Returns:
            The records found, oldest first.

        Raises:
            LockedError: another process holds the lock for longer than the time-out.
            StoreError: the index cannot be written, or was written by a newer dpft.
        """
        with self._locked():
            self.damage()
            return self._rebuild("")

    def _read(self) -> dict[str, dict[str, Any]] | None:
        tables = AtomicStorage(self._path).read()
        if tables is None and self._runs.is_dir() and any(self._runs.iterdir()):
            raise _DamagedIndexError("missing")
        return tables

    def _parse(self, document: object) -> RunRecord:
        if not isinstance(document, dict) or not isinstance(document.get("run_id"), str):
            raise _DamagedIndexError("an entry is not a run record")
        try:
            return parse_record(document, self._runs / document["run_id"])
        except StoreError as error:
            raise _DamagedIndexError(error.message) from error

    def _rebuild(self, damage: str, version: str = "") -> Records:
        """Write the index from the run folders, after a backup of the old one; the lock is held."""
        records = sorted(self._scan(), key=lambda record: (record.created, record.run_id))
        if damage and self._path.exists():
            moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
            what = f"schema-{version}.bak" if version else f"corrupt-{moment}"
            kept = self._path.with_name(f"{self._path.name}.{what}")
            write_atomic(kept, self._path.read_bytes())
            _log.warning(
                "%s: %s; kept as %s, rebuilt with %d runs", self._path, damage, kept.name, len(records)
            )
        elif damage and records:
            _log.warning("%s was missing; rebuilt with %d runs", self._path, len(records))
        table = {
            str(number): record.model_dump(mode="json") for number, record in enumerate(records, start=1)
        }
        AtomicStorage(self._path).write({_TABLE: table})
        return records

    def _scan(self) -> Iterator[RunRecord]:
        for path in self._runs.glob("*/run.json"):
            try:
                yield load_record(path.parent, self._migrations)
            except StoreError as error:
                _log.warning("left out of the registry: %s", error.message)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        ensure_directory(self._home)
        lock = FileLock(self._home / "registry.lock", mode=0o600)
        try:
            lock.acquire(timeout=self._lock_timeout, poll_interval=0.01)
        except Timeout as error:
            raise LockedError(
                f"{self._path} is locked by another process for more than {self._lock_timeout:g} s",
                hint="try again when the other dpft command has ended",
            ) from error
        except OSError as error:
            raise StoreError(
                f"could not lock {self._path}: {error.strerror}",
                hint="check the store's owner and permissions",
            ) from error
        try:
            yield
        finally:
            lock.release()
