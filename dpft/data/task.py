"""What a dataset is: its columns, its fixed labels, its files and its scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

__all__ = ["TRAIN", "Columns", "Task"]

TRAIN = "train"

Columns = tuple[tuple[list[str], ...], list[int]]
"""The rows of one split: one list of texts per text column, and the labels."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classification task over one sentence or a pair.

    Everything here is public and fixed beforehand. In particular the label set is never read off the data:
    a label that is not listed is an error, in ``prepare`` rather than in step 5,000.

    Attributes:
        name: the key in ``dpft.tables.TASKS``.
        description: one line for people.
        text_columns: one or two column names in the TSV header, in the order they are tokenised.
        label_column: its name in the TSV header.
        labels: label names; a label's integer is its position.
        validation_splits: split name to file name. At least one of the files must be there.
        train_file: file name of the train split.
        metrics: names in ``dpft.data.metrics.METRIC_NAMES``.
        glue_folder: folder name in the GLUE layout, or None for a built-in task.
        hub_config: configuration of the hub's GLUE repository, or None for a built-in task.
        hub_text_columns: column names on the hub, where they differ from the TSV's.
        hub_label_column: label column on the hub.
        generate: makes the rows of a built-in task, by split name; None for a task that is read.
        generator_revision: changes whenever ``generate`` makes other rows.
        own_files: split name to the user's own file; None for a task that is not the user's own.
    """

    name: str
    description: str
    text_columns: tuple[str, ...]
    labels: tuple[str, ...]
    label_column: str = "label"
    validation_splits: Mapping[str, str] = field(
        default_factory=lambda: {"validation": "dev.tsv"}, hash=False
    )
    train_file: str = "train.tsv"
    metrics: tuple[str, ...] = ("accuracy",)
    glue_folder: str | None = None
    hub_config: str | None = None
    hub_text_columns: tuple[str, ...] = ()
    hub_label_column: str = "label"
    generate: Callable[[], Mapping[str, Columns]] | None = None
    generator_revision: str | None = None
    own_files: Mapping[str, Path] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        """Fill in what follows from the rest, and refuse a task that cannot work.

        Raises:
            ValueError: the entry itself is wrong; this is for its author, not for a user.
        """
        if not 1 <= len(self.text_columns) <= 2:
            raise ValueError(
                f"task {self.name!r}: text_columns must name 1 or 2 columns, not {self.text_columns}"
            )
        if not 2 <= len(self.labels) == len(set(self.labels)):
            raise ValueError(
                f"task {self.name!r}: labels must be 2 or more different names, not {self.labels}"
            )
        if not self.validation_splits or TRAIN in self.validation_splits:
            raise ValueError(f"task {self.name!r}: validation_splits must name splits other than {TRAIN!r}")
        glue = self.glue_folder is not None and self.hub_config is not None
        if (self.generate is not None) + glue + (self.own_files is not None) != 1:
            raise ValueError(
                f"task {self.name!r}: give one of generate, own_files, and both glue_folder and hub_config"
            )
        object.__setattr__(self, "validation_splits", MappingProxyType(dict(self.validation_splits)))
        object.__setattr__(self, "hub_text_columns", self.hub_text_columns or self.text_columns)

    @property
    def is_pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.text_columns) == 2

    @property
    def files(self) -> Mapping[str, str]:
        """Every split's file name, the train split first."""
        return {TRAIN: self.train_file, **self.validation_splits}

    @property
    def label_codes(self) -> Mapping[str, int]:
        """How a file may spell each label: its name, or its integer.

        Where a name is itself an integer, names alone are meant: with labels ``1`` and ``2``, a ``1`` is not
        the second.
        """
        names = {name: i for i, name in enumerate(self.labels)}
        if any(name.lstrip("+-").isdecimal() for name in names):
            return names
        return names | {str(i): i for i in range(len(self.labels))}
