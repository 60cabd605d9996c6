from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from dpft.errors import (
    InterruptedRunError,
    NotFoundError,
    PrivacyError,
    StoreError,
    UsageError,
)
from dpft.runs.manifest import Manifest
from dpft.runs.store import Store

from .builders import make_record, make_spec, ordinary_parts, private_parts, stopped_parts, unclaimed_parts

HOLDER = """
import sys, time
from pathlib import Path
from dpft.runs.store import Store
from dpft.spec import *

spec = RunSpec(
    data=DataSpec(dataset="sst2"), model=ModelSpec(), tuning=TuningSpec(mode="lora"), privacy=PrivacySpec(),
    optimisation=OptimisationSpec(learning_rate=1e-3), hardware=HardwareSpec(precision="fp32"),
)
run = Store().create(spec)
run.update(steps=3, epsilon=0.5, delta=1e-6)
print(run.record.run_id, flush=True)
time.sleep(60)
"""


def manifest_of(parts: dict[str, Any]) -> dict[str, Any]:
    return Manifest(**parts).to_dict()


def finish(store: Store, name: str | None = None, *, private: bool = True) -> Any:
    with store.create(make_spec(name, private=private)) as run:
        parts = private_parts(run.record.run_id) if private else ordinary_parts(run.record.run_id)
        return run.finish("completed", manifest=manifest_of(parts))


def test_a_new_run_is_a_locked_folder_with_its_spec(store: Store, home: Path) -> None:
    spec = make_spec("my-run", tags=("a",), note="ε and δ")
    with store.create(spec) as run:
        record = run.record
        assert run.directory == home / "runs" / record.run_id == record.run_dir
        assert sorted(path.name for path in run.directory.iterdir()) == [".lock", "config.yaml", "run.json"]
        assert (record.status, record.name, record.tags, record.note) == (
            "running",
            "my-run",
            ("a",),
            "ε and δ",
        )
        assert (record.target_epsilon, record.epsilon) == (8.0, None)
        assert store.list() == [record]
        assert store.spec(record) == spec
        if os.name != "nt":
            assert stat.S_IMODE(run.directory.stat().st_mode) == 0o700
            modes = {stat.S_IMODE(path.stat().st_mode) for path in run.directory.iterdir()}
            assert modes == {0o600}
        run.finish("failed", manifest=None)


def test_a_completed_run_states_what_its_manifest_states(store: Store) -> None:
    with store.create(make_spec()) as run:
        run.adapter_dir.mkdir()
        (run.adapter_dir / "adapter_model.safetensors").write_bytes(b"weights")
        run.append_metrics({"step": 1, "validation_accuracy": 0.5, "epsilon": math.nan})
        run.append_metrics({"step": 2, "validation_note": "ε"})
        with pytest.raises(PrivacyError, match="loss may not stand"):
            run.append_metrics({"step": 3, "loss": 0.5})
        run.append_local_only({"step": 1, "loss": 0.7})
        manifest = manifest_of(private_parts(run.record.run_id))
        record = run.finish(
            "completed", manifest=manifest, metrics={"accuracy": 0.9}, trainable_parameters=258
        )
    assert store.list() == [record]
    assert store.manifest(record) == manifest
    assert (record.status, record.epsilon, record.delta) == ("completed", 3.76968, 1e-6)
    assert (record.steps, record.noise_multiplier, record.sample_rate) == (512, 3.0, 0.1)
    assert record.finished is not None
    assert record.finished >= record.created
    assert record.seconds is not None
    listed = {entry["name"]: entry for entry in store.files(record)["files"]}
    assert sorted(listed) == ["adapter/adapter_model.safetensors", "metrics.jsonl"]
    assert listed["adapter/adapter_model.safetensors"] == {
        "name": "adapter/adapter_model.safetensors",
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "size": 7,
    }
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 1, "validation_accuracy": 0.5, "epsilon": None},
        {"step": 2, "validation_note": "ε"},
    ]
    assert "Do not share" in (run.directory / "local-only" / "README").read_text()
    if os.name != "nt":
        assert stat.S_IMODE((run.directory / "local-only").stat().st_mode) == 0o700
        assert stat.S_IMODE((run.directory / "metrics.jsonl").stat().st_mode) == 0o600


