"""Runs that were removed: moved aside whole, to be restored, or emptied by ``dpft gc``.

The ledger is another matter: what a run released it released, whatever becomes of its files. Nothing here
knows where the ledger is.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dpft.errors import NotFoundError, StoreError, UsageError
from dpft.runs.again import hold_or_refuse
from dpft.runs.files import ensure_directory, storing, write_atomic
from dpft.runs.names import check_name
from dpft.runs.record import RunRecord, load_record, save_record
from dpft.runs.registry import Registry

__all__ = ["Trash", "TrashedRun", "removed_since"]

_MARK = ".trashed"


@dataclass(frozen=True)
class TrashedRun:
    """A run in the trash.

    Attributes:
        record: its record; its ``run_dir`` is in the trash.
        since: when it was removed, in seconds since the epoch.
    """

    record: RunRecord
    since: float


class Trash:
    """``trash/`` of a store.

    Args:
        home: the store.
        registry: of the store.
    """

    def __init__(self, home: Path, registry: Registry) -> None:
        self._home = home
        self._registry = registry
        self.folder = home / "trash"

    def runs(self) -> list[TrashedRun]:
        """What is in it, the last removed first; folders that hold no run are left out."""
        found = []
        for path in self.folder.glob("*/run.json"):
            try:
                found.append(TrashedRun(load_record(path.parent), removed_since(path.parent)))
            except StoreError:
                continue
        return sorted(found, key=lambda run: (run.since, run.record.run_id), reverse=True)

    def put(self, record: RunRecord) -> Path:
        """Move a run there, and forget it in the registry.

        Returns:
            Where it is now.

        Raises:
            LockedError: it is running, or another process holds the registry.
            NotFoundError: it is gone by now.
            StoreError: it cannot be moved; it is then still where it was.
        """
        target = ensure_directory(self.folder) / record.run_id
        with self._registry.transaction() as index:
            if not record.run_dir.is_dir():
                raise NotFoundError(
                    f"run {record.name} is no longer there",
                    hint="another command removed it",
                )
            with hold_or_refuse(record) as lock, storing("remove", record.run_dir):
                if target.exists():  # what a restored run left behind
                    shutil.rmtree(target)
                if os.name == "nt":
                    lock.release()  # Windows moves no folder with an open file in it
                write_atomic(record.run_dir / _MARK, f"{time.time():.0f}\n")
                with _unmarked_if_kept(record.run_dir), _moved(record.run_dir, target):
                    index.remove(record)
        return target

    def restore(self, run: TrashedRun, name: str | None = None) -> RunRecord:
        """Put a run back.

        Args:
            run: from :meth:`runs`.
            name: a new name; None to keep its own.

        Returns:
            Its record, as it is again.

        Raises:
            UsageError: another run has the name by now, or it cannot be a name.
            NotFoundError: it is no longer in the trash.
            StoreError: it cannot be moved.
        """
        wanted = run.record.name if name is None else check_name(name)
        place = self._home / "runs" / run.record.run_id
        with self._registry.transaction() as index:
            if not run.record.run_dir.is_dir():
                raise NotFoundError(
                    f"run {run.record.name} is no longer in the trash", hint="see 'dpft list'"
                )
            for other in index.records():
                if other.name.casefold() == wanted.casefold() and other.run_dir.is_dir():
                    raise UsageError(
                        f"the name {wanted!r} is taken by run {other.run_id[:8]}",
                        hint="restore it under another one: --name NAME",
                    )
            with storing("restore", place):
                ensure_directory(place.parent)
                _clear_empty(place)
                with _moved(run.record.run_dir, place):
                    record = load_record(place)
                    if wanted != record.name:
                        record = record.revise(name=wanted)
                        save_record(record)
                    index.put(record)
                (place / _MARK).unlink(missing_ok=True)
        return record


def removed_since(folder: Path) -> float:
    """When a run was removed, in seconds since the epoch.

    Args:
        folder: it, in the trash.

    Returns:
        As marked then, or else when the folder itself last changed.
    """
    try:
        return float((folder / _MARK).read_text())
    except (OSError, ValueError):
        return folder.stat().st_ctime


@contextmanager
def _moved(place: Path, target: Path) -> Iterator[None]:
    """Move a folder for what is done meanwhile; back again where that fails."""
    place.rename(target)
    try:
        yield
    except BaseException:
        target.rename(place)
        raise


@contextmanager
def _unmarked_if_kept(place: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        (place / _MARK).unlink(missing_ok=True)
        raise


def _clear_empty(place: Path) -> None:
    """Remove a folder with nothing but a lock in it: somebody tried the lock of the run that is gone."""
    if place.is_dir() and {path.name for path in place.iterdir()} <= {".lock"}:
        shutil.rmtree(place)
