"""Which column of a file is which, and what to say where one is missing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from dpft.errors import DataError

__all__ = ["in_brief", "locate_columns", "missing_column"]

_MOST = 20
_NAME = re.compile(r"(?=.{1,40}$)[\w.-]+( [\w.-]+){0,2}")  # no sentence
_NUMBER = re.compile(r"[+-]?[0-9.]{0,6}", re.ASCII)  # 0, -1, 1.0
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}


def locate_columns(path: Path, header: Sequence[str], columns: Sequence[str], separator: str) -> list[int]:
    """Where each column stands in a header.

    Args:
        path: for error texts.
        header: the names in the file's first line.
        columns: text columns and, last, the label column.
        separator: of the file's kind.

    Raises:
        DataError: one is missing, with the nearest that is there; or is there twice.
    """
    for column in columns:
        if header.count(column) > 1:
            raise DataError(
                f"{path}, line 1: column {column!r} is there {header.count(column)} times",
                hint="rename all but one of them",
            )
        if column not in header:
            other = next((s for s in _SEPARATORS if s != separator and s in header[0]), None)
            if len(header) == 1 and other is not None:
                ending = "name the file .tsv" if other == "\t" else "save it with commas"
                raise DataError(
                    f"{path}, line 1: no column {column!r}: the columns seem to be separated by "
                    f"{_SEPARATORS[other]}, not by {_SEPARATORS[separator]}",
                    hint=ending,
                )
            raise missing_column(path, 1, header, columns, column)
    return [header.index(column) for column in columns]


def missing_column(
    path: Path, line: int | None, found: Sequence[str], columns: Sequence[str], column: str
) -> DataError:
    """The error for a column that is not there.

    A file without a header begins with a private text, so only what looks like a column name is shown, and
    names near to the one that was asked for.
    """
    option = "--label-column" if column == columns[-1] else "--text-column"
    near = difflib.get_close_matches(column, found, n=1)
    same = [name for name in found if name.strip().casefold() == column.strip().casefold()]
    shown = ", ".join(
        name if _NAME.fullmatch(name) else f"({len(name)} characters)" for name in found[:_MOST]
    )
    more = ", …" if len(found) > _MOST else ""
    place = str(path) if line is None else f"{path}, line {line}"
    meant = (same or near)[:1]
    question = f"did you mean {meant[0]!r}? " if meant else ""
    return DataError(
        f"{place}: no column {column!r}; columns found: {shown}{more}",
        hint=f"{question}name the columns with --text-column and --label-column (here {option})",
    )


def in_brief(label: str) -> str:
    """A value that is no label, for an error text: what looks like a number, of the rest its length alone.

    Where columns were confused, it is a private text.
    """
    return repr(label) if _NUMBER.fullmatch(label) else f"of {len(label)} characters"
