"""Rows from a file of the user's own: CSV, TSV, JSON Lines or Parquet, told apart by their ending.

Files are read piece by piece, never whole. As with GLUE files nothing is dropped, repaired or guessed: bad
rows stop everything, each named by its line. A row of a CSV may have several lines (a line feed between
quotation marks); it is named by the first. TSV has no quoting, as text/tab-separated-values defines it.
"""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpft.data.columns import in_brief, locate_columns, missing_column
from dpft.data.raw import RawSplit
from dpft.data.task import Task
from dpft.data.text_lines import open_error, text_lines
from dpft.errors import DataError, NotFoundError, UsageError

__all__ = ["FORMATS", "check_file", "labels_in", "read_table"]

_MORE = 5
_SHOWN = 40
_CORRECT = "correct or remove these rows; dpft never drops a row by itself"


class _Row(NamedTuple):
    """One row: where it begins, its values in the order of the columns asked for, or what is wrong."""

    number: int
    values: tuple[str | None, ...] = ()
    fault: str = ""


_Reader = Callable[[Path, Sequence[str]], Iterator[_Row]]


def check_file(path: Path, option: str) -> None:
    """Refuse a path that cannot be a table, before anything is loaded.

    Raises:
        NotFoundError: there is no such file.
        UsageError: a folder, or an ending that no reader knows.
    """
    known = ", ".join(FORMATS)
    if path.is_dir():
        raise UsageError(f"{option} {str(path)!r} is a folder", hint=f"give one file: {known}")
    if path.suffix.lower() not in FORMATS:
        ending = repr(path.suffix) if path.suffix else "no ending"
        raise UsageError(f"{option} {str(path)!r} has {ending}", hint=f"dpft reads files that end in {known}")
    if not path.is_file():
        raise NotFoundError(f"no file {str(path)!r}", hint=f"{option} takes a file: {known}")


def read_table(task: Task, path: Path) -> RawSplit:
    """Read one split.

    Args:
        task: names its text columns, its label column and its labels.
        path: ends in one of :data:`FORMATS`.

    Raises:
        NotFoundError: there is no such file.
        UsageError: another ending.
        DataError: no rows, not UTF-8, a column missing or twice there, or bad rows: another number of fields
            than the header has, no text, a label that is not the task's. Texts are private and not repeated.
    """
    check_file(path, "--data-file")
    columns = (*task.text_columns, task.label_column)
    codes = task.label_codes
    texts: tuple[list[str], ...] = tuple([] for _ in task.text_columns)
    labels: list[int] = []
    numbers = array("q")
    faults: list[_Row] = []
    bad = 0
    for row in _rows(path, columns):
        fault = row.fault or _fault(columns, row.values, codes)
        if fault:
            bad += 1
            faults += [_Row(row.number, fault=fault)] if len(faults) <= _MORE else []
            continue
        *row_texts, label = row.values
        for column, text in zip(texts, row_texts, strict=True):
            column.append(text or "")
        labels.append(codes[label or ""])
        numbers.append(row.number)
    if faults:
        raise _refusal(path, faults, bad)
    if not labels:
        raise DataError(f"{path}: no rows", hint="give a file with at least one row")
    return RawSplit(texts=texts, labels=labels, origin=str(path), numbers=numbers, unit=_unit(path))


def labels_in(path: Path, columns: Sequence[str], most: int = 20) -> list[str] | None:
    """The labels that a file has, sorted, for its owner to declare; None where they look like none.

    Args:
        path: the file.
        columns: text columns and, last, the label column.
        most: how many labels are believable.

    Raises:
        DataError: a file or a column that cannot be read.
    """
    found: set[str] = set()
    for row in _rows(path, columns):
        label = row.values[-1] if row.values else None
        if label:
            found.add(label)
        if len(found) > most or (label and (len(label) > _SHOWN or not label.isprintable())):
            return None
    return sorted(found)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    try:
        yield from FORMATS[path.suffix.lower()](path, columns)
    except OSError as error:
        raise open_error(path, error) from error


