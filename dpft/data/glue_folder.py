"""Rows from tab-separated files in the GLUE layout: ``SST-2/train.tsv``, ``SST-2/dev.tsv`` and so on.

The files have a header and no quoting: a quotation mark is a character like any other, and only a line feed
ends a row (a Unicode line separator inside a text does not). Nothing is dropped, repaired or guessed. A row
that cannot be used stops everything, named by file and line; its text is private and is not repeated.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

from dpft.data.columns import in_brief
from dpft.data.raw import RawDataset, RawSplit
from dpft.data.task import TRAIN, Task
from dpft.errors import DataError, NotFoundError

__all__ = ["read_folder", "read_tsv"]

_SHOWN = 40
_MORE_LINES = 5
_COLUMN_NAME = re.compile(rf"[\w.-]{{1,{_SHOWN}}}", re.ASCII)


def read_folder(task: Task, data_dir: Path) -> RawDataset:
    """Read a task's splits from a GLUE folder, or from the task's own folder in it.

    Args:
        task: a task with a ``glue_folder``.
        data_dir: holds either ``<glue_folder>/<train_file>`` or ``<train_file>``.

    Returns:
        The train split and every validation split whose file is there.

    Raises:
        NotFoundError: no train file, or no validation file; the message lists what was looked for.
        DataError: a file that :func:`read_tsv` refuses.
    """
    assert task.glue_folder is not None
    folders = (data_dir / task.glue_folder, data_dir)
    folder = next((folder for folder in folders if (folder / task.train_file).is_file()), None)
    if folder is None:
        raise _not_found(task, "train file", [folder / task.train_file for folder in folders])
    paths = {name: folder / file for name, file in task.files.items()}
    found = {name: path for name, path in paths.items() if path.is_file()}
    if set(found) == {TRAIN}:
        raise _not_found(task, "validation file", [path for name, path in paths.items() if name != TRAIN])
    splits = {name: read_tsv(task, path) for name, path in found.items()}
    return RawDataset(splits=splits, source=f"local files in the GLUE layout ({task.glue_folder})")


def read_tsv(task: Task, path: Path) -> RawSplit:
    """Read one split.

    A byte order mark, CRLF line ends, empty lines at the end and columns beyond the task's are tolerated.

    Raises:
        DataError: no rows, not UTF-8, a header without a needed column, or a bad row: another number of
            fields than the header has, an empty text, a label that is not the task's.
    """
    lines = _lines(path)
    header, rows = lines[0].split("\t"), lines[1:]
    text_indices = [_column(task, header, column, path) for column in task.text_columns]
    label_index = _column(task, header, task.label_column, path)
    if not rows:
        raise DataError(f"{path}: no rows after the header", hint="give a file with at least one row")

    split = RawSplit(texts=tuple([] for _ in text_indices), labels=[], origin=str(path), first_line=2)
    codes, columns = task.label_codes, list(zip(text_indices, split.texts, strict=True))
    faults: list[tuple[int, str]] = []
    for number, row in enumerate(rows, start=2):
        fields = row.split("\t")
        fault = _fault(task, header, fields, text_indices, label_index)
        if fault:
            faults.append((number, fault))
            continue
        for index, texts in columns:
            texts.append(fields[index])
        split.labels.append(codes[fields[label_index]])
    if faults:
        raise _refusal(path, faults)
    return split


def _lines(path: Path) -> list[str]:
    """The file's lines, without their ends; at least one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint="check the file's permissions") from error
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
        # Not chained: the decoding error carries the whole file, which is private.
        raise DataError(
            f"{path}, line {line}: byte {column} is not valid UTF-8", hint="convert the file to UTF-8"
        ) from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path}: the file is empty", hint="give a tab-separated file with a header line")
    return lines


def _column(task: Task, header: Sequence[str], column: str, path: Path) -> int:
    """Where a needed column stands in the header."""
    if header.count(column) == 1:
        return header.index(column)
    # A file without a header starts with a private text: show only what looks like a column name.
    shown = ", ".join(
        name if _COLUMN_NAME.fullmatch(name) else f"({len(name)} characters)" for name in header[:20]
    )
    needed = ", ".join((*task.text_columns, task.label_column))
    problem = "twice in" if column in header else "missing from"
    raise DataError(
        f"{path}, line 1: column {column!r} is {problem} the header; columns found: {shown}",
        hint=f"{task.name} needs the tab-separated columns {needed}",
    )


def _fault(
    task: Task, header: Sequence[str], fields: Sequence[str], text_indices: Sequence[int], label_index: int
) -> str:
    """What is wrong with a row, without quoting its texts; empty if nothing is."""
    if len(fields) != len(header):
        return f"expected {len(header)} tab-separated fields, found {len(fields)}"
    for index in text_indices:
        if not fields[index].strip():
            return f"column {header[index]!r} is empty"
    label = fields[label_index]
    if label not in task.label_codes:
        accepted = ", ".join(task.label_codes)
        return f"unknown label {in_brief(label)} in column {header[label_index]!r}; accepted: {accepted}"
    return ""


def _refusal(path: Path, faults: Sequence[tuple[int, str]]) -> DataError:
    """One line for all bad rows: the first explained, the next few counted."""
    (line, fault), *others = faults
    message = f"{path}, line {line}: {fault}"
    if others:
        lines = ", ".join(str(number) for number, _ in others[:_MORE_LINES])
        more = ", …" if len(others) > _MORE_LINES else ""
        message += f" ({len(others)} more bad {'row' if len(others) == 1 else 'rows'}: line {lines}{more})"
    return DataError(message, hint="correct or remove these rows; dpft never drops a row by itself")


def _not_found(task: Task, what: str, paths: Sequence[Path]) -> NotFoundError:
    looked_for = ", ".join(str(path) for path in paths)
    return NotFoundError(
        f"no {what} for {task.name}; looked for {looked_for}",
        hint=f"--data-dir takes a folder in the GLUE layout, with {task.glue_folder}/{task.train_file}",
    )
