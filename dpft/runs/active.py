"""A run while its process lives: its folder, its lock, and how it ends."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from filelock import FileLock, Timeout
from pydantic import ValidationError

from dpft.errors import DpftError, InterruptedRunError, LockedError, PrivacyError, StoreError
from dpft.runs.files import (
    CHECKPOINTS,
    LOCAL_ONLY,
    append_line,
    ensure_directory,
    file_table,
    remove,
    write_atomic,
    write_json_atomic,
)
from dpft.runs.record import RunRecord, save_record, utc_now
from dpft.runs.registry import Registry
from dpft.runs.schema import SCHEMA_VERSION
from dpft.runs.standing import standing_fields

__all__ = ["ActiveRun", "FinalStatus", "hold_if_free", "is_public_metric", "run_lock"]

_log = logging.getLogger(__name__)

FinalStatus = Literal["completed", "interrupted", "failed"]

_FIXED = {"schema_version", "run_id", "name", "status", "private", "created", "finished", "run_dir"}
_UNLISTED = {"files.json", "privacy.json", "run.json", "config.yaml"}
_PUBLIC = {"step", "epoch", "epsilon", "learning_rate"}
_README = """Do not share this folder.

What is in it was computed exactly from the private examples, without noise: losses of single steps, gradient
norms, realised batch sizes, counts of unusable rows. The guarantee in ../privacy.json does not cover it;
together with the released adapter it can show whether a certain example was in the training data. dpft leaves
it out of files.json and of every export. It may be deleted at any time.
"""


def is_public_metric(name: str) -> bool:
    """Whether ``metrics.jsonl``, which may be shared, may have this key."""
    return name in _PUBLIC or name.startswith("validation_")


def run_lock(run_dir: Path) -> FileLock:
    """The lock a living run holds; a new object each time, so that threads exclude each other too."""
    return FileLock(run_dir / ".lock", mode=0o600, thread_local=False)


@contextmanager
def hold_if_free(run_dir: Path) -> Iterator[bool]:
    """Take a run's lock if no living process has it.

    Yields:
        Whether it was free; it is then held inside the block, so that what is read there stays true.
    """
    lock = run_lock(run_dir)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


class ActiveRun:
    """A run that is being made; from :meth:`dpft.runs.store.Store.create`.

    Used as a context manager, it ends the run on the way out if :meth:`finish` was not called: as interrupted
    after Ctrl-C, else as failed. If the process dies instead, the lock dies with it, and the store reports
    the run as crashed.

    Args:
        record: its record.
        registry: where it is indexed.
        lock: its lock, held.
    """

    def __init__(self, record: RunRecord, registry: Registry, lock: FileLock) -> None:
        self._record = record
        self._registry = registry
        self._lock = lock
        self._began = time.monotonic()

    @property
    def record(self) -> RunRecord:
        """The record as it stands."""
        return self._record

    @property
    def directory(self) -> Path:
        """The run's folder."""
        return self._record.run_dir

    @property
    def adapter_dir(self) -> Path:
        """Where the adapter goes; not made here, so that it can be published in one step."""
        return self.directory / "adapter"

    @property
    def local_only(self) -> Path:
        """The folder for exact numbers about private examples; made on first use, with a warning in it."""
        folder = self.directory / LOCAL_ONLY
        if not folder.is_dir():
            ensure_directory(folder)
            write_atomic(folder / "README", _README)
        return folder

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go; not made here."""
        return self.directory / CHECKPOINTS

    @property
    def stands(self) -> bool:
        """Whether an earlier process of this run left an adapter whose statement is in place."""
        return standing_fields(self.directory) is not None

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``, which may be shared.

        It is for the step, the learning rate, ε so far and validation scores. Exact numbers about training
        examples go to :meth:`append_local_only`.

        Args:
            values: JSON values under ``step``, ``epoch``, ``epsilon``, ``learning_rate`` or a name that
                begins with ``validation_``; a number that is not finite is written as null.

        Raises:
            PrivacyError: another key, which might hold an exact number about training examples.
            StoreError: the disk is full; the line is not there, the ones before are.
        """
        private = [name for name in values if not is_public_metric(name)]
        if private:
            raise PrivacyError(
                f"{', '.join(private)} may not stand in metrics.jsonl, which is shared",
                hint="exact numbers about training examples go to local-only/ (append_local_only)",
            )
        append_line(self.directory / "metrics.jsonl", _json_line(values))

    def append_local_only(self, values: Mapping[str, Any]) -> None:
        """Add one line to ``local-only/training.jsonl``: a step's loss, gradient norms, realised batch size.

        Args:
            values: as for :meth:`append_metrics`.

        Raises:
            StoreError: as for :meth:`append_metrics`.
        """
        append_line(self.local_only / "training.jsonl", _json_line(values))

    def update(self, **fields: Any) -> RunRecord:
        """Change the record, in ``run.json`` and the registry.

        It writes and flushes two files: call it at milestones, not at every step.

        Args:
            fields: of :class:`RunRecord`, except those that are fixed (id, name, status, private, times).

        Returns:
            The new record.

        Raises:
            TypeError: an unknown or fixed field.
            PrivacyError: a privacy number out of range, or on a non-private run.
            StoreError: the run is finished, or cannot be written.
        """
        fixed = sorted(_FIXED & fields.keys())
        if fixed:
            raise TypeError(f"a run's {', '.join(fixed)} cannot be updated")
        self._check_open()
        self._save(self._record.revise(**fields))
        return self._record

    def retire_statement(self) -> None:
        """Take back manifest and file list, before the adapter they speak of is replaced by a later one.

        A process killed from here on leaves an adapter without a statement, which nothing exports.

        Raises:
            StoreError: they cannot be removed.
        """
        for name in ("privacy.json", "files.json"):
            remove(self.directory / name)

    def list_files(self, *, but: str = "") -> None:
        """Write ``files.json``: digests of all files that are final and may be shared (see :meth:`finish`).

        Args:
            but: a file that is not final yet.

        Raises:
            StoreError: it cannot be written.
        """
        table = [entry.to_json() for entry in file_table(self.directory, exclude=_UNLISTED | {but})]
        write_json_atomic(self.directory / "files.json", {"schema_version": SCHEMA_VERSION, "files": table})

    def finish(self, status: FinalStatus, *, manifest: Mapping[str, Any] | None, **fields: Any) -> RunRecord:
        """End the run and release its lock.

        The adapter is in its place already. Then, each atomically: ``files.json``, ``privacy.json``,
        ``run.json``, registry. So a folder with a manifest has everything the manifest speaks of, and
        whatever says "completed" has a manifest.

        ``files.json`` lists the digest of every file that is final and may be shared. It leaves out itself;
        ``privacy.json``, written after it; ``run.json``, whose tags and note may change later;
        ``config.yaml``, which names folders of this machine and the seed; locks; and ``local-only/``, since
        the digest of private numbers would let an outsider confirm a guess at them.

        Args:
            status: how it ended.
            manifest: ``Manifest.to_dict()``; None where there is nothing to state (never for a completed
                run).
            fields: of :class:`RunRecord`, as for :meth:`update`. Privacy numbers and steps are taken from the
                manifest, so that they cannot disagree; without one, from that of an earlier process, where
                its adapter stands; else no ε is recorded.

        Returns:
            The final record.

        Raises:
            TypeError: an unknown or fixed field.
            PrivacyError: a completed run without a manifest, a manifest that is not valid, or one that
                contradicts the record or ``fields``; nothing is written.
            StoreError: the run is finished already, or cannot be written.
        """
        self._check_open()
        if manifest is None and status == "completed":
            raise PrivacyError(
                f"run {self._record.run_id[:8]} cannot be completed without a manifest",
                hint="build a Manifest, which a non-private run has too",
            )
        if manifest is None:
            stated = standing_fields(self.directory) or {"epsilon": None, "delta": None}
        else:
            stated = self._stated(manifest, fields)
        fixed = sorted(_FIXED & fields.keys())
        if fixed:
            raise TypeError(f"a run's {', '.join(fixed)} cannot be set at its end")
        elapsed = {"seconds": round(time.monotonic() - self._began, 3)}
        record = self._record.revise(
            **{**elapsed, **fields, **stated, "status": status, "finished": utc_now()}
        )
        self.list_files()
        if manifest is not None:
            write_json_atomic(self.directory / "privacy.json", manifest)
        self._save(record)
        self.close()
        return record

    def close(self) -> None:
        """Release the lock; a run not finished is then reported as crashed. May be called again."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._record.status == "running":
                self._end(error)
        except DpftError as problem:  # the first error is the one to tell
            if error is None:
                raise
            _log.warning("run %s could not be closed: %s", self._record.run_id[:8], problem.message)
        finally:
            self.close()

    def _end(self, error: BaseException | None) -> None:
        """Finish a run that was left open; a foreign error's text may quote private rows and is not kept."""
        if isinstance(error, KeyboardInterrupt | InterruptedRunError):
            self.finish("interrupted", manifest=None)
        elif isinstance(error, DpftError):
            self.finish("failed", manifest=None, error=error.message)
        else:
            reason = "the run was left without an end" if error is None else type(error).__name__
            self.finish("failed", manifest=None, error=reason)

    def _check_open(self) -> None:
        if self._record.status != "running":
            raise StoreError(
                f"run {self._record.run_id[:8]} is {self._record.status} already", hint="start a new run"
            )

    def _save(self, record: RunRecord) -> None:
        """``run.json``, then the index: if that is locked, the next listing puts it right."""
        save_record(record)
        self._record = record
        try:
            with self._registry.transaction() as index:
                index.put(record)
        except LockedError as error:
            _log.warning("run %s is not indexed yet: %s", record.run_id[:8], error.message)

    def _stated(self, manifest: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        """The record's privacy fields as the manifest has them."""
        from dpft.runs.manifest import Manifest

        try:
            parsed = Manifest.model_validate(manifest)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise PrivacyError(
                f"the manifest is not valid: {place}: {first['msg']}", hint="pass Manifest.to_dict()"
            ) from error
        stated = parsed.record_fields()
        given = {"run_id": self._record.run_id, "private": self._record.private, **fields}
        for name, value in stated.items():
            if name in given and given[name] != value:
                raise PrivacyError(
                    f"the manifest says {name} is {value}, the run says {given[name]}",
                    hint="nothing was written; take these values from the manifest alone",
                )
        kept = {name: value for name, value in stated.items() if name not in _FIXED}
        return kept | ({"published_steps": parsed.steps} if parsed.evidence.tensors_sha256 else {})


def _json_line(values: Mapping[str, Any]) -> str:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(finite, ensure_ascii=False, allow_nan=False)
