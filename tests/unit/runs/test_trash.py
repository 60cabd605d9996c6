"""Runs removed, restored, and deleted for good."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from dpft.errors import LockedError, NotFoundError, StoreError, UsageError
from dpft.runs.collect import collect, delete, size_of
from dpft.runs.record import RunRecord, load_record
from dpft.runs.store import Store
from dpft.runs.trash import Trash

from .builders import make_spec, ordinary_parts
from .test_store import manifest_of

DAY = 86_400.0


def finished(store: Store, name: str | None = None, *, completed: bool = False) -> RunRecord:
    with store.create(make_spec(name, private=not completed)) as run:
        run.append_metrics({"step": 1, "validation_accuracy": 0.5})
        if not completed:
            return run.finish("failed", manifest=None)
        return run.finish("completed", manifest=manifest_of(ordinary_parts(run.record.run_id)))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def old(path: Path, seconds: float = DAY) -> Path:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return path


def test_a_removed_run_comes_back_as_it_was(store: Store) -> None:
    kept, gone = finished(store, "kept"), finished(store, "gone")
    before = files(gone.run_dir)
    assert store.trash.put(gone) == store.home / "trash" / gone.run_id
    assert [record.name for record in store.list()] == ["kept"]
    with pytest.raises(NotFoundError):
        store.resolve("gone")
    assert [record.name for record in Store().rebuild()] == ["kept"]  # nor is it indexed again
    (removed,) = store.trash.runs()
    assert removed.record.run_id == gone.run_id
    assert abs(removed.since - time.time()) < 60
    back = store.trash.restore(removed)
    assert (back.run_dir, files(back.run_dir)) == (gone.run_dir, before)
    assert {record.name for record in store.list()} == {"kept", "gone"}
    assert store.trash.runs() == []
    assert kept.run_dir.is_dir()


def test_a_name_taken_meanwhile(store: Store) -> None:
    store.trash.put(finished(store, "mine"))
    other = finished(store, "MINE")
    (removed,) = store.trash.runs()
    with pytest.raises(UsageError, match="taken") as caught:
        store.trash.restore(removed)
    assert "--name" in caught.value.hint
    back = store.trash.restore(removed, "mine-too")
    assert {record.name for record in store.list()} == {"mine-too", other.name}
    assert load_record(back.run_dir).name == "mine-too"


def test_a_running_run_is_not_touched(store: Store) -> None:
    run = store.create(make_spec("busy"))
    before = files(store.home)
    with pytest.raises(LockedError) as caught:
        store.trash.put(run.record)
    assert caught.value.exit_code == 5
    assert files(store.home).keys() == before.keys()
    assert run.directory.is_dir()
    run.close()
    (record,) = store.list()
    assert record.status == "crashed"
    store.trash.put(record)


def test_removed_twice_or_restored_twice(store: Store) -> None:
    record = finished(store)
    store.trash.put(record)
    with pytest.raises(NotFoundError, match="no longer there"):
        store.trash.put(record)
    (removed,) = store.trash.runs()
    store.trash.restore(removed)
    with pytest.raises(NotFoundError, match="no longer in the trash"):
        store.trash.restore(removed)


def test_the_removal_can_be_repeated_after_a_restoration(store: Store) -> None:
    record = finished(store)
    for _ in range(3):
        store.trash.put(record)
        (removed,) = store.trash.runs()
        record = store.trash.restore(removed)
    assert [found.run_id for found in store.list()] == [record.run_id]


def test_a_disk_that_refuses_leaves_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    record = finished(store)

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match="could not remove"):
        store.trash.put(record)
    monkeypatch.undo()
    assert [found.run_id for found in Store(store.home).list()] == [record.run_id]


def test_a_disk_that_is_full_leaves_the_run_on_either_side(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = finished(store)
    before = files(store.home)

    def full(*data: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def replace_but_the_index(source: object, target: Path, real: object = os.replace) -> None:
        if target.name == "registry.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)  # type: ignore[operator]

    for refusal in (full, replace_but_the_index):
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", refusal)
            with pytest.raises(StoreError, match="No space"):
                store.trash.put(record)
        assert files(store.home) == before
    store.trash.put(record)
    (removed,) = store.trash.runs()
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(StoreError, match="No space"):
            store.trash.restore(removed, "another")
    assert store.trash.runs() == [removed]
    assert store.list() == []
    assert store.trash.restore(removed).name == record.name


REMOVER = """
import sys
from dpft.errors import DpftError
from dpft.runs.store import Store

