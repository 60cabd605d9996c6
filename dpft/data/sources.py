"""Where a task's rows come from: the user's own files, a GLUE folder, the hub, or a built-in generator."""

from __future__ import annotations

from pathlib import Path

from dpft.data.glue_folder import read_folder
from dpft.data.glue_hub import read_hub
from dpft.data.own_files import read_own_files
from dpft.data.raw import RawDataset, RawSplit
from dpft.data.task import Task

__all__ = ["read_rows"]


def read_rows(task: Task, data_dir: Path | None = None) -> RawDataset:
    """Read all splits of a task.

    Args:
        task: which one; a built-in task generates its rows and ignores ``data_dir``, so that it can be named
            beside tasks that need it, and one of the user's own knows its files.
        data_dir: a folder in the GLUE layout, or the task's own folder; None for the hub.

    Raises:
        NotFoundError: the folder lacks the train file or every validation file.
        DataError: a file or a row cannot be used; named by file and line.
        HubError: ``data_dir`` is None and the hub is out of reach.
    """
    if task.own_files is not None:
        return read_own_files(task)
    if task.generate is not None:
        splits = {
            name: RawSplit(texts=texts, labels=labels, origin=f"built-in {task.name}, split {name}")
            for name, (texts, labels) in task.generate().items()
        }
        return RawDataset(
            splits=splits, source=f"built-in generator ({task.name})", revision=task.generator_revision
        )
    if data_dir is not None:
        return read_folder(task, Path(data_dir))
    return read_hub(task)