def test_files_are_written_manifest_after_table_and_record_last(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.create(make_spec())
    written = []
    replace = os.replace

    def note(source: Path, target: Path) -> None:
        written.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    run.finish("completed", manifest=manifest_of(private_parts(run.record.run_id)))
    assert written == ["files.json", "privacy.json", "run.json", "registry.json"]


def test_a_non_private_run_has_a_manifest_and_no_epsilon(store: Store) -> None:
    record = finish(store, private=False)
    assert store.manifest(record)["private"] is False
    for name in ("run.json", "privacy.json"):
        document = json.loads((record.run_dir / name).read_text())
        assert document.get("epsilon") is None
    assert "epsilon" not in (record.run_dir / "privacy.json").read_text()


@pytest.mark.parametrize("parts", [stopped_parts, unclaimed_parts])
def test_where_nothing_is_claimed_the_record_has_no_epsilon(store: Store, parts: Any) -> None:
    with store.create(make_spec()) as run:
        run.update(epsilon=1.0, delta=1e-6)
        run.finish("interrupted", manifest=manifest_of(parts(run.record.run_id)))
    (record,) = store.list()
    assert (record.status, record.epsilon, record.delta) == ("interrupted", None, None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"run_id": "f" * 16}, "run_id"),
        ({"epsilon": 1.0}, "epsilon"),
        ({"steps": 3}, "steps"),
    ],
)
def test_a_manifest_that_contradicts_the_run_is_refused(
    store: Store, change: dict[str, Any], problem: str
) -> None:
    run = store.create(make_spec())
    run_id = change.pop("run_id", run.record.run_id)
    with pytest.raises(PrivacyError, match=problem):
        run.finish("completed", manifest=manifest_of(private_parts(run_id)), **change)
    assert not (run.directory / "privacy.json").exists()
    assert run.record.status == "running"
    run.close()


def test_a_private_run_cannot_end_with_an_ordinary_manifest(store: Store) -> None:
    with store.create(make_spec()) as run, pytest.raises(PrivacyError, match="private"):
        run.finish("completed", manifest=manifest_of(ordinary_parts(run.record.run_id)))


def test_a_damaged_manifest_or_none_cannot_complete_a_run(store: Store) -> None:
    with store.create(make_spec()) as run:
        for manifest in (None, {}, {**manifest_of(private_parts(run.record.run_id)), "extra": 1}):
            with pytest.raises(PrivacyError, match="manifest"):
                run.finish("completed", manifest=manifest)


def test_fixed_and_unknown_fields_cannot_be_set(store: Store) -> None:
    with store.create(make_spec()) as run:
        for fields in ({"status": "completed"}, {"private": False}, {"no_such": 1}):
            with pytest.raises(TypeError):
                run.update(**fields)
        for fields in ({"private": False}, {"no_such": 1}):
            with pytest.raises(TypeError):
                run.finish("failed", manifest=None, **fields)
        run.finish("failed", manifest=None)
        with pytest.raises(StoreError, match="failed already"):
            run.finish("failed", manifest=None)
        with pytest.raises(StoreError, match="failed already"):
            run.update(steps=1)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("a wrong\nvalue"), "failed", "a wrong value"),
        (InterruptedRunError("stopped"), "interrupted", None),
        (KeyboardInterrupt(), "interrupted", None),
        (RuntimeError("row 7: a private sentence"), "failed", "RuntimeError"),
    ],
)
def test_leaving_by_an_error_ends_the_run(
    store: Store, error: BaseException, status: str, line: str | None
) -> None:
    def train() -> None:
        with store.create(make_spec()) as run:
            run.update(epsilon=0.5, delta=1e-6)
            raise error

    with pytest.raises(type(error)):
        train()
    (record,) = store.list()
    assert (record.status, record.error, record.epsilon) == (status, line, None)


def test_leaving_without_an_end_is_a_failure(store: Store) -> None:
    with store.create(make_spec()):
        pass
    (record,) = store.list()
    assert (record.status, record.error) == ("failed", "the run was left without an end")


def test_the_first_error_is_told_when_the_end_cannot_be_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def train(patch: pytest.MonkeyPatch) -> None:
        with store.create(make_spec()):
            patch.setattr(os, "replace", full)
            raise RuntimeError("the first")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the first"):
        train(patch)
    assert [record.status for record in store.list()] == ["crashed"]


