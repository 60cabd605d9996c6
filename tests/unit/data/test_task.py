from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dpft.data.task import Task

GOOD: dict[str, Any] = {
    "name": "toy",
    "description": "toy",
    "text_columns": ("text",),
    "labels": ("no", "yes"),
    "glue_folder": "TOY",
    "hub_config": "toy",
}


def test_what_follows_is_filled_in() -> None:
    task = Task(**GOOD)
    assert task.hub_text_columns == ("text",)
    assert dict(task.files) == {"train": "train.tsv", "validation": "dev.tsv"}
    assert dict(task.label_codes) == {"no": 0, "yes": 1, "0": 0, "1": 1}
    assert not task.is_pair


def test_a_task_cannot_be_changed() -> None:
    task = Task(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.labels = ("a", "b")  # type: ignore[misc]
    with pytest.raises(TypeError):
        task.validation_splits["more"] = "more.tsv"  # type: ignore[index]


@pytest.mark.parametrize(
    "wrong",
    [
        {"text_columns": ()},
        {"text_columns": ("a", "b", "c")},
        {"labels": ("only",)},
        {"labels": ("same", "same")},
        {"validation_splits": {}},
        {"validation_splits": {"train": "dev.tsv"}},
        {"hub_config": None},
        {"generate": dict},
    ],
)
def test_a_task_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="task 'toy'"):
        Task(**{**GOOD, **wrong})