def _csv(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    return _delimited(path, columns, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _tsv(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    return _delimited(path, columns, delimiter="\t", quoting=csv.QUOTE_NONE)


def _delimited(path: Path, columns: Sequence[str], **dialect: Any) -> Iterator[_Row]:
    reader = csv.reader(text_lines(path), strict=True, **dialect)
    header: list[str] = []
    indices: list[int] = []
    empty = 0  # lines without anything: at the end they are no rows, elsewhere they are bad ones
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield _Row(number, fault=_csv_fault(error, number, reader.line_num))
            return
        if not header:
            if not fields:
                raise DataError(f"{path}, line 1: the header is empty", hint="begin with the column names")
            header, indices = fields, locate_columns(path, fields, columns, str(dialect["delimiter"]))
        elif not fields:
            empty = empty or number
        else:
            if empty:
                yield _Row(empty, fault="the line is empty")
                empty = 0
            if len(fields) != len(header):
                found = f"expected {len(header)} fields, as the header has, found {len(fields)}"
                yield _Row(number, fault=found)
            else:
                yield _Row(number, tuple(fields[index] for index in indices))
    if not header:
        raise DataError(f"{path}: the file is empty", hint="give a file with a header and rows")


def _csv_fault(error: csv.Error, first: int, last: int) -> str:
    """A parser's complaint in the user's words."""
    said = str(error)
    if "unexpected end" in said:
        return "a quotation mark is opened and never closed"
    if "field limit" in said:
        limit = csv.field_size_limit()
        return f"a field has more than {limit:,} characters, or a quotation mark is never closed"
    if "new-line character" in said:
        return "a carriage return stands inside a line; lines end in LF or CRLF"
    where = f" (on line {last})" if last > first else ""
    return (
        f"text follows a closing quotation mark{where}; a quotation mark inside quoted text is written twice"
    )


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    some = False
    empty = 0
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            empty = empty or number
            continue
        if empty:
            yield _Row(empty, fault="the line is empty")
            empty = 0
        row = _json_row(number, line, columns)
        if isinstance(row, Mapping):
            absent = [column for column in columns if column not in row]
            if absent and not some:
                raise missing_column(path, number, list(row), columns, absent[0])
            row = (
                _Row(number, fault=f"no {absent[0]!r} in the object")
                if absent
                else _typed(number, [row[column] for column in columns], columns)
            )
        some = True
        yield row
    if not some:
        raise DataError(f"{path}: the file is empty", hint="give a file with one JSON object a line")


def _json_row(number: int, line: str, columns: Sequence[str]) -> _Row | Mapping[str, Any]:
    """A line's object, or what is wrong with it."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = [name for name in columns if [key for key, _ in pairs].count(name) > 1]
            if twice:
                raise _TwiceError(twice[0])
        return found

    try:
        document = json.loads(line, object_pairs_hook=once)
    except _TwiceError as error:
        return _Row(number, fault=f"{str(error)!r} stands twice in the object")
    except json.JSONDecodeError as error:
        return _Row(number, fault=f"not valid JSON, at character {error.pos + 1}")
    except (RecursionError, ValueError):  # nested too deeply; an integer of too many digits
        return _Row(number, fault="not a flat JSON object")
    if not isinstance(document, dict):
        return _Row(number, fault="not a JSON object")
    return document


class _TwiceError(Exception):
    """A key that an object has twice."""


def _typed(number: int, values: Sequence[Any], columns: Sequence[str]) -> _Row:
    """JSON values as text: strings for texts; for a label also an integer, or true or false."""
    *texts, label = values
    for column, text in zip(columns, texts, strict=False):
        if text is not None and not isinstance(text, str):
            return _Row(number, fault=f"{column!r} is no text but a JSON {_JSON_NAMES[type(text)]}")
    if isinstance(label, float | list | dict):
        accepted = "give a string or an integer"
        return _Row(number, fault=f"label {columns[-1]!r} is a JSON {_JSON_NAMES[type(label)]}; {accepted}")
    return _Row(number, (*texts, _as_label(label)))


_JSON_NAMES = {bool: "boolean", int: "number", float: "decimal number", list: "array", dict: "object"}


def _as_label(value: Any) -> str | None:
    """A label as it would be declared: ``1`` for the integer 1, ``true`` for True."""
    if value is None or isinstance(value, str):
        return value
    return str(value).lower()


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    from dpft.data.parquet import parquet_batches

    number = 0
    for batch in parquet_batches(path, columns):
        *texts, labels = batch
        for *row_texts, label in zip(*texts, labels, strict=True):
            yield _Row(number, (*row_texts, _as_label(label)))
            number += 1


def _fault(columns: Sequence[str], values: Sequence[str | None], codes: Mapping[str, int]) -> str:
    """What is wrong with a row's values, without quoting its texts; empty if nothing is."""
    *texts, label = values
    for column, text in zip(columns, texts, strict=False):
        if text is None:
            return f"column {column!r} is null"
        if not text.strip():
            return f"column {column!r} is empty"
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            return f"column {column!r} has half a surrogate pair, which is no character"
    if not label:
        return f"column {columns[-1]!r} is {'null' if label is None else 'empty'}"
    if label not in codes:
        return f"unknown label {in_brief(label)} in column {columns[-1]!r}; declared: {', '.join(codes)}"
    return ""


def _unit(path: Path) -> str:
    return "row" if path.suffix.lower() == ".parquet" else "line"


def _refusal(path: Path, faults: Sequence[_Row], bad: int) -> DataError:
    """One line for all bad rows: the first explained, the next few named, the rest counted."""
    what = _unit(path)
    counted = " (counted from 0)" if what == "row" else ""
    first, *others = faults
    message = f"{path}, {what} {first.number}{counted}: {first.fault}"
    if others:
        numbers = ", ".join(str(row.number) for row in others[:_MORE])
        more = ", …" if bad - 1 > _MORE else ""
        message += f" ({bad - 1} more bad {'row' if bad == 2 else 'rows'}: {what} {numbers}{more})"
    hint = _CORRECT
    if "unknown label" in first.fault:
        hint = "declare every label, in order, with --labels, or correct these rows"
    return DataError(message, hint=hint)


FORMATS: Mapping[str, _Reader] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
"""Readers by the file's ending."""
