"""The store: run folders, their index, and references to them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dpft.errors import NotFoundError, StoreError, UsageError
from dpft.runs import paths
from dpft.runs.active import ActiveRun, hold_if_free, run_lock
from dpft.runs.again import TakenRun, hold_or_refuse
from dpft.runs.files import ensure_directory, write_atomic
from dpft.runs.names import check_name, check_note, check_tag, invent_name
from dpft.runs.record import RunRecord, load_record, new_run_id, save_record, utc_now
from dpft.runs.references import find
from dpft.runs.registry import Index, Registry
from dpft.runs.schema import MIGRATIONS, Migration, migrate, read_document
from dpft.runs.standing import standing_fields
from dpft.runs.trash import Trash
from dpft.spec import RunSpec

__all__ = ["Store"]

Records = list[RunRecord]  # inside the class, "list" is a method

_CRASHED = "the process ended without finishing the run"


class Store:
    """All runs of a user.

    Args:
        home: the folder; None for :func:`dpft.runs.paths.home`.
        lock_timeout: seconds to wait for another process that holds the registry.
        migrations: for documents of older majors; each is migrated after a backup.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        lock_timeout: float = 30.0,
        migrations: Mapping[str, Migration] = MIGRATIONS,
    ) -> None:
        self.home = ensure_directory(home) if home is not None else paths.home()
        self._runs = self.home / "runs"
        self._registry = Registry(self.home, lock_timeout=lock_timeout, migrations=migrations)

    def create(self, spec: RunSpec) -> ActiveRun:
        """Begin a run: id, name, folder with ``run.json`` and ``config.yaml``, lock and index entry.

        Args:
            spec: the resolved spec; its name, if it has one, must be free.

        Returns:
            The run, to be used as a context manager.

        Raises:
            UsageError: the name is taken, or cannot name a run; a tag or note that may not be one.
            LockedError: another process holds the registry.
            StoreError: the store cannot be written; no trace of the run is left.
        """
        if spec.name is not None:
            check_name(spec.name)
        for tag in spec.tags:
            check_tag(tag)
        check_note(spec.note)
        run_id = new_run_id()
        directory = ensure_directory(self._runs) / run_id
        ensure_directory(directory)
        lock = run_lock(directory)
        try:
            lock.acquire(timeout=0)
            document = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            write_atomic(directory / "config.yaml", document)
            with self._registry.transaction() as index:
                record = _first_record(spec, directory, _choose_name(spec.name, index))
                save_record(record)
                index.put(record)
        except BaseException:
            lock.release()
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return ActiveRun(record, self._registry, lock)

    @contextmanager
    def take(self, record: RunRecord) -> Iterator[TakenRun]:
        """Hold a run that has ended, to see whether it can go on.

        Yields:
            The run, which nobody else can take meanwhile; nothing of it is changed.

        Raises:
            LockedError: a living process has it.
            UsageError: it is completed.
            StoreError: its ``run.json`` is damaged.
        """
        with hold_or_refuse(record) as lock:
            yield TakenRun(load_record(record.run_dir), self._registry, lock)

    def list(self) -> Records:
        """All runs, newest first.

        A run marked as running whose lock is free has crashed; that is written down here, without an ε, for
        what it released is not known; or with that of an earlier process, whose adapter stands. Only the
        locks of runs marked as running are looked at.

        Raises:
            StoreError: the store was written by a newer dpft, or cannot be read.
            LockedError: the index must be mended, and another process holds it.
        """
        records = self._registry.records()
        if any(record.status == "running" for record in records):
            records = self._settle()
        present = {path.name for path in self._runs.iterdir()} if self._runs.is_dir() else set()
        found = [record for record in records if record.run_id in present]
        return sorted(found, key=lambda record: (record.created, record.run_id), reverse=True)

    def resolve(self, ref: str) -> RunRecord:
        """The run a reference means: an id, a prefix that only one id has, a name, ``@latest``, or ``@N``.

        Args:
            ref: the reference; ``@1`` is the newest run, ``@2`` the one before.

        Raises:
            AmbiguousError: several ids begin so; the message lists them.
            NotFoundError: there is no such run; the hint has the nearest names.
        """
        return find(ref, self.list())

    @property
    def trash(self) -> Trash:
        """What was removed."""
        return Trash(self.home, self._registry)

    def annotate(
        self, record: RunRecord, *, tags: tuple[str, ...] | None = None, note: str | None = None
    ) -> RunRecord:
        """Give a run other tags or another note, in ``run.json`` and the registry.

        Returns:
            The new record.

        Raises:
            UsageError: a tag or note that may not be one.
            LockedError: the run is running: its process would write over it.
            StoreError: the store cannot be written.
        """
        for tag in tags or ():
            check_tag(tag)
        check_note(note or "")
        with hold_or_refuse(record):
            truth = load_record(record.run_dir)
            changed = truth.revise(
                tags=truth.tags if tags is None else tags, note=truth.note if note is None else note
            )
            save_record(changed)
            with self._registry.transaction() as index:
                index.put(changed)
        return changed

    def manifest(self, record: RunRecord) -> dict[str, Any]:
        """The run's ``privacy.json``; never migrated, since it is evidence.

        Raises:
            NotFoundError: the run has none.
            StoreError: it is damaged, or of a newer major.
        """
        path = record.run_dir / "privacy.json"
        if not path.is_file():
            raise NotFoundError(
                f"run {record.name} has no manifest: it is {record.status}",
                hint="only runs that came to an end have one; see 'dpft list --all'",
            )
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(f"{path} cannot be read", hint="restore it from a backup") from error
        identity = document.get("identity") if isinstance(document, dict) else None
        migrate(dict(identity) if isinstance(identity, dict) else {}, path)
        return dict(document)

    def files(self, record: RunRecord) -> dict[str, Any]:
        """The run's ``files.json``.

        Raises:
            StoreError: missing, damaged, or of a newer major.
        """
        return read_document(record.run_dir / "files.json")

    def spec(self, record: RunRecord) -> RunSpec:
        """What the run was asked to do, from its ``config.yaml``.

        Raises:
            StoreError: missing, damaged, or of a newer major.
        """
        path = record.run_dir / "config.yaml"
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise StoreError(f"{path} cannot be read", hint="restore it from a backup") from error
        migrated = migrate(document if isinstance(document, dict) else {}, path)
        try:
            return RunSpec.model_validate(migrated)
        except (ValidationError, UsageError) as error:
            raise StoreError(f"{path} is not a run's spec", hint="restore it from a backup") from error

    def rebuild(self) -> Records:
        """Write the registry anew from the run folders, which are the truth.

        Returns:
            All runs, newest first.

        Raises:
            LockedError: another process holds the registry.
            StoreError: it cannot be written.
        """
        self._registry.rebuild()
        return self.list()

    def _settle(self) -> Records:
        """Correct the status of runs that are marked as running and are not."""
        with self._registry.transaction() as index:
            for record in index.records():
                if record.status != "running":
                    continue
                if record.run_dir.is_dir():
                    self._settle_one(record, index)
                else:
                    index.remove(record)
            return index.records()

    def _settle_one(self, record: RunRecord, index: Index) -> None:
        with hold_if_free(record.run_dir) as free:
            if not free:
                return
            try:
                truth = load_record(record.run_dir)
            except StoreError:
                truth = record  # its run.json is lost; the index is all there is
            if truth.status == "running":
                stands = standing_fields(truth.run_dir) or {"epsilon": None, "delta": None}
                truth = truth.revise(status="crashed", error=_CRASHED, **stands)
                save_record(truth)
            index.put(truth)


def _choose_name(wanted: str | None, index: Index) -> str:
    taken = {record.name.casefold(): record for record in index.records()}
    if wanted is None:
        return invent_name(taken)
    holder = taken.get(wanted.casefold())
    if holder is not None and holder.run_dir.is_dir():
        raise UsageError(
            f"the name {wanted!r} is taken by run {holder.run_id[:8]} of {holder.created[:10]}",
            hint="choose another --name, or leave it out to have one invented",
        )
    return wanted


def _first_record(spec: RunSpec, directory: Path, name: str) -> RunRecord:
    return RunRecord(
        run_id=directory.name,
        name=name,
        dataset=spec.data.dataset,
        finetune_mode=spec.tuning.mode,
        model_checkpoint=spec.model.checkpoint,
        status="running",
        private=spec.privacy.enabled,
        target_epsilon=spec.privacy.target_epsilon if spec.privacy.enabled else None,
        created=utc_now(),
        tags=spec.tags,
        note=spec.note,
        run_dir=directory,
    )
