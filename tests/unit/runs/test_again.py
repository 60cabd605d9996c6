"""A run that is held, and begun again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpft.errors import LockedError, UsageError
from dpft.runs.record import load_record
from dpft.runs.store import Store
from tests.unit.runs.builders import make_spec


def ended(store: Store, *, torn: bool = False) -> Path:
    """A run that died after five steps, with scores after the second and the fourth."""
    active = store.create(make_spec("first"))
    for step in range(1, 6):
        active.append_local_only({"step": step, "loss": 0.5})
    for step in (2, 4):
        active.append_metrics({"step": step, "validation_accuracy": 0.5})
    active.finish("failed", manifest=None)
    if torn:
        with (active.local_only / "training.jsonl").open("a") as log:
            log.write('{"step": 6, "lo')
    return active.directory


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def take_in_vain(store: Store, error: type[Exception]) -> str:
    with pytest.raises(error) as caught, store.take(store.resolve("first")):
        raise AssertionError
    return str(caught.value)


@pytest.mark.parametrize("torn", [False, True])
def test_logs_are_cut_back_to_where_it_goes_on(torn: bool) -> None:
    store = Store()
    folder = ended(store, torn=torn)
    with store.take(store.resolve("first")) as taken, taken.begin(4) as active:
        assert steps(folder / "metrics.jsonl") == [2]  # scores after step 4 are made again
        assert steps(folder / "local-only" / "training.jsonl") == [1, 2, 3, 4]
        assert (active.record.status, active.record.steps, active.record.error) == ("running", 4, None)
        assert store.list()[0].status == "running"
        active.append_local_only({"step": 5})
        active.finish("interrupted", manifest=None)
    assert steps(folder / "local-only" / "training.jsonl") == [1, 2, 3, 4, 5]
    aside = (folder / "local-only" / "abandoned.jsonl").read_text().splitlines()
    assert len(aside) == (3 if torn else 2)
    assert "abandoned" not in (folder / "files.json").read_text()


def test_a_log_that_needs_no_cut_is_not_touched() -> None:
    store = Store()
    folder = ended(store)
    before = (folder / "metrics.jsonl").stat().st_ino
    with store.take(store.resolve("first")) as taken, taken.begin(5) as active:
        active.finish("interrupted", manifest=None)
    assert (folder / "metrics.jsonl").stat().st_ino == before
    assert not (folder / "local-only" / "abandoned.jsonl").exists()


def test_a_run_that_is_held_changes_nothing_and_is_nobody_elses() -> None:
    store = Store()
    folder = ended(store)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with store.take(store.resolve("first")):
        assert "first is being trained by another process" in take_in_vain(store, LockedError)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with store.take(store.resolve("first")):
        pass


def test_a_living_run_is_not_taken() -> None:
    store = Store()
    with store.create(make_spec("first")) as active:
        take_in_vain(store, LockedError)
        active.finish("interrupted", manifest=None)


def test_the_record_is_read_under_the_lock() -> None:
    """A run that somebody else completed in between is not begun again."""
    store = Store()
    path = ended(store) / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "completed"}))
    assert store.resolve("first").status == "failed"  # as the index, which is behind, has it
    assert "is completed" in take_in_vain(store, UsageError)


def test_a_run_left_open_again_ends_as_failed() -> None:
    store = Store()
    folder = ended(store)
    with (
        pytest.raises(KeyError),
        store.take(store.resolve("first")) as taken,
        taken.begin(0),
    ):
        raise KeyError
    assert load_record(folder).status == "failed"
    assert store.resolve("first").error == "KeyError"