def test_a_busy_registry_does_not_stop_a_run_that_ends(home: Path) -> None:
    store = Store(lock_timeout=0.05)
    with store.create(make_spec()) as run, FileLock(home / "registry.lock"):
        run.finish("failed", manifest=None, steps=7)
    assert [(record.status, record.steps) for record in store.list()] == [("failed", 7)]


def test_a_killed_process_leaves_a_crashed_run(store: Store) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        run_id = holder.stdout.readline().strip()
        (alive,) = store.list()
        assert (alive.run_id, alive.status, alive.epsilon) == (run_id, "running", 0.5)
        holder.kill()
        assert holder.wait() == -getattr(signal, "SIGKILL", 9)
    (dead,) = store.list()
    assert (dead.status, dead.epsilon, dead.steps) == ("crashed", None, 3)
    assert json.loads((dead.run_dir / "run.json").read_text())["status"] == "crashed"
    assert Store().list() == [dead]
    finish(store)  # the store still works
    assert len(store.list()) == 2


def test_a_run_that_ended_unindexed_is_not_taken_for_crashed(store: Store, home: Path) -> None:
    run = store.create(make_spec())
    stale = (home / "registry.json").read_bytes()
    run.finish("completed", manifest=manifest_of(private_parts(run.record.run_id)))
    (home / "registry.json").write_bytes(stale)
    assert [record.status for record in store.list()] == ["completed"]


def test_a_folder_taken_away_is_not_listed_and_its_name_is_free(store: Store) -> None:
    ended, running = finish(store, "first"), store.create(make_spec("second"))
    running.close()
    for record in (ended, running.record):
        shutil.rmtree(record.run_dir)
    assert store.list() == []
    shutil.rmtree(store.home / "runs")
    assert store.list() == []
    assert finish(store, "first").name == "first"


def test_names_are_unique(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpft.runs import names

    monkeypatch.setattr(names, "ADJECTIVES", ("calm",))
    monkeypatch.setattr(names, "NOUNS", ("otter", "owl"))
    assert len({finish(store).name for _ in range(5)}) == 5
    finish(store, "Mine")
    with pytest.raises(UsageError, match="taken by run"):
        store.create(make_spec("mine"))
    with pytest.raises(UsageError, match="cannot name"):
        store.create(make_spec("../up"))
    assert len(list((store.home / "runs").iterdir())) == 6


def test_an_empty_store(store: Store) -> None:
    assert store.list() == []
    assert store.rebuild() == []
    for ref in ("@latest", "x"):
        with pytest.raises(NotFoundError):
            store.resolve(ref)


def test_a_thousand_runs_are_listed_fast(store: Store, home: Path) -> None:
    table = {}
    for number in range(1000):
        record = make_record(home / "runs", f"{number:016x}", metrics={"accuracy": 0.9})
        record.run_dir.mkdir(parents=True)
        table[str(number + 1)] = record.model_dump(mode="json")
    (home / "registry.json").write_text(json.dumps({"schema_version": "1.0", "runs": table}))
    run = store.create(make_spec("the-thousand-and-first"))
    began = time.process_time()
    assert len(store.list()) == 1001
    assert time.process_time() - began < 1.0
    run.close()


def test_a_missing_or_damaged_manifest_and_spec_are_told(store: Store) -> None:
    with store.create(make_spec()) as run:
        record = run.finish("failed", manifest=None)
    with pytest.raises(NotFoundError, match="failed"):
        store.manifest(record)
    path = record.run_dir / "privacy.json"
    for content, problem in (
        ("{", "cannot be read"),
        ("[]", "schema_version"),
        ('{"identity": {"schema_version": "2.0"}}', "up to 1.x"),
    ):
        path.write_text(content)
        with pytest.raises(StoreError, match=problem):
            store.manifest(record)
    config = record.run_dir / "config.yaml"
    for content, problem in (
        ("a: [", "cannot be read"),
        ("schema_version: '2.0'", "up to 1.x"),
        ("schema_version: '1.0'", "not a run's spec"),
        ("- list", "schema_version"),
    ):
        config.write_text(content)
        with pytest.raises(StoreError, match=problem):
            store.spec(record)
    config.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        store.spec(record)
