"""Reading folders that somebody else made: nothing outside them is reached, and nothing in them is trusted.

A folder with an adapter in it may come from anywhere. Before any library sees it, it is looked at here: only
regular files, no links, JSON of bounded size and depth that means the same to every reader. What is read is
read once, from the very file that was checked. (Somebody who can change the folder while it is being read is
the user, and not guarded against.)
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn

from dpft.errors import NotFoundError, UntrustedError

__all__ = [
    "JSON_BYTES",
    "JSON_DEPTH",
    "MOST_FILES",
    "check_relative_name",
    "list_folder",
    "open_regular",
    "parse_json",
    "read_bounded",
    "read_json",
    "shown",
]

JSON_BYTES = 4 << 20
"""The largest JSON document read: an adapter's configuration and a manifest have some kilobytes."""

JSON_DEPTH = 32
MOST_FILES = 1000
_LONGEST_SHOWN = 80
_NO_LINKS = "look at what it points to; 'cp -rL' makes a copy without links, if all of it may be read"
_FETCH_AGAIN = "fetch it again from where it came from; nothing of it was loaded"


def shown(text: object) -> str:
    r"""``text`` for an error line: quoted, without control characters, and not long.

    >>> print(shown(chr(27) + "[2J"))
    '\x1b[2J'
    """
    quoted = ascii(text)
    return quoted if len(quoted) <= _LONGEST_SHOWN else quoted[:_LONGEST_SHOWN] + "…"


def list_folder(folder: Path) -> tuple[str, ...]:
    """Every file below ``folder``, without following anything out of it.

    Args:
        folder: where to look; it may itself be reached by a link, which the user named.

    Returns:
        Relative names with forward slashes, sorted.

    Raises:
        NotFoundError: there is no such folder.
        UntrustedError: a symbolic link, something that is no regular file (a device, a pipe, a socket), a
            name with control characters, more than ``MOST_FILES`` entries, or a folder that cannot be read.
    """
    if not folder.is_dir():
        raise NotFoundError(f"no folder {folder}", hint="give the path of an adapter's folder")
    names: list[str] = []
    for count, path in enumerate(_entries(folder), start=1):
        if count > MOST_FILES:
            raise UntrustedError(
                f"{folder} holds more than {MOST_FILES} files",
                hint="give the folder of one adapter, with little else in it",
            )
        name = path.relative_to(folder).as_posix()
        mode = path.lstat().st_mode
        if not name.isprintable():
            raise UntrustedError(
                f"{folder} holds a file with the unusual name {shown(name)}", hint="take it out"
            )
        if stat.S_ISLNK(mode):
            raise UntrustedError(f"{shown(name)} in {folder} is a symbolic link", hint=_NO_LINKS)
        if stat.S_ISREG(mode):
            names.append(name)
        elif not stat.S_ISDIR(mode):
            raise UntrustedError(
                f"{shown(name)} in {folder} is no regular file ({_kind(mode)})", hint="take it out"
            )
    return tuple(sorted(names))


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; never through a link, and never waiting for a pipe.

    Raises:
        NotFoundError: there is none.
        UntrustedError: it is something else, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise NotFoundError(f"no file {path}", hint="the folder is not complete") from error
    except OSError as error:
        if path.is_symlink():
            raise UntrustedError(f"{path} is a symbolic link", hint=_NO_LINKS) from error
        raise UntrustedError(
            f"{path} cannot be read: {error.strerror}", hint="check its owner and permissions"
        ) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise UntrustedError(f"{path} is no regular file ({_kind(mode)})", hint="take it out")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, most: int) -> bytes:
    """A file's content, if it is not larger than ``most`` bytes.

    Raises:
        NotFoundError: there is none.
        UntrustedError: it is larger, no regular file, or cannot be read.
    """
    with open_regular(path) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise UntrustedError(
            f"{path} has more than {most:,} bytes", hint="no such file is that large; " + _FETCH_AGAIN
        )
    return data


def read_json(path: Path, *, most: int = JSON_BYTES) -> Any:
    """Read a JSON document, as :func:`parse_json` does.

    Raises:
        NotFoundError: there is none.
        UntrustedError: it is larger than ``most`` bytes, or not such a document.
    """
    return parse_json(read_bounded(path, most), str(path))


def parse_json(data: bytes, where: str) -> Any:
    """Parse JSON that every reader understands alike.

    Args:
        data: UTF-8.
        where: its name in error lines.

    Raises:
        UntrustedError: not UTF-8, not JSON, a key given twice, a number that is not finite, deeper than
            ``JSON_DEPTH``, or text that no UTF-8 can hold (half a surrogate pair).
    """

    def refuse(problem: str, cause: Exception | None = None) -> NoReturn:
        raise UntrustedError(f"{where} {problem}", hint=_FETCH_AGAIN) from cause

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                refuse(f"gives the key {shown(key)} twice")
            found[key] = value
        return found

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            refuse(f"holds the number {shown(text)}, which is not finite")
        return value

    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=once,
            parse_float=finite,
            parse_constant=finite,
        )
    except UnicodeDecodeError as error:
        refuse("is not UTF-8", error)
    except RecursionError as error:
        refuse(f"is nested deeper than {JSON_DEPTH} levels", error)
    except ValueError as error:  # the text is quoted nowhere: it may be private, or meant for the terminal
        refuse("is not valid JSON", error)
    for depth, text in _walk(document):
        if depth > JSON_DEPTH:
            refuse(f"is nested deeper than {JSON_DEPTH} levels")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            refuse("holds text that is not valid Unicode")
    return document


def check_relative_name(name: object, where: str) -> str:
    """Return ``name`` if it names a file inside its folder, on any system.

    Args:
        name: as some document gives it, such as the index of a checkpoint in several files.
        where: that document, for error lines.

    Raises:
        UntrustedError: it is no text, absolute, has ``..`` or an empty part, a backslash, a colon or control
            characters.
    """
    bad = (
        not isinstance(name, str)
        or not name
        or PurePosixPath(name).is_absolute()
        or any(part in ("", ".", "..") for part in name.split("/"))
        or any(letter in '\\:*?"<>|' or not letter.isprintable() for letter in name)
    )
    if bad:
        raise UntrustedError(
            f"{where} names the file {shown(name)}, which is not plainly inside its folder",
            hint="names have no '..', no drive, no backslash, and do not begin with '/'; " + _FETCH_AGAIN,
        )
    return str(name)


def _entries(folder: Path) -> Iterator[Path]:
    """Everything below, folders before what is in them; links are not followed."""
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            with os.scandir(current) as found:
                inside = [Path(entry.path) for entry in found]
        except OSError as error:
            raise UntrustedError(
                f"{current} cannot be read: {error.strerror}", hint="check its owner and permissions"
            ) from error
        for path in inside:
            yield path
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)


def _walk(document: Any) -> Iterator[tuple[int, str]]:
    """Depth and text of every value and key, without recursion."""
    waiting = [(1, document)]
    while waiting:
        depth, node = waiting.pop()
        yield depth, node if isinstance(node, str) else ""
        if depth > JSON_DEPTH:
            continue
        if isinstance(node, dict):
            for key, value in node.items():
                waiting += [(depth + 1, key), (depth + 1, value)]
        elif isinstance(node, list):
            waiting += [(depth + 1, item) for item in node]


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFDIR: "a folder",
    }
    return kinds.get(stat.S_IFMT(mode), "of an unknown kind")
