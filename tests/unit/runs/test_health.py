"""What is out of order in a store is found, and only the user's word mends it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dpft.errors import StoreError
from dpft.runs.health import Check, check_store
from dpft.runs.ledger import Ledger
from dpft.runs.store import Store

from .builders import make_spec
from .test_ledger import charge


def looked_at(home: Path) -> dict[str, Check]:
    return {check.name: check for check in check_store(home)}


def finished(store: Store, name: str) -> str:
    with store.create(make_spec(name)) as run:
        return run.finish("failed", manifest=None).run_id


def test_an_empty_store_is_in_order(home: Path) -> None:
    home.mkdir()
    found = looked_at(home)
    assert all(check.ok for check in found.values())
    assert found["registry"].detail.startswith("0 runs")


def test_a_store_in_use_is_in_order(store: Store, home: Path) -> None:
    finished(store, "one")
    charge(Ledger(home)).settle(3)
    found = looked_at(home)
    assert all(check.ok for check in found.values())
    assert found["registry"].detail == "1 runs, each with its folder"
    assert found["ledger"].detail == "1 datasets, 1 charges, chains whole"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("{", "not valid JSON"), ("[]", "not a JSON object"), (None, "missing"), ('{"runs": {}}', "schema")],
)
def test_a_damaged_registry_is_found_and_left_alone(
    content: str | None, complaint: str, store: Store, home: Path
) -> None:
    finished(store, "one")
    path = home / "registry.json"
    path.unlink() if content is None else path.write_text(content)
    check = looked_at(home)["registry"]
    assert check.ok is False
    assert complaint in check.detail
    assert "--reindex" in check.hint
    assert not check.private
    assert (path.read_text() if path.exists() else None) == content
    assert [record.name for record in store.rebuild()] == ["one"]
    assert looked_at(home)["registry"].ok


def test_a_registry_that_differs_from_the_folders_is_found(store: Store, home: Path) -> None:
    kept, lost = finished(store, "one"), finished(store, "two")
    path = home / "registry.json"
    document = json.loads(path.read_text())
    document["runs"] = {key: run for key, run in document["runs"].items() if run["run_id"] != kept}
    path.write_text(json.dumps(document))
    shutil.rmtree(home / "runs" / lost)
    check = looked_at(home)["registry"]
    assert check.ok is False
    assert check.detail == (
        "the registry is stale: 1 run folders are not in it and 1 of its runs have no folder"
    )
    store.rebuild()
    assert looked_at(home)["registry"].ok


def test_an_unreadable_run_is_found(store: Store, home: Path) -> None:
    run_id = finished(store, "one")
    (home / "runs" / run_id / "run.json").write_text("{")
    check = looked_at(home)["registry"]
    assert check.ok is False
    assert run_id in check.detail


def test_a_damaged_ledger_voids_guarantees(home: Path) -> None:
    charge(Ledger(home))
    (path,) = (home / "ledger").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"sst2", b"sst3"))
    check = looked_at(home)["ledger"]
    assert check.ok is False
    assert check.private
    assert "damaged" in check.detail


def test_places_that_cannot_be_written_are_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()

    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    check = looked_at(home)["places"]
    assert check.ok is False
    assert check.detail.endswith("Permission denied")


def test_little_room_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 5 << 20))
    assert looked_at(home)["places"].detail == "DPFT_HOME has 5 MiB left on its disk"


def test_looking_does_not_hide_a_newer_store(store: Store, home: Path) -> None:
    finished(store, "one")
    path = home / "registry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": "9.0"}))
    check = looked_at(home)["registry"]
    assert check.ok is False
    assert "upgrade dpft" in check.hint
    with pytest.raises(StoreError):
        store.rebuild()
