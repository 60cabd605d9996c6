"""What may be deleted for good: old trash, checkpoints of completed runs, what killed processes left.

The ledger is never among it, nor a manifest, an adapter in its place, a key, or a checkpoint that a run could
still go on from. Everything is looked at again, with its lock held, at the moment when it is deleted.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from dpft.errors import StoreError
from dpft.runs.active import hold_if_free
from dpft.runs.files import CHECKPOINTS, storing
from dpft.runs.record import load_record
from dpft.runs.registry import Registry
from dpft.runs.trash import removed_since

__all__ = ["Garbage", "collect", "delete", "size_of"]

Kind = Literal["trash", "checkpoints", "temporary", "prepared"]

_SETTLED = 3600.0  # seconds: no write of one file takes longer
_UNBORN = {".lock", "config.yaml"}  # all there is of a run whose process died while it made it


@dataclass(frozen=True)
class Garbage:
    """Something to delete.

    Attributes:
        kind: of what.
        path: a file or a folder.
        size: bytes.
        why: in words.
    """

    kind: Kind
    path: Path
    size: int
    why: str

    def to_json(self) -> dict[str, Any]:
        """As ``gc --json`` prints it."""
        return {"kind": self.kind, "path": str(self.path), "size": self.size, "why": self.why}


def collect(home: Path, cache: Path, *, older_than: float, prepared: bool = False) -> list[Garbage]:
    """Find it; nothing is changed.

    Args:
        home: the store.
        cache: ``DPFT_CACHE``.
        older_than: seconds since a run was removed, for the trash.
        prepared: prepared datasets too, which can be made again from their source.
    """
    found = [*_trash(home / "trash", older_than)]
    for folder in sorted(_folders(home / "runs")):
        found += _of_run(folder)
    found += _passing(home)
    for scratch in sorted(_folders(cache / "prepared")):
        if scratch.name.startswith("."):
            if _key_is_free(scratch):
                found.append(_garbage("temporary", scratch, "left by a killed 'prepare'"))
        elif prepared:
            found.append(_garbage("prepared", scratch, "prepared data, made again when needed"))
    return found


def delete(item: Garbage, home: Path) -> bool:
    """Delete it, if it may still be deleted.

    Args:
        item: from :func:`collect`.
        home: the store.

    Returns:
        Whether it was deleted: what a process has taken up meanwhile is left.

    Raises:
        StoreError: the system refuses.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(storing("delete", item.path))
        run_dir = next((path for path in item.path.parents if path.parent == home / "runs"), None)
        if item.path.parent == home / "runs":
            run_dir = item.path
        if run_dir is not None:
            if not stack.enter_context(hold_if_free(run_dir)):
                return False
            if item.path not in {again.path for again in _of_run(run_dir, held=True)}:
                return False
        elif item.kind == "trash":
            stack.enter_context(Registry(home).transaction())  # nobody restores it meanwhile
            if not item.path.is_dir():
                return False
        elif item.path.is_dir():
            lock = _key_lock(item.path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            stack.callback(lock.release)
        if item.path.is_dir():
            shutil.rmtree(item.path)
        else:
            item.path.unlink(missing_ok=True)
    return True


def size_of(path: Path) -> int:
    """Bytes in a file, or in all files of a folder; links are not followed."""
    total = 0
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with contextlib.suppress(OSError):
            if not file.is_dir():
                total += file.lstat().st_size
    return total


def _garbage(kind: Kind, path: Path, why: str) -> Garbage:
    return Garbage(kind, path, size_of(path), why)


def _folders(parent: Path) -> Iterator[Path]:
    """Real ones: a link is nobody's garbage."""
    if parent.is_dir():
        yield from (path for path in parent.iterdir() if path.is_dir() and not path.is_symlink())


def _trash(folder: Path, older_than: float) -> Iterator[Garbage]:
    now = time.time()
    for path in sorted(_folders(folder)):
        age = max(0.0, now - removed_since(path))  # a clock may be set back
        if age >= older_than:
            days = int(age // 86400)
            when = "today" if days < 1 else "a day ago" if days == 1 else f"{days} days ago"
            yield _garbage("trash", path, f"removed {when}")


def _of_run(folder: Path, *, held: bool = False) -> list[Garbage]:
    """What a run that is not running has no use for."""
    if held or not (folder / ".lock").exists():  # looking must leave no trace, not even a lock's file
        return [*_leavings(folder, held=held)]
    with hold_if_free(folder) as free:
        return [*_leavings(folder)] if free else []


def _leavings(folder: Path, *, held: bool = False) -> Iterator[Garbage]:
    if not (folder / "run.json").is_file():
        content = {path.name for path in folder.iterdir() if not _is_passing(path)}
        if content <= _UNBORN and (held or _is_settled(folder)):
            yield _garbage("temporary", folder, "a run whose process died before it began")
        return
    try:
        record = load_record(folder)
    except StoreError:
        return  # what cannot be read is not judged
    checkpoints = folder / CHECKPOINTS
    if record.status == "completed" and checkpoints.is_dir():
        yield _garbage("checkpoints", checkpoints, f"run {record.name} is completed")
        yield from _passing(folder)
        return
    yield from _passing(folder)
    if checkpoints.is_dir():
        yield from _passing(checkpoints)


def _passing(folder: Path) -> Iterator[Garbage]:
    """Half-written files and folders, and what was moved aside for something that is in its place now."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.name.startswith("."):
            continue
        place, aside, _ = path.name[1:].rpartition(".old-")
        if aside and path.is_dir() and (folder / place).is_dir():
            yield _garbage("temporary", path, "replaced by a later one")
        elif _is_passing(path) and _is_settled(path):
            yield _garbage("temporary", path, "left by a killed process")


def _is_passing(path: Path) -> bool:
    return path.name == ".adapter" or (path.name.startswith(".") and path.name.endswith(".tmp"))


def _is_settled(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _SETTLED


def _key_lock(entry: Path) -> FileLock:
    """The lock under which a prepared dataset is made, ``<key>.lock``; scratch is ``.<key>.<random>``."""
    key = entry.name[1:].rpartition(".")[0] if entry.name.startswith(".") else entry.name
    return FileLock(entry.parent / f"{key}.lock", mode=0o600, thread_local=False)


def _key_is_free(entry: Path) -> bool:
    lock = _key_lock(entry)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True
