"""What ``dpft eval`` scores: a run of the store, or a folder with an adapter in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpft.cli.request import data_spec
from dpft.errors import UsageError
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, RunSpec
from dpft.tables import TASKS

if TYPE_CHECKING:
    from dpft.data.task import Task

__all__ = ["Subject", "Wish", "of_folder", "of_run"]


@dataclass(frozen=True)
class Wish:
    """What the user asks for; None where the subject's own is meant."""

    dataset: str | None = None
    data_dir: Path | None = None
    max_length: int | None = None
    base: ModelSpec | None = None


@dataclass(frozen=True)
class Subject:
    """What is scored, on which data.

    Attributes:
        name: what to call it.
        run_id: of the run; None where a folder does not say.
        path: the folder; None for a run of the store.
        data: which data.
        trained_on: the task whose labels it answers.
        virtual_tokens: positions that its mode takes for itself.
        private: whether its training was.
        hardware: how it is scored.
        load: gives the model, its tokenizer, and the base model that it was put on.
    """

    name: str
    run_id: str | None
    path: Path | None
    data: DataSpec
    trained_on: Task
    virtual_tokens: int
    private: bool
    hardware: HardwareSpec
    load: Callable[[], tuple[Any, Any, ModelSpec]]


def of_run(record: RunRecord, spec: RunSpec, wish: Wish) -> Subject:
    """A run, on the data it was validated on unless others are wished for.

    Raises:
        UsageError: an unknown dataset, or a length out of range.
        NotFoundError: there is no such data folder.
    """
    data = data_spec(
        wish.dataset or spec.data.dataset,
        wish.data_dir or spec.data.data_dir,
        wish.max_length or spec.data.max_length,
    )
    trained_on: Task = TASKS.get(spec.data.dataset)

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
        trained_on=trained_on,
        virtual_tokens=spec.tuning.num_prepend_tokens or 0,
        private=record.private,
        hardware=spec.hardware,
        load=load,
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
    dataset = wish.dataset or folder.dataset
    if dataset is None:
        raise UsageError(
            f"nothing in {path} says which dataset it was trained on",
            hint=f"give -d with one of: {', '.join(TASKS.names())}",
        )
    data = data_spec(dataset, wish.data_dir, wish.max_length or folder.max_length)
    known = folder.dataset if folder.dataset is not None and folder.dataset in TASKS else dataset
    task: Task = TASKS.get(known)
    return Subject(
        name=folder.name,
        run_id=folder.run_id,
        path=path,
        data=data,
        trained_on=task,
        virtual_tokens=folder.virtual_tokens,
        private=folder.manifest is None or folder.manifest.private,
        hardware=HardwareSpec(),
        load=lambda: restore_folder(folder, wish.base, task.labels),
    )
