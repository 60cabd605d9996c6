from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from dpft.errors import LockedError, StoreError
from dpft.runs.registry import Registry
from dpft.runs.store import Store

from .builders import make_record, make_spec

HAMMER = """
import sys
from pathlib import Path
from dpft.runs import paths
from dpft.runs.record import RunRecord, utc_now
from dpft.runs.registry import Registry

home = paths.home()
for number in range(40):
    run_id = f"{int(sys.argv[1]):08x}{number:08x}"
    record = RunRecord(
        run_id=run_id, name=f"run-{run_id}", dataset="sst2", finetune_mode="lora", model_checkpoint="m",
        status="completed", private=False, created=utc_now(), run_dir=home / "runs" / run_id,
    )
    with Registry(home).transaction() as index:
        index.put(record)
"""


def finished(store: Store, name: str | None = None) -> str:
    with store.create(make_spec(name)) as run:
        return run.finish("failed", manifest=None).run_id


def test_four_processes_insert_at_once_and_nothing_is_lost(home: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", HAMMER, str(number)]) for number in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    document = json.loads((home / "registry.json").read_text())
    assert len({entry["run_id"] for entry in document["runs"].values()}) == 160
    assert len(Registry(home).records()) == 160
    assert sorted(path.name for path in home.iterdir()) == ["registry.json", "registry.lock"]


def test_put_replaces_the_record_with_the_same_id(home: Path) -> None:
    registry = Registry(home)
    record = make_record(home / "runs")
    for steps in (1, 2):
        with registry.transaction() as index:
            index.put(record.revise(steps=steps))
    assert [found.steps for found in registry.records()] == [2]
    with registry.transaction() as index:
        index.remove(record)
        index.remove(record)
    assert registry.records() == []


def test_the_schema_version_is_at_the_top(store: Store, home: Path) -> None:
    finished(store)
    assert next(iter(json.loads((home / "registry.json").read_text()).items())) == ("schema_version", "1.0")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"runs": {}}',
        b'{"schema_version": "1.0", "runs": []}',
        b'{"schema_version": "1.0", "runs": {"1": 7}}',
        b'{"schema_version": "1.0", "runs": {"1": {"run_id": "../../etc"}}}',
        b"[" * 100_000,
    ],
    ids=range(9),
)
def test_a_damaged_index_is_rebuilt_from_the_run_folders(
    store: Store, home: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [finished(store), finished(store)]
    (home / "registry.json").write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert [record.run_id for record in Store().list()] == ids[::-1]
    assert "rebuilt with 2 runs" in caplog.text
    (kept,) = home.glob("registry.json.corrupt-*")
    assert kept.read_bytes() == damage
    assert json.loads((home / "registry.json").read_text())["schema_version"] == "1.0"


def test_a_torn_index_does_not_stop_a_new_run(store: Store, home: Path) -> None:
    first = finished(store)
    whole = (home / "registry.json").read_bytes()
    (home / "registry.json").write_bytes(whole[: len(whole) // 2])
    second = finished(store)
    assert [record.run_id for record in store.list()] == [second, first]


def test_a_missing_index_is_rebuilt(store: Store, home: Path) -> None:
    run_id = finished(store)
    (home / "registry.json").unlink()
    assert [record.run_id for record in store.list()] == [run_id]


def test_a_newer_index_is_refused_and_untouched(store: Store, home: Path) -> None:
    finished(store)
    newer = b'{"schema_version": "2.0", "runs": {}}'
    (home / "registry.json").write_bytes(newer)
    for use in (store.list, lambda: store.create(make_spec())):
        with pytest.raises(StoreError, match=r"up to 1\.x") as caught:
            use()
        assert "upgrade" in caught.value.hint
    assert (home / "registry.json").read_bytes() == newer


def test_rebuilding_leaves_out_unreadable_and_copied_runs(
    store: Store, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = finished(store), finished(store)
    (home / "runs" / bad / "run.json").write_text("{")
    copy = home / "runs" / "copy"
    copy.mkdir()
    (copy / "run.json").write_bytes((home / "runs" / good / "run.json").read_bytes())
    (home / "runs" / "stray").mkdir()
    assert [record.run_id for record in store.rebuild()] == [good]
    assert caplog.text.count("left out of the registry") == 2


def test_a_held_lock_times_out(store: Store, home: Path) -> None:
    finished(store)
    with FileLock(home / "registry.lock"), pytest.raises(LockedError) as caught:
        Store(lock_timeout=0.05).create(make_spec())
    assert caught.value.exit_code == 5
    assert len(list((home / "runs").iterdir())) == 1  # no trace of the second


def test_reading_needs_no_lock(store: Store, home: Path) -> None:
    finished(store)
    with FileLock(home / "registry.lock"):
        assert len(Store(lock_timeout=0.05).list()) == 1


def test_a_full_disk_leaves_the_old_index(store: Store, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(store)
    before = (home / "registry.json").read_bytes()
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "registry.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StoreError, match="No space left"):
            store.create(make_spec())
    assert (home / "registry.json").read_bytes() == before
    assert len(list((home / "runs").iterdir())) == 1
