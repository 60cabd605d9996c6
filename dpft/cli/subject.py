"""What ``dpft eval`` scores: a run of the store, or a folder with an adapter in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpft.cli.files import scored_file
from dpft.cli.request import data_spec
from dpft.errors import UsageError
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, RunSpec
from dpft.tables import TASKS

if TYPE_CHECKING:
    from dpft.data.task import Task
    from dpft.training.folder import AdapterFolder

__all__ = ["Subject", "Wish", "of_folder", "of_run"]


@dataclass(frozen=True)
class Wish:
    """What the user asks for; None where the subject's own is meant."""

    dataset: str | None = None
    data_dir: Path | None = None
    max_length: int | None = None
    base: ModelSpec | None = None
    file: Mapping[str, Any] = field(default_factory=dict)  # options about a file of the user's own


@dataclass(frozen=True)
class Subject:
    """What is scored, on which data.

    Attributes:
        name: what to call it.
        run_id: of the run; None where a folder does not say.
        path: the folder; None for a run of the store.
        data: which data.
        scored_on: their task.
        trained_on: the task whose labels it answers.
        virtual_tokens: positions that its mode takes for itself.
        private: whether its training was.
        hardware: how it is scored.
        trained_rows: the rows that are scored are, or may be, among those it was trained on.
        load: gives the model, its tokenizer, and the base model that it was put on.
    """

    name: str
    run_id: str | None
    path: Path | None
    data: DataSpec
    scored_on: Task
    trained_on: Task
    virtual_tokens: int
    private: bool
    hardware: HardwareSpec
    load: Callable[[], tuple[Any, Any, ModelSpec]]
    trained_rows: bool = False


def of_run(record: RunRecord, spec: RunSpec, wish: Wish) -> Subject:
    """A run, on the data it was validated on unless others are wished for.

    Raises:
        UsageError: an unknown dataset, a length out of range, or a file that the run cannot answer.
        NotFoundError: there is no such data folder or file.
    """
    from dpft.data.own_files import task_of

    trained_on = task_of(spec.data)
    data, scored_on = _data_of_run(spec.data, trained_on, wish)

    def load() -> tuple[Any, Any, ModelSpec]:
        from dpft.tuning.base import restore

        base = wish.base or spec.model
        digest = Store().manifest(record)["base_model"].get("sha256")
        model, tokenizer = restore(
            base, spec.tuning, trained_on.labels, record.run_dir / "adapter", base_sha256=digest
        )
        return model, tokenizer, base

    return Subject(
        name=record.name,
        run_id=record.run_id,
        path=None,
        data=data,
        scored_on=scored_on,
        trained_on=trained_on,
        virtual_tokens=spec.tuning.num_prepend_tokens or 0,
        private=record.private,
        hardware=spec.hardware,
        load=load,
        trained_rows=_same_file(wish.file.get("data_file"), spec.data.data_file),
    )


def of_folder(path: Path, wish: Wish) -> Subject:
    """A folder, on the dataset that its manifest names unless another is wished for.

    Raises:
        NotFoundError: there is no such folder.
        UntrustedError: it is not what an adapter's folder may be.
        UsageError: nothing says on which dataset, or an option out of range.
    """
    from dpft.training.folder import open_folder, restore_folder

    folder = open_folder(path)
    scored_on, data = _data_of_folder(folder, wish)
    task = _trained_on(folder, scored_on)
    return Subject(
        name=folder.name,
        run_id=folder.run_id,
        path=path,
        data=data,
        scored_on=scored_on,
        trained_on=task,
        virtual_tokens=folder.virtual_tokens,
        private=folder.manifest is None or folder.manifest.private,
        hardware=HardwareSpec(),
        load=lambda: restore_folder(folder, wish.base, task.labels),
    )


def _data_of_run(trained: DataSpec, task: Task, wish: Wish) -> tuple[DataSpec, Task]:
    """What a run is scored on, and its task."""
    from dpft.data.own_files import task_of

    if wish.file:
        usual = task if task.own_files is not None else None
        data, scored = scored_file(wish, trained.max_length, task.labels, usual)
        if scored.is_pair != task.is_pair:
            raise UsageError(
                f"the run answers {_texts(task.is_pair)}, and {_texts(scored.is_pair)} is given",
                hint=f"give --text-column {'twice' if task.is_pair else 'once'}",
            )
        return data, scored
    length = wish.max_length or trained.max_length
    if wish.dataset in (None, trained.dataset) and trained.data_file is not None:
        if wish.data_dir is not None:
            raise UsageError(
                f"the run is on a file of its own, not on a GLUE folder like {str(wish.data_dir)!r}",
                hint="give another file with --data-file, or nothing to score its own validation rows",
            )
        data = data_spec(trained.dataset, None, length, _own_fields(trained))
    else:
        data = data_spec(wish.dataset or trained.dataset, wish.data_dir or trained.data_dir, length)
    return data, task_of(data)


def _same_file(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and Path(one).resolve() == Path(other).resolve()


def _texts(pair: bool) -> str:
    return "a pair of texts" if pair else "one text"


def _own_fields(data: DataSpec) -> dict[str, Any]:
    names = ("data_file", "validation_file", "text_columns", "label_column", "labels")
    return {name: getattr(data, name) for name in names}


def _trained_on(folder: AdapterFolder, scored_on: Task) -> Task:
    """The task whose labels a folder answers: the one that it names, else the one that it is scored on."""
    if folder.dataset in TASKS:
        named: Task = TASKS.get(str(folder.dataset))
        return named
    return (
        scored_on
        if folder.labels is None
        else replace(scored_on, labels=folder.labels, metrics=("accuracy",))
    )


def _data_of_folder(folder: AdapterFolder, wish: Wish) -> tuple[Task, DataSpec]:
    from dpft.data.own_files import task_of

    if wish.file:
        known: Task | None = TASKS.get(str(folder.dataset)) if folder.dataset in TASKS else None
        labels = known.labels if known is not None else folder.labels or ()
        data, scored = scored_file(wish, folder.max_length, labels)
        return scored, data
    dataset = wish.dataset or folder.dataset
    path = folder.path
    if dataset is not None and dataset not in TASKS and folder.labels is not None:
        raise UsageError(
            f"{path} was trained on files that it does not hold ({dataset})",
            hint="give --data-file with rows to score, and --text-column and --label-column if need be",
        )
    if dataset is None:
        raise UsageError(
            f"nothing in {path} says which dataset it was trained on",
            hint=f"give -d with one of: {', '.join(TASKS.names())}",
        )
    data = data_spec(dataset, wish.data_dir, wish.max_length or folder.max_length)
    return task_of(data), data
