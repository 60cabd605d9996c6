"""The lines of a UTF-8 file, one at a time, and one clear error where it is not such a file."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from dpft.errors import DataError

__all__ = ["open_error", "text_lines"]

_OTHERS = {
    codecs.BOM_UTF16_LE: ("UTF-16 text", "convert the file to UTF-8"),
    codecs.BOM_UTF16_BE: ("UTF-16 text", "convert the file to UTF-8"),
    b"\x1f\x8b": ("compressed (gzip)", "unpack it first"),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV in UTF-8"),
    b"PAR1": ("a Parquet file", "give it the ending .parquet"),
}
"""How other files begin, what they are, and the remedy."""


def text_lines(path: Path) -> Iterator[str]:
    """Each line with its end (LF or CRLF); a byte order mark is left out.

    Raises:
        DataError: bytes that are not UTF-8, named by line; or a file of another kind.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                for beginning, (what, remedy) in _OTHERS.items():
                    if raw.startswith(beginning):
                        raise DataError(f"{path} is {what}", hint=remedy)
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                # Not chained: the decoding error carries the line, which is private.
                message = f"{path}, line {number}: byte {error.start + 1} is not valid UTF-8"
                raise DataError(message, hint="convert the file to UTF-8") from None
            yield line


def open_error(path: Path, error: OSError) -> DataError:
    """A file that the system does not let read."""
    return DataError(f"{path}: {error.strerror or error}", hint="check the file's permissions")
