"""A run that ended before its last step, and goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dpft.errors import LockedError, UsageError
from dpft.runs.active import ActiveRun, run_lock
from dpft.runs.files import CHECKPOINTS, append_line, write_atomic
from dpft.runs.record import RunRecord, save_record
from dpft.runs.registry import Registry
from dpft.runs.standing import published_steps, standing_fields

__all__ = ["TakenRun", "hold_or_refuse"]

_ABANDONED = "abandoned.jsonl"


@contextmanager
def hold_or_refuse(record: RunRecord) -> Iterator[FileLock]:
    """Hold a run's lock.

    Raises:
        LockedError: a living process has it.
    """
    lock = run_lock(record.run_dir)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LockedError(
            f"run {record.name} is being trained by another process",
            hint="wait until it ends, or stop it with Ctrl-C (or SIGTERM), which keeps what it has",
        ) from error
    try:
        yield lock
    finally:
        lock.release()


class TakenRun:
    """A run held by this process, and not yet begun again; from :meth:`dpft.runs.store.Store.take`.

    Attributes:
        record: as ``run.json`` has it, read while the lock is held.
    """

    def __init__(self, record: RunRecord, registry: Registry, lock: FileLock) -> None:
        if record.status == "completed":
            raise UsageError(
                f"run {record.name} is completed: there is nothing to resume",
                hint="train anew, with more --epochs if that is what is missing",
            )
        self.record = record
        self._registry = registry
        self._lock = lock

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.record.run_dir / CHECKPOINTS

    def begin(self, step: int) -> ActiveRun:
        """Make it a living run again, as it was after ``step`` steps.

        Its logs are cut back to there: what came after belongs to steps that are no part of this run's
        history any more, and to no ε of its manifest. It is kept in ``local-only/`` for whoever is curious.
        Scores after ``step`` itself go too: they are made again.

        An adapter that an earlier process left stands, with its manifest, its numbers in the record and the
        digests of its files, until the next is published: whatever becomes of this process, they are true.

        Raises:
            StoreError: the store cannot be written.
        """
        stands = standing_fields(self.record.run_dir)
        as_it_stands = (
            {"epsilon": None, "metrics": {}, "baselines": {}, "steps": step} if stands is None else stands
        )
        record = self.record.revise(
            status="running", finished=None, error=None, **as_it_stands, **self._published(step)
        )
        active = ActiveRun(record, self._registry, self._lock)
        if stands is None:
            active.retire_statement()
        else:
            active.list_files(but="metrics.jsonl")
        aside = active.local_only / _ABANDONED
        _cut_back(active.directory / "metrics.jsonl", step - 1, aside)
        _cut_back(active.local_only / "training.jsonl", step, aside)
        save_record(record)
        with self._registry.transaction() as index:
            index.put(record)
        return active

    def _published(self, step: int) -> dict[str, int]:
        """Which adapters of this run others may have, and whether this goes on with the last of them."""
        record = self.record
        last = max(record.published_steps, published_steps(record.run_dir))
        superseded = last if last > step else 0
        return {
            "published_steps": min(last, step),
            "superseded_steps": max(record.superseded_steps, superseded),
        }


def _cut_back(path: Path, step: int, aside: Path) -> None:
    """Keep a log's lines up to ``step``; a torn last line was never complete, and goes."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    stays = [line.endswith("\n") and _step(line) <= step for line in lines]
    if all(stays):
        return
    for line, kept in zip(lines, stays, strict=True):
        if not kept:
            append_line(aside, line.rstrip("\n"))
    write_atomic(path, "".join(line for line, kept in zip(lines, stays, strict=True) if kept))


def _step(line: str) -> float:
    try:
        found = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return float("inf")
    return found if isinstance(found, int) else float("inf")