store = Store()
for number in range(20):
    try:
        if sys.argv[1] == "remove":
            store.trash.put(store.resolve("mine"))
        else:
            store.trash.restore(store.trash.runs()[0])
    except (DpftError, IndexError):
        pass
"""


def test_two_processes_at_odds_lose_nothing(store: Store) -> None:
    before = files(finished(store, "mine").run_dir)
    workers = [subprocess.Popen([sys.executable, "-c", REMOVER, verb]) for verb in ("remove", "restore")]
    assert [worker.wait() for worker in workers] == [0, 0]
    for removed in store.trash.runs():
        store.trash.restore(removed)
    (record,) = store.list()
    assert files(record.run_dir) == before


def test_tags_and_notes(store: Store) -> None:
    record = finished(store)
    changed = store.annotate(record, tags=("a", "b"))
    changed = store.annotate(record, note="größer\nals zuvor")  # the tags stay, whoever has the old record
    assert (changed.tags, changed.note) == (("a", "b"), "größer\nals zuvor")
    assert store.list() == [changed]
    assert load_record(record.run_dir) == changed
    for wrong in ({"tags": ("a/b",)}, {"note": "\x1b[2J"}):
        with pytest.raises(UsageError):
            store.annotate(record, **wrong)
    with store.create(make_spec()) as run, pytest.raises(LockedError):
        store.annotate(run.record, note="too early")


class TestCollect:
    def found(self, store: Store, *, older_than: float = 0.0, prepared: bool = False) -> dict[str, str]:
        cache = Path(os.environ["DPFT_CACHE"])
        items = collect(store.home, cache, older_than=older_than, prepared=prepared)
        return {item.path.name: item.kind for item in items}

    def sweep(self, store: Store, *, prepared: bool = False) -> list[bool]:
        cache = Path(os.environ["DPFT_CACHE"])
        items = collect(store.home, cache, older_than=0.0, prepared=prepared)
        return [delete(item, store.home) for item in items]

    def test_a_tidy_store_has_none(self, store: Store) -> None:
        finished(store)
        finished(store, completed=True)
        store.create(make_spec()).close()
        assert self.found(store, prepared=True) == {}

    def test_the_trash_by_its_age(self, store: Store) -> None:
        record = finished(store)
        folder = store.trash.put(record)
        assert self.found(store, older_than=DAY) == {}
        (folder / ".trashed").write_text(f"{time.time() - 3 * DAY:.0f}\n")
        assert self.found(store, older_than=DAY) == {record.run_id: "trash"}
        assert self.found(store, older_than=4 * DAY) == {}
        assert self.sweep(store) == [True]
        assert not folder.exists()
        assert store.trash.runs() == []

    def test_checkpoints_of_completed_runs_only(self, store: Store) -> None:
        for record in (finished(store, completed=True), finished(store)):
            (record.run_dir / "checkpoints" / "step-000007").mkdir(parents=True)
            (record.run_dir / "checkpoints" / "step-000007" / "state.json").write_text("{}")
        busy = store.create(make_spec())
        (busy.directory / "checkpoints").mkdir()
        assert self.found(store) == {"checkpoints": "checkpoints"}
        assert self.sweep(store) == [True]
        left = [record.status for record in store.list() if (record.run_dir / "checkpoints").is_dir()]
        assert sorted(left) == ["failed", "running"]
        busy.close()

    def test_what_killed_processes_left(self, store: Store) -> None:
        crashed, whole = finished(store).run_dir, finished(store).run_dir
        (crashed / ".adapter").mkdir()
        (crashed / ".run.json.abc.tmp").write_text("half")
        (crashed / "checkpoints" / ".step-000007-ab.tmp").mkdir(parents=True)
        fresh = crashed / ".metrics.xyz.tmp"
        fresh.write_text("at this moment")
        for folder in (crashed, whole):
            (folder / ".adapter.old-1234").mkdir()
        (whole / "adapter").mkdir()
        unborn = store.home / "runs" / ("f" * 16)
        unborn.mkdir()
        (unborn / "config.yaml").write_text("x")
        (store.home / ".registry.json.q.tmp").write_text("half")
        for name in (".adapter", ".run.json.abc.tmp", "checkpoints/.step-000007-ab.tmp"):
            old(crashed / name)
        old(unborn)
        old(store.home / ".registry.json.q.tmp")
        expected = {
            ".adapter", ".run.json.abc.tmp", ".step-000007-ab.tmp", ".adapter.old-1234", "f" * 16,
            ".registry.json.q.tmp",
        }  # fmt: skip
        assert set(self.found(store)) == expected
        assert all(self.sweep(store))
        assert self.found(store) == {}
        assert fresh.is_file()
        assert (crashed / ".adapter.old-1234").is_dir()  # all there is of the adapter it had
        assert not (whole / ".adapter.old-1234").exists()

    def test_a_living_runs_files_are_not_garbage(self, store: Store) -> None:
        run = store.create(make_spec())
        old_one = run.directory / ".adapter"
        old_one.mkdir()
        old(old_one)
        assert self.found(store) == {}
        run.close()
        assert self.found(store) == {".adapter": "temporary"}
        items = collect(store.home, store.home / "cache", older_than=0.0)
        with FileLock(run.directory / ".lock"):  # resumed between looking and deleting
            assert [delete(item, store.home) for item in items] == [False]
        assert old_one.is_dir()

    def test_a_run_restored_meanwhile_is_kept(self, store: Store) -> None:
        record = finished(store)
        store.trash.put(record)
        items = collect(store.home, store.home, older_than=0.0)
        store.trash.restore(store.trash.runs()[0])
        assert [delete(item, store.home) for item in items] == [False]
        assert record.run_dir.is_dir()

    def test_prepared_data_only_on_request(self, store: Store) -> None:
        folder = Path(os.environ["DPFT_CACHE"]) / "prepared"
        for name in ("sst2-12ab", ".sst2-12ab.x1y2", ".qnli-34cd.busy"):
            (folder / name).mkdir(parents=True)
        (folder / "sst2-12ab" / "train.arrow").write_bytes(b"x" * 1000)
        (folder / ".key").write_bytes(b"k" * 32)
        with FileLock(folder / "qnli-34cd.lock"):
            assert self.found(store) == {".sst2-12ab.x1y2": "temporary"}
            assert set(self.found(store, prepared=True)) == {".sst2-12ab.x1y2", "sst2-12ab"}
            assert self.sweep(store, prepared=True) == [True, True]
        assert (folder / ".key").is_file()
        assert (folder / ".qnli-34cd.busy").is_dir()
        assert size_of(folder) == 32

    def test_links_are_nobodys_garbage(self, store: Store, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "file").write_text("x")
        store.trash.put(finished(store))
        (store.home / "trash" / "link").symlink_to(precious)
        (finished(store).run_dir / ".adapter").symlink_to(precious)
        (store.trash.runs()[0].record.run_dir / "inner").symlink_to(precious)
        assert self.sweep(store) == [True]
        assert (precious / "file").is_file()

    def test_the_ledger_and_the_key_are_never_touched(self, store: Store) -> None:
        ledger = store.home / "ledger"
        ledger.mkdir()
        for name in ("ab.jsonl", ".ab.jsonl.x.tmp", "ab.lock"):
            (ledger / name).write_text("{}")
            old(ledger / name)
        (store.home / "secret.key").write_bytes(b"k")
        store.trash.put(finished(store))
        before = files(ledger)
        self.sweep(store, prepared=True)
        assert files(ledger) == before
        assert (store.home / "secret.key").read_bytes() == b"k"


def test_the_trash_of_an_empty_store(store: Store) -> None:
    assert store.trash.runs() == []
    assert isinstance(store.trash, Trash)
