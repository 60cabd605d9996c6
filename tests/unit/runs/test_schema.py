from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpft.errors import StoreError
from dpft.runs.record import load_record
from dpft.runs.schema import SCHEMA_VERSION, read_document
from dpft.runs.store import Store

from .builders import RUN_ID, make_record, make_spec


def one_step(document: dict[str, Any]) -> dict[str, Any]:
    """A synthetic migration: 0.9 called the mode "method"."""
    method = document.pop("method")
    return {**document, "finetune_mode": method, "schema_version": "1.0"}


def old_run(runs: Path) -> Path:
    document = make_record(runs).model_dump(mode="json")
    document["method"] = document.pop("finetune_mode")
    document["schema_version"] = "0.9"
    path = runs / RUN_ID / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    return path


def test_an_older_major_is_migrated_after_a_backup(tmp_path: Path) -> None:
    path = old_run(tmp_path)
    before = path.read_bytes()
    record = load_record(path.parent, {"0.9": one_step})
    assert record.finetune_mode == "lora"
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION
    assert path.with_name("run.json.schema-0.9.bak").read_bytes() == before
    assert load_record(path.parent) == record  # and now without the migration


def test_migrations_are_chained(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    path.write_text('{"schema_version": "0.8", "steps": []}')
    chain = {
        "0.8": lambda old: {**old, "schema_version": "0.9", "steps": ["0.8"]},
        "0.9": lambda old: {**old, "schema_version": "1.0", "steps": [*old["steps"], "0.9"]},
    }
    assert read_document(path, chain)["steps"] == ["0.8", "0.9"]


def test_an_older_major_nobody_can_migrate_is_refused_and_untouched(tmp_path: Path) -> None:
    path = old_run(tmp_path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"0\.9"):
        load_record(path.parent)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"schema_version": "2.0"}', "reads up to 1.x"),
        ('{"schema_version": 1}', "no valid schema_version"),
        ("{}", "no valid schema_version"),
        ("[]", "JSON object"),
        ('{"schema_ver', "not valid JSON"),
        ("", "not valid JSON"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "document.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=problem):
        read_document(path)


def test_a_whole_store_of_an_older_major_is_migrated(
    store: Store, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a user meets it: every document is brought up, and each has its backup."""
    for number in range(2):
        with store.create(make_spec(f"run-{number}")) as run:
            run.finish("failed", manifest=None)
    before = store.list()
    old: dict[Path, bytes] = {}
    for path in [home / "registry.json", *home.glob("runs/*/run.json")]:
        document = json.loads(path.read_text())
        for entry in document["runs"].values() if "runs" in document else [document]:
            entry["method"] = entry.pop("finetune_mode")
        document["schema_version"] = "0.9"
        path.write_text(json.dumps(document))
        old[path] = path.read_bytes()
    assert Store(migrations={"0.9": one_step}).list() == before
    assert "schema 0.9 is older; kept as registry.json.schema-0.9.bak" in caplog.text
    for path, content in old.items():
        assert path.with_name(f"{path.name}.schema-0.9.bak").read_bytes() == content
        assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION
    assert Store().list() == before  # and now without the migration


def test_runs_that_nobody_can_migrate_stay_as_they_are(
    store: Store, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with store.create(make_spec("new")) as run:
        run.finish("failed", manifest=None)
    path = old_run(home / "runs")
    before = path.read_bytes()
    assert [record.name for record in store.rebuild()] == ["new"]
    assert "which this dpft cannot migrate" in caplog.text
    assert path.read_bytes() == before


def test_a_newer_minor_keeps_its_fields(store: Store) -> None:
    run = store.create(make_spec())
    run.close()  # marked as running and not locked: is rewritten as crashed
    path = run.directory / "run.json"
    newer = {**json.loads(path.read_text()), "schema_version": "1.7", "colour": "green"}
    path.write_text(json.dumps(newer))
    (record,) = store.rebuild()
    assert record.status == "crashed"
    rewritten = json.loads(path.read_text())
    assert (rewritten["colour"], rewritten["schema_version"], rewritten["status"]) == (
        "green",
        "1.7",
        "crashed",
    )
