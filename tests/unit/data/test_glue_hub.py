"""The hub reader, against a server on this machine; in fresh processes, as its address is read on import."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from dpft.data.glue_hub import REPOSITORY
from dpft.data.task import Task
from dpft.tables import TASKS
from tests.hub_stand_in import COMMIT, hub_stand_in

ROOT = Path(__file__).parents[3]

READ = """
import json, os, sys, time
from dpft.data import glue_hub
from dpft.data.sources import read_rows
from dpft.errors import DpftError
from dpft.tables import TASKS

glue_hub._TIMEOUT = float(os.environ.get("TEST_TIMEOUT", glue_hub._TIMEOUT))
answers = {}
for name in sys.argv[1:]:
    start = time.monotonic()
    try:
        raw = read_rows(TASKS.get(name))
        splits = {split: [*rows.texts, rows.labels] for split, rows in raw.splits.items()}
        answer = {"splits": splits, "source": raw.source, "revision": raw.revision}
    except DpftError as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    answers[name] = {**answer, "seconds": time.monotonic() - start}
print(json.dumps(answers))
"""


def read(tmp_path: Path, *names: str, **environment: str) -> dict[str, Any]:
    """Read tasks in a fresh process, with Hugging Face caches in ``tmp_path`` only."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", READ, *names],
        env={
            **kept,
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path / "home"),
            "HF_HOME": str(tmp_path / "hf"),
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            **environment,
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def parquet(columns: Mapping[str, Sequence[object]]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(dict(columns)), file)
    return file.getvalue()


def card(task: Task, labels: Sequence[str]) -> dict[str, Any]:
    """What the README's header says about one configuration."""
    columns = [{"name": column, "dtype": "string"} for column in task.hub_text_columns]
    names = {str(i): name for i, name in enumerate(labels)}
    columns.append({"name": task.hub_label_column, "dtype": {"class_label": {"names": names}}})
    files = [{"split": split, "path": f"{task.hub_config}/{split}-*"} for split in task.files]
    return {
        "config": {"config_name": task.hub_config, "data_files": files},
        "info": {"config_name": task.hub_config, "features": columns},
    }


def repository(
    rows: Mapping[str, Mapping[str, Sequence[Sequence[object]]]], **labels: Sequence[str]
) -> dict[str, bytes]:
    """The files of a GLUE repository with these rows: task name to split to rows of (texts…, label)."""
    tasks = {name: TASKS.get(name) for name in rows}
    cards = [card(task, labels.get(name, task.labels)) for name, task in tasks.items()]
    header = {"configs": [c["config"] for c in cards], "dataset_info": [c["info"] for c in cards]}
    files = {"README.md": f"---\n{json.dumps(header)}\n---\n# GLUE, in small\n".encode()}
    for name, splits in rows.items():
        columns = (*tasks[name].hub_text_columns, tasks[name].hub_label_column)
        for split, split_rows in splits.items():
            table = dict(zip(columns, map(list, zip(*split_rows, strict=True)), strict=True))
            files[f"{tasks[name].hub_config}/{split}-00000-of-00001.parquet"] = parquet(table)
    return files


FILES = repository(
    {
        "sst2": {"train": [("good ", 1), ('so "bad"', 0)], "validation": [("fine", 1)]},
        "qqp": {"train": [("who", "", 0), ("a", "b", 1)], "validation": [("c", "d", 0)]},
        "mnli": {
            "train": [("a", "b", 0)],
            "validation_matched": [("c", "d", 2)],
            "validation_mismatched": [("e", "f", 1), ("g", "h", -1)],
        },
        "qnli": {"train": [("q", "s", 0)], "validation": [("q", "s", 1)]},
    },
    qnli=("not_entailment", "entailment"),
)


@pytest.mark.slow
def test_rows_come_from_the_hub_once_and_then_from_the_cache(tmp_path: Path) -> None:
    with hub_stand_in(REPOSITORY, FILES) as hub:
        online = read(tmp_path, "sst2", "qqp", "mnli", "qnli", HF_ENDPOINT=hub.endpoint)
        requests = list(hub.requests)
    sst2 = {"train": [["good ", 'so "bad"'], [1, 0]], "validation": [["fine"], [1]]}
    assert online["sst2"]["splits"] == sst2
    assert online["sst2"]["source"] == "the hub's nyu-mll/glue (sst2)"
    assert online["sst2"]["revision"] == COMMIT
    assert online["qqp"]["splits"]["train"] == [["who", "a"], ["", "b"], [0, 1]]
    assert "split validation_mismatched, row 1: unknown label -1" in online["mnli"]["message"]
    assert "labels are not_entailment, entailment; qnli has entailment" in online["qnli"]["message"]
    assert f"GET /datasets/{REPOSITORY}/resolve/{COMMIT}/sst2/train-00000-of-00001.parquet" in requests

    offline = read(tmp_path, "sst2", "qqp", HF_HUB_OFFLINE="1", HF_ENDPOINT=hub.endpoint)
    for name in ("sst2", "qqp"):
        assert {**offline[name], "seconds": 0} == {**online[name], "seconds": 0}
    assert not list((tmp_path / "home").rglob("*")), "something was written outside HF_HOME"


@pytest.mark.slow
def test_an_empty_cache_offline_is_one_error(tmp_path: Path) -> None:
    answer = read(tmp_path, "sst2", HF_HUB_OFFLINE="1")["sst2"]
    assert answer["error"] == "HubError"
    assert answer["message"] == (
        "cannot load nyu-mll/glue (sst2): offline mode is on and the cache does not hold it"
    )
    for remedy in ("--data-dir", "SST-2/train.tsv", "-d demo", "unset HF_HUB_OFFLINE"):
        assert remedy in answer["hint"]


@contextmanager
def refusing() -> Iterator[str]:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening
        yield f"http://127.0.0.1:{closed.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)  # connections are made, and never answered
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def failing() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hub", "failure"),
    [(refusing, "the hub did not answer"), (silent, "the hub did not answer"), (failing, "the hub failed: ")],
)
def test_a_hub_out_of_reach_is_found_out_fast(tmp_path: Path, hub: Any, failure: str) -> None:
    start = time.monotonic()
    with hub() as endpoint:
        answer = read(tmp_path, "sst2", HF_ENDPOINT=endpoint, TEST_TIMEOUT="1")["sst2"]
    assert answer["error"] == "HubError"
    assert failure in answer["message"]
    assert "\n" not in answer["message"]
    assert "HF_HUB_OFFLINE=1" in answer["hint"]
    # datasets on its own takes 26 s to give up; most of the time allowed here is a busy machine importing it.
    assert answer["seconds"] < 20
    assert time.monotonic() - start < 60
