"""Files of the user's own: their task, made from options, and their rows.

The validation rows are those of a second file. Without one, about a tenth of the training file is set
aside: each row by its own coin, a hash of its texts. So a row that comes or goes moves no other, the order of
rows does not matter, equal texts stay together, and every run on the file sets the same rows aside.
"""

from __future__ import annotations

import hashlib
import hmac
from array import array
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dpft.data.raw import RawDataset, RawSplit
from dpft.data.table_file import read_table
from dpft.data.task import TRAIN, Task
from dpft.errors import DataError
from dpft.spec import DataSpec
from dpft.tables import TASKS

__all__ = ["SET_ASIDE", "VALIDATION", "own_task", "read_own_files", "scored_on", "task_of"]

VALIDATION = "validation"
SET_ASIDE = 0.1
"""The share of a training file that is set aside for validation, in expectation."""

_COIN = b"dpft: is this row set aside for validation? (1)"  # public: it decides nothing that is protected
_COIN_BYTES = 8


def task_of(data: DataSpec) -> Task:
    """The task of a run: from the table, or made from the options that the run was given."""
    if data.data_file is None:
        task: Task = TASKS.get(data.dataset)
        return task
    files = {TRAIN: Path(data.data_file)}
    if data.validation_file is not None:
        files[VALIDATION] = Path(data.validation_file)
    return own_task(data.dataset, files, data.text_columns, str(data.label_column), data.labels)


def own_task(
    name: str,
    files: Mapping[str, Path],
    text_columns: tuple[str, ...],
    label_column: str,
    labels: tuple[str, ...],
) -> Task:
    """A task on the user's own files: accuracy, and for two labels also F1 of the second."""
    return Task(
        name=name,
        description=f"{name}, from files of the user's own",
        text_columns=text_columns,
        label_column=label_column,
        labels=labels,
        metrics=("accuracy", "f1") if len(labels) == 2 else ("accuracy",),
        own_files=dict(files),
    )


def scored_on(task: Task, path: Path) -> Task:
    """The same task on one file that is only scored."""
    return replace(task, own_files={VALIDATION: path}, generate=None, glue_folder=None, hub_config=None)


def read_own_files(task: Task) -> RawDataset:
    """Read all splits of a task with ``own_files``.

    Raises:
        NotFoundError: a file is not there.
        DataError: a file or a row cannot be used; named by file and line.
    """
    assert task.own_files is not None
    splits = {name: read_table(task, path) for name, path in task.own_files.items()}
    carved = set(splits) == {TRAIN}
    if carved:
        splits = dict(zip((TRAIN, VALIDATION), _set_aside(splits[TRAIN]), strict=True))
    endings = sorted({path.suffix.lower().removeprefix(".") for path in task.own_files.values()})
    return RawDataset(splits=splits, source=f"local files of the user ({', '.join(endings)})", carved=carved)


def _set_aside(split: RawSplit) -> tuple[RawSplit, RawSplit]:
    """The rows to train on, and those to score.

    Raises:
        DataError: none is left on one side.
    """
    rows: tuple[list[int], list[int]] = ([], [])
    for row, texts in enumerate(zip(*split.texts, strict=True)):
        rows[_is_set_aside(texts)].append(row)
    if not all(rows):
        raise DataError(
            f"{split.origin}: too few rows to set a tenth aside for validation",
            hint="give --validation-file",
        )
    train, validation = (_select(split, chosen) for chosen in rows)
    return train, validation


def _is_set_aside(texts: tuple[str, ...]) -> bool:
    """One row's coin."""
    coin = hmac.new(_COIN, digestmod=hashlib.sha256)
    for text in texts:
        encoded = text.encode("utf-8")
        coin.update(len(encoded).to_bytes(_COIN_BYTES, "big"))
        coin.update(encoded)
    return int.from_bytes(coin.digest()[:_COIN_BYTES], "big") < int(SET_ASIDE * 2.0 ** (8 * _COIN_BYTES))


def _select(split: RawSplit, rows: list[int]) -> RawSplit:
    return RawSplit(
        texts=tuple([texts[row] for row in rows] for texts in split.texts),
        labels=[split.labels[row] for row in rows],
        origin=split.origin,
        numbers=None if split.numbers is None else array("q", [split.numbers[row] for row in rows]),
        unit=split.unit,
    )
