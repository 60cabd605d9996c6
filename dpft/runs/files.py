"""Files that are either wholly written or not at all.

Every document is written beside its final name, flushed to the disk and renamed into place; a reader, or a
process killed at any moment, sees the old content or the new, never a mixture. The same holds for whole
folders (:func:`publish_dir`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpft.errors import StoreError

__all__ = [
    "CHECKPOINTS",
    "LOCAL_ONLY",
    "FileEntry",
    "append_durably",
    "append_line",
    "cut_off",
    "ensure_directory",
    "file_table",
    "publish_dir",
    "remove",
    "sha256_file",
    "storing",
    "write_atomic",
    "write_json_atomic",
]

LOCAL_ONLY = "local-only"
"""Name of the folder, inside a run, whose files must never be shared."""

CHECKPOINTS = "checkpoints"
"""Name of the folder, inside a run, with what it takes to go on with it; of no use to anybody else."""

_UNSHARED = {CHECKPOINTS, LOCAL_ONLY}
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_DIRECTORY_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


@dataclass(frozen=True, order=True, slots=True)
class FileEntry:
    """One file of a folder.

    Attributes:
        name: path relative to the folder, with forward slashes on every platform.
        sha256: hex digest of the content.
        size: bytes.
    """

    name: str
    sha256: str
    size: int

    def to_json(self) -> dict[str, Any]:
        """The entry as the JSON contract spells it: ``name``, ``sha256``, ``size``."""
        return asdict(self)


def write_atomic(path: Path, content: bytes | str, mode: int = 0o600) -> None:
    """Write a file so that it is replaced as a whole or left as it was.

    Args:
        path: the file; its folder must exist.
        content: bytes, or text to be encoded as UTF-8.
        mode: permission bits of the new file, whatever the umask says.

    Raises:
        StoreError: the disk is full or the folder cannot be written; the old content is intact and no
            temporary file is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    with storing("write", path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            if mode != 0o600:  # what mkstemp gives
                temporary.chmod(mode)
            os.replace(temporary, path)  # noqa: PTH105 (the one call tests replace)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync_directory(path.parent)


def write_json_atomic(path: Path, document: Any, mode: int = 0o600) -> None:
    """Write ``document`` as indented UTF-8 JSON, atomically.

    Raises:
        ValueError: ``document`` holds NaN or an infinity, which JSON cannot say.
        StoreError: as :func:`write_atomic`.
    """
    write_atomic(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", mode)


def append_line(path: Path, line: str) -> None:
    """Append one line to a file (made with mode 0600) and hand it to the operating system.

    Args:
        path: the file.
        line: text without a line feed.

    Raises:
        StoreError: the line could not be written whole; a torn tail is cut off again.
    """
    with storing("append to", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as stream:
            size = os.fstat(descriptor).st_size
            data = line.encode() + b"\n"
            try:
                if stream.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise


def append_durably(path: Path, line: bytes) -> None:
    """Append one line to a file (made with mode 0600), and return only when it is on the disk.

    The line feed is written after the text before it has been flushed: so a line that ends in one is whole,
    however the power fails, and text without one was never acknowledged.

    Args:
        path: the file; its folder must exist. Where the file is new, the folder is flushed, and the one it is
            in, which may be as new.
        line: bytes without a line feed.

    Raises:
        StoreError: the disk is full or fails; what was written of the line is cut off again where possible.
    """
    with storing("append to", path):
        new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            try:
                for part in (line, b"\n"):
                    if os.write(descriptor, part) != len(part):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if new:
            _fsync_directory(path.parent)
            _fsync_directory(path.parent.parent)


def cut_off(path: Path, size: int) -> None:
    """Shorten a file to its first ``size`` bytes, on the disk too.

    Raises:
        StoreError: it cannot be written.
    """
    with storing("shorten", path), path.open("r+b") as stream:
        stream.truncate(size)
        os.fsync(stream.fileno())


def remove(path: Path) -> None:
    """Remove a file, if it is there, and have that on the disk.

    Raises:
        StoreError: the folder cannot be written.
    """
    with storing("remove", path):
        path.unlink(missing_ok=True)
        _fsync_directory(path.parent)


def ensure_directory(path: Path) -> Path:
    """Make ``path`` and its missing parents with mode 0700; folders that exist keep their mode.

    Returns:
        ``path``.

    Raises:
        StoreError: it cannot be made, or is not a folder.
    """
    with storing("make", path):
        for folder in reversed([path, *path.parents]):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, exist_ok=True)
    return path


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content.

    Raises:
        StoreError: the file cannot be read.
    """
    with storing("read", path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_table(directory: Path, *, exclude: Collection[str] = ()) -> list[FileEntry]:
    """Name, digest and size of every file below ``directory`` that may be shared.

    Args:
        directory: the folder.
        exclude: relative names to leave out as well.

    Returns:
        Entries sorted by name. Lock files, unfinished temporary files and everything in ``checkpoints/`` and
        ``local-only/`` are left out: the first three come and go, and the digest of a file of private numbers
        would let an outsider confirm a guess at them.

    Raises:
        StoreError: a file cannot be read.
    """
    entries = []
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if name in exclude or not path.is_file() or _is_passing(path) or _UNSHARED & {*name.split("/")}:
            continue
        entries.append(FileEntry(name, sha256_file(path), path.stat().st_size))
    return sorted(entries)


def publish_dir(temporary: Path, final: Path, *, overwrite: bool = False) -> None:
    """Put a finished folder in its place in one step.

    Args:
        temporary: the folder as it shall be, on the same file system as ``final``.
        final: its place; an empty folder there is replaced.
        overwrite: replace a folder with content too. It is moved aside first and put back if the exchange
            fails.

    Raises:
        StoreError: ``final`` has content and ``overwrite`` is off, or the disk refuses; ``temporary`` is then
            still where it was.
    """
    if final.exists() and not final.is_dir():
        raise StoreError(f"{final} is not a folder", hint="choose another place, or move that file away")
    occupied = final.is_dir() and any(final.iterdir())
    if occupied and not overwrite:
        raise StoreError(
            f"{final} exists and is not empty", hint="choose another place, or ask for overwriting"
        )
    with storing("publish", final):
        for path in [temporary, *temporary.rglob("*")]:
            _fsync_directory(path) if path.is_dir() else _fsync_file(path)
        aside = final.with_name(f".{final.name}.old-{secrets.token_hex(4)}")
        if occupied:
            final.rename(aside)
        elif final.is_dir():
            final.rmdir()  # Windows renames onto nothing, not even an empty folder
        try:
            temporary.rename(final)
        except BaseException:
            if occupied:
                aside.rename(final)
            raise
        _fsync_directory(final.parent)
    if occupied:
        shutil.rmtree(aside, ignore_errors=True)


def _is_passing(path: Path) -> bool:
    """Whether a file is a lock or an unfinished temporary file."""
    return (
        path.name == ".lock"
        or path.suffix == ".lock"
        or (path.name.startswith(".") and path.suffix == ".tmp")
    )


def _fsync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _fsync_directory(path: Path) -> None:
    """Make a rename in ``path`` durable, on systems whose folders can be flushed."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def storing(verb: str, path: Path) -> Iterator[None]:
    """Turn the system's refusals into errors that say what to do.

    Args:
        verb: what was tried, such as "write".
        path: with what.

    Raises:
        StoreError: the system refused.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            hint = "free some space there, or move the store with DPFT_HOME; what was stored before is intact"
        elif error.errno == errno.EXDEV:
            hint = "the two places are on different file systems: prepare the folder beside its final place"
        else:
            hint = "check the folder's owner and permissions, or move the store with DPFT_HOME"
        raise StoreError(f"could not {verb} {path}: {reason}", hint=hint) from error
