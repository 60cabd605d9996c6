"""What every entry of ``tables.TASKS`` must do."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from dpft.data.metrics import METRIC_NAMES
from dpft.data.prepare import prepare
from dpft.data.sources import read_rows
from dpft.data.task import Task
from dpft.errors import DataError
from dpft.tables import TASKS
from tests.unit.data.samples import tiny_tokenizer, write_folder

HEAVY = (
    "datasets",
    "evaluate",
    "huggingface_hub",
    "numpy",
    "peft",
    "pyarrow",
    "sklearn",
    "torch",
    "transformers",
)


@pytest.fixture(params=TASKS.names())
def task(request: pytest.FixtureRequest) -> Task:
    entry: Task = TASKS.get(request.param)
    return entry


def folder(task: Task, root: Path) -> Path:
    return write_folder(task, root) if task.glue_folder else root


def test_describes_itself(task: Task) -> None:
    assert TASKS.get(task.name) is task
    assert task.description
    assert "\n" not in task.description
    assert set(task.metrics) <= set(METRIC_NAMES)
    assert "accuracy" in task.metrics
    assert len(task.hub_text_columns) == len(task.text_columns)
    assert len(task.label_codes) == 2 * len(task.labels)
    assert task.validation_splits


def test_is_frozen(task: Task) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.labels = ()  # type: ignore[misc]


def test_reads_rows_with_known_labels_only(task: Task, tmp_path: Path) -> None:
    raw = read_rows(task, folder(task, tmp_path))
    assert list(raw.splits) == list(task.files)
    for split in raw.splits.values():
        assert len(split.texts) == len(task.text_columns)
        assert all(len(texts) == len(split.labels) for texts in split.texts)
        assert set(split.labels) == set(range(len(task.labels)))
        assert all(text.strip() for texts in split.texts for text in texts)
    assert str(tmp_path) not in raw.source


@pytest.mark.parametrize("name", [name for name in TASKS.names() if TASKS.get(name).generate is None])
def test_refuses_an_unseen_label_by_file_and_line(name: str, tmp_path: Path) -> None:
    task: Task = TASKS.get(name)
    path = write_folder(task, tmp_path) / str(task.glue_folder) / task.train_file
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1].rpartition("\t")[0] + "\tmaybe"]) + "\n")
    with pytest.raises(DataError, match=rf"line {len(lines) + 1}: unknown label of 5 characters") as caught:
        read_rows(task, tmp_path)
    assert str(path) in caught.value.message


def test_prepares_once(task: Task, tmp_path: Path) -> None:
    tokenizer, data_dir = tiny_tokenizer(model_max_length=64), folder(task, tmp_path)
    options = {
        "tokenizer_id": "tiny",
        "max_length": 16,
        "cache_dir": tmp_path / "cache",
        "data_dir": data_dir,
    }
    first, second = (prepare(task, tokenizer, **options) for _ in range(2))
    assert (first.cached, second.cached) == (False, True)
    assert first.cache_key == second.cache_key
    assert set(first.splits) == set(task.files)
    raw = read_rows(task, data_dir)
    for name, split in second.splits.items():
        assert split.rows == len(raw.splits[name])
        assert split.labels.tolist() == raw.splits[name].labels
        assert 0 < split.lengths.min() <= split.lengths.max() <= 16
        assert split.offsets[-1] == len(split.input_ids) == split.lengths.sum()


def test_all_tasks_are_cheap_to_import() -> None:
    code = (
        "import sys; from dpft.tables import TASKS; [TASKS.get(name) for name in TASKS.names()]; "
        f"print(*(name for name in {HEAVY} if name in sys.modules))"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
