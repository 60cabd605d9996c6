"""What is exported: a run that came to an end, its manifest, and the base model that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpft.data.own_files import task_of
from dpft.errors import ExportError, NotFoundError
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import RunSpec
from dpft.tables import MODES
from dpft.tuning.base import Location, identify, load_model, locate, restore
from dpft.tuning.builtin import published_commit
from dpft.tuning.files import adapter_sha256
from dpft.tuning.mode import Mode

__all__ = ["RestoredRun", "Source", "check_base", "open_run", "restore_run"]

_DAMAGED = "the run's files were changed after it ended; train it anew, or restore them from a backup"


@dataclass(frozen=True)
class Source:
    """A run, as its folder has it.

    Attributes:
        record: the run.
        spec: what it was asked to do.
        mode: its fine-tune mode.
        task_description: its dataset, in one line.
        is_pair: whether an example is two texts.
        labels: label names in order.
        metrics: the scores that the task has.
        base: where the base model is, and its public name.
        base_revision: hub commit of the base model, where known; of a built-in one, the commit that has the
            same bytes.
        manifest: the run's ``privacy.json``, read.
        manifest_bytes: the same, as it stands in the file.
    """

    record: RunRecord
    spec: RunSpec
    mode: Mode
    task_description: str
    is_pair: bool
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    base: Location
    base_revision: str | None
    manifest: dict[str, Any]
    manifest_bytes: bytes

    @property
    def base_is_public(self) -> bool:
        """Whether the base model's name is a hub id: a package's is, a folder's is not."""
        return not self.base.local or self.spec.model.checkpoint.startswith("builtin:")

    @property
    def adapter(self) -> Path:
        """The run's adapter folder."""
        return self.record.run_dir / "adapter"

    @property
    def store_home(self) -> Path:
        """The store that the run is in."""
        return self.record.run_dir.parent.parent


@dataclass(frozen=True)
class RestoredRun:
    """A run and its model, put together from the run's files.

    Attributes:
        source: the run.
        model: its model, in eval mode, float32.
        tokenizer: the base model's.
    """

    source: Source
    model: Any
    tokenizer: Any

    @property
    def base_options(self) -> dict[str, Any]:
        """How plain ``transformers`` loads the base model as the run did; checked, and put on the card."""
        options: dict[str, Any] = {"revision": self.source.base_revision} if self.source.base_revision else {}
        labels = self.source.labels
        options |= {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
        }
        if self.model.config.pad_token_id is not None:
            options["pad_token_id"] = self.model.config.pad_token_id
        return {**options, "dtype": "float32", "ignore_mismatched_sizes": True}


def open_run(record: RunRecord, spec: RunSpec) -> Source:
    """Find everything that an export is made from.

    Raises:
        NotFoundError: the run has no adapter, or no manifest that speaks of it.
        StoreError: the manifest is damaged, or of a newer major.
        ExportError: the adapter's tensors are not those that the manifest speaks of.
    """
    path = record.run_dir / "privacy.json"
    if not (record.run_dir / "adapter").is_dir() or not path.is_file():
        raise NotFoundError(
            f"run {record.name} has no adapter to export: it is {record.status}, after {record.steps} steps",
            hint="export a run that is completed, or was interrupted after its first step; see 'dpft list'",
        )
    manifest = Store(record.run_dir.parent.parent).manifest(record)
    task = task_of(spec.data)
    base = locate(spec.model)
    revision = manifest.get("base_model", {}).get("revision")
    source = Source(
        record=record,
        spec=spec,
        mode=MODES.get(spec.tuning.mode),
        task_description=task.description,
        is_pair=task.is_pair,
        labels=tuple(task.labels),
        metrics=tuple(task.metrics),
        base=base,
        base_revision=published_commit(spec.model.checkpoint) if base.local else revision and str(revision),
        manifest=manifest,
        manifest_bytes=path.read_bytes(),
    )
    _check_adapter(source)
    return source


def restore_run(source: Source) -> RestoredRun:
    """Put the run's model together.

    Raises:
        ModelError: the files do not fit the base model.
        HubError: the base model is out of reach.
    """
    model, tokenizer = restore(source.spec.model, source.spec.tuning, source.labels, source.adapter)
    return RestoredRun(source, model, tokenizer)


def check_base(source: Source, pad_token_id: int | None) -> None:
    """Is the base model still the one that was trained on?

    A folder may have been changed since, and a hub id may mean a newer commit: export and run would then
    agree with each other, and with nothing that was ever trained or scored.

    Raises:
        ExportError: its tensors are not those that the manifest names.
    """
    stated = source.manifest.get("base_model", {}).get("sha256")
    if stated is None:
        return
    found = identify(load_model(source.spec.model, source.labels, pad_token_id), source.spec.model).sha256
    if found != stated:
        raise ExportError(
            f"base model {source.base.public_id} has changed since run {source.record.name} was trained: its "
            f"tensors are {found[:12]}…, the manifest says {stated[:12]}…",
            hint="put the original checkpoint in its place (for a hub id, the commit in the manifest)",
        )


def _check_adapter(source: Source) -> None:
    run_id = source.manifest.get("identity", {}).get("run_id")
    if run_id != source.record.run_id:
        raise ExportError(
            f"the manifest in run {source.record.run_id} is of run {run_id}",
            hint=_DAMAGED,
        )
    stated = source.manifest.get("evidence", {}).get("tensors_sha256")
    found = adapter_sha256(source.adapter)
    if stated is not None and found != stated:
        raise ExportError(
            f"the adapter of run {source.record.name} is not the one its manifest speaks of: "
            f"its tensors are {found[:12]}…, the manifest says {stated[:12]}…",
            hint=_DAMAGED,
        )
