"""Files of the user's own, as options give them: which, under which name, with which columns and labels."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpft.cli.options import DATASETS_ARGUMENT
from dpft.errors import UsageError
from dpft.tables import TASKS

if TYPE_CHECKING:
    from dpft.cli.request import Given
    from dpft.cli.subject import Wish
    from dpft.data.task import Task
    from dpft.spec import DataSpec

__all__ = [
    "absolute",
    "as_labels",
    "file_fields",
    "file_wishes",
    "name_of_file",
    "scored_file",
    "settle_files",
    "text_of_labels",
]

_ABOUT = ("validation_file", "text_column", "label_column", "labels")
_OPTIONS = {name: "--" + name.replace("_", "-") for name in ("data_file", *_ABOUT)}
_LONGEST = 40


def settle_files(given: Given, names: Sequence[str]) -> Given:
    """Decide between a file, a GLUE folder and built-in datasets: what was given more strongly wins.

    Args:
        given: options of ``prepare`` or ``train``.
        names: datasets named among them, from anywhere.

    Raises:
        UsageError: a file and a folder equally strongly, or columns and labels without a file.
    """
    if "data_file" in given.values:
        strength = given.strength["data_file"]
        if "data_dir" in given.values:
            other = given.strength["data_dir"]
            if other == strength:
                raise UsageError("--data-file and --data-dir exclude each other", hint="give one of them")
            if other > strength:
                return _without_file(given, other)
            given = given.without("data_dir")
        named = max(
            (given.strength[name] for name in ("datasets", DATASETS_ARGUMENT) if name in given.values),
            default=0,
        )
        if named > strength and any(name in TASKS for name in names):
            return _without_file(given, named)
        if named < strength and (len(names) > 1 or any(name in TASKS for name in names)):
            return given.without("datasets", DATASETS_ARGUMENT)
        return given
    return _without_file(given, 0)


def _without_file(given: Given, by: int) -> Given:
    """Drop the file, and what belongs to it where that was given less strongly than what replaces it."""
    for name in _ABOUT:
        if name in given.values and given.strength[name] >= by:
            raise UsageError(
                f"{_OPTIONS[name]} has no effect without --data-file", hint="leave it out, or give the file"
            )
    return given.without("data_file", *_ABOUT)


def name_of_file(path: Path) -> str:
    """What to call a dataset by default: the file's name without its ending.

    >>> name_of_file(Path("my data/customer reviews.csv"))
    'customer-reviews'
    """
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^\w.+-]+", "-", path.stem))
    return name.lstrip("-+.")[:_LONGEST].rstrip("-+.") or "data"


def absolute(path: Path | str) -> str:
    """Where a file is, so that a run finds it again from elsewhere."""
    return str(Path(path).expanduser().absolute())


def file_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a ``DataSpec`` that speak of files.

    Labels are never learnt from rows. Where they are not declared, the file is read only to show its owner
    the option to copy.

    Raises:
        NotFoundError: there is no such file.
        UsageError: a file of another kind, or no labels.
        DataError: no labels, and the file cannot be read.
    """
    if "data_file" not in values:
        return {}
    from dpft.data.table_file import check_file

    fields: dict[str, Any] = {}
    for name in ("data_file", "validation_file"):
        if name in values:
            fields[name] = absolute(values[name])
            check_file(Path(fields[name]), _OPTIONS[name])
    if "text_column" in values:
        fields["text_columns"] = tuple(values["text_column"])
    if "label_column" in values:
        fields["label_column"] = values["label_column"]
    if "labels" not in values:
        columns = (*fields.get("text_columns", ("text",)), fields.get("label_column", "label"))
        raise _no_labels(Path(fields["data_file"]), columns)
    fields["labels"] = as_labels(values["labels"])
    return fields


def file_wishes(
    data_file: Path | None,
    text_column: Sequence[str] | None,
    label_column: str | None,
    labels: str | None,
    data_dir: Path | None,
) -> dict[str, Any]:
    """Options of ``eval`` about a file, by the names of a ``DataSpec``; empty without a file.

    Raises:
        UsageError: columns or labels without a file, or a file and a folder.
    """
    about = {
        "--text-column": ("text_columns", tuple(text_column or ())),
        "--label-column": ("label_column", label_column),
        "--labels": ("labels", as_labels(labels) if labels is not None else None),
    }
    if data_file is None:
        for option in (option for option, (_, value) in about.items() if value):
            raise UsageError(
                f"{option} has no effect without --data-file", hint="leave it out, or give the file"
            )
        return {}
    if data_dir is not None:
        raise UsageError("--data-file and --data-dir exclude each other", hint="give one of them")
    return {"data_file": absolute(data_file), **{name: value for name, value in about.values() if value}}


def scored_file(
    wish: Wish, max_length: int | None, labels: Sequence[str], usual: Task | None = None
) -> tuple[DataSpec, Task]:
    """A file that is only scored.

    Args:
        wish: what the user asks for, with a file.
        max_length: tokens per example, unless another is wished for.
        labels: unless others are wished for.
        usual: whose columns the file has, unless others are wished for.

    Raises:
        NotFoundError: there is no such file.
        UsageError: a file of another kind, labels that are not known, or options that contradict each other.
    """
    from dpft.cli.request import data_spec
    from dpft.data.own_files import scored_on, task_of
    from dpft.data.table_file import check_file

    path = Path(wish.file["data_file"])
    check_file(path, "--data-file")
    fields = {"labels": tuple(labels), **wish.file}
    if usual is not None:
        fields = {"text_columns": usual.text_columns, "label_column": usual.label_column, **fields}
    if not fields["labels"]:
        columns = (*fields.get("text_columns", ("text",)), fields.get("label_column", "label"))
        raise _no_labels(path, columns)
    name = name_of_file(path)
    name = wish.dataset or (f"my-{name}" if name in TASKS else name)
    data = data_spec(name, None, wish.max_length or max_length, fields)
    return data, scored_on(task_of(data), path)


def as_labels(text: str) -> tuple[str, ...]:
    """Label names as ``--labels`` gives them; one with a comma stands in double quotes.

    >>> as_labels('negative, "yes, but",positive')
    ('negative', 'yes, but', 'positive')

    Raises:
        UsageError: a quotation mark that is not closed.
    """
    try:
        rows = list(csv.reader([text], strict=True, skipinitialspace=True))
    except csv.Error as error:
        raise UsageError(
            f"--labels {text!r} cannot be read", hint="separate names by commas; quote one with a comma in it"
        ) from error
    return tuple(label.strip() for row in rows for label in row)


def text_of_labels(labels: Sequence[str]) -> str:
    """The value of ``--labels`` that means these.

    >>> text_of_labels(["a", "b, c"])
    'a,"b, c"'
    """
    quoted = ('"' + label.replace('"', '""') + '"' if re.search('[",]', label) else label for label in labels)
    return ",".join(quoted)


def _no_labels(path: Path, columns: Sequence[str]) -> UsageError:
    from dpft.data.table_file import labels_in

    found = labels_in(path, columns)
    message = "--data-file needs --labels: label names are declared, never learnt from private rows"
    if not found:
        return UsageError(
            message,
            hint=f"name all labels of column {columns[-1]!r}, in order: --labels negative,positive",
        )
    return UsageError(
        message,
        hint=f"if all of these may be published, in the order you like: --labels "
        f"{shlex.quote(text_of_labels(found))}",
    )
