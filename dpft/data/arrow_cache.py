"""One cache entry: a folder of Arrow files, one per split, and ``meta.json`` with their checksums.

An entry is built in a folder beside its place and renamed into it, so that it is there whole or not at all.
Checksums are compared on every load: an entry damaged since is built again. Prepared text is as private as
the text itself: folders are 0700 and files 0600.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from filelock import FileLock

from dpft.errors import DpftError

__all__ = ["FORMAT_VERSION", "ArrowCache", "PreparedSplit"]

FORMAT_VERSION = 1

_META = "meta.json"
_KEY_BYTES = 32


@dataclass(frozen=True, eq=False)
class PreparedSplit:
    """Tokenised rows of different lengths, laid end to end. The arrays are read-only views of a mapped file.

    Row i's tokens are ``input_ids[offsets[i]:offsets[i + 1]]``; nothing is padded.

    Attributes:
        input_ids: int32, shape (tokens,).
        offsets: int64, shape (rows + 1,).
        token_type_ids: int32, shape (tokens,), or None if the tokenizer has none.
        labels: int64, shape (rows,).
        lengths: int32, shape (rows,): tokens per row, after truncation.
        truncated: how many rows were cut to the maximum length.
    """

    input_ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int32] | None
    labels: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    truncated: int

    @property
    def rows(self) -> int:
        """How many examples."""
        return len(self.labels)


class ArrowCache:
    """The folder of all prepared datasets.

    Args:
        root: made if need be, readable by its owner only.

    Raises:
        DpftError: the folder cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        with _writable(root):
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)
            root.chmod(0o700)

    def key(self, name: str, identity: Mapping[str, Any]) -> str:
        """Name an entry after everything it depends on.

        The hash is keyed with a secret of this folder: a plain hash, shown in a log, would let an outsider
        confirm a guess of the private rows.
        """
        message = json.dumps({**identity, "format": FORMAT_VERSION}, sort_keys=True).encode()
        return f"{name}-{hmac.new(self._secret(), message, hashlib.sha256).hexdigest()[:32]}"

    def directory(self, key: str) -> Path:
        """Where an entry is, or would be."""
        return self._root / key

    def load(self, key: str) -> dict[str, PreparedSplit] | None:
        """Map an entry's splits; None if it is not there, damaged, or of another format."""
        try:
            meta = json.loads((self.directory(key) / _META).read_text("utf-8"))
            if meta["format"] != FORMAT_VERSION:
                return None
            return {name: self._load_split(key, name, about) for name, about in meta["splits"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
            return None  # whatever is wrong with an entry, the remedy is to build it again

    def load_or_build(
        self, key: str, about: Mapping[str, Any], build: Callable[[], Mapping[str, PreparedSplit]]
    ) -> tuple[dict[str, PreparedSplit], bool]:
        """Load an entry, or build it once however many processes ask for it.

        Args:
            key: from :meth:`key`.
            about: further facts for ``meta.json``.
            build: makes the splits, in memory.

        Returns:
            The splits, mapped from the entry's files, and whether they were there already.

        Raises:
            DpftError: the folder cannot be written.
        """
        splits = self.load(key)
        if splits is not None:
            return splits, True
        with self._lock(key):
            splits = self.load(key)  # another process may have built it meanwhile
            if splits is not None:
                return splits, True
            self._sweep(key)
            built = build()
            with _writable(self._root):
                self._publish(key, about, built)
            splits = self.load(key)
        if splits is None:
            raise DpftError(
                f"the prepared-data cache {self._root} does not give back what was written",
                hint="check the disk, or point DPFT_CACHE at another one",
            )
        return splits, False

    def _publish(self, key: str, about: Mapping[str, Any], splits: Mapping[str, PreparedSplit]) -> None:
        """Write an entry beside its place, then rename it there."""
        scratch = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=self._root))  # 0700
        try:
            entry = scratch / "entry"
            entry.mkdir(mode=0o700)
            facts = {name: _write_split(entry / f"{name}.arrow", split) for name, split in splits.items()}
            meta = json.dumps({"format": FORMAT_VERSION, **about, "splits": facts}, indent=1, sort_keys=True)
            with _private_file(entry / _META) as file:
                file.write(meta.encode())
            place = self.directory(key)
            if place.exists():  # it was damaged
                place.rename(scratch / "damaged")
            entry.rename(place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _load_split(self, key: str, name: str, about: Mapping[str, Any]) -> PreparedSplit:
        path = self.directory(key) / f"{name}.arrow"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about["sha256"]:
                raise ValueError(f"{path} is damaged")
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_stream(source).read_next_batch()
        columns = {column: batch.column(column) for column in batch.schema.names}
        token_types = columns.get("token_type_ids")
        return PreparedSplit(
            input_ids=_view(columns["input_ids"].values),
            offsets=_view(columns["input_ids"].offsets),
            token_type_ids=None if token_types is None else _view(token_types.values),
            labels=_view(columns["label"]),
            lengths=_view(columns["length"]),
            truncated=int(about["truncated"]),
        )

    def _secret(self) -> bytes:
        """The folder's own key, made on first use."""
        path = self._root / ".key"
        with _writable(self._root), FileLock(self._root / ".key.lock", mode=0o600):
            with contextlib.suppress(FileNotFoundError):
                secret = path.read_bytes()
                if len(secret) == _KEY_BYTES:
                    return secret
                path.unlink()
            secret = secrets.token_bytes(_KEY_BYTES)
            with _private_file(path) as file:
                file.write(secret)
            return secret

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        lock = FileLock(self._root / f"{key}.lock", mode=0o600)
        with _writable(self._root):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _sweep(self, key: str) -> None:
        """Remove what a killed process left; the lock is held, so nobody is at work there."""
        for scratch in self._root.glob(f".{key}.*"):
            shutil.rmtree(scratch, ignore_errors=True)


def _write_split(path: Path, split: PreparedSplit) -> dict[str, Any]:
    """Write an Arrow stream of one record batch (``datasets.Dataset.from_file`` reads it too)."""
    columns: dict[str, Any] = {"label": pa.array(split.labels), "length": pa.array(split.lengths)}
    for name in ("input_ids", "token_type_ids"):
        values = getattr(split, name)
        if values is not None:
            columns[name] = pa.LargeListArray.from_arrays(split.offsets, pa.array(values))
    batch = pa.record_batch(columns)
    with _private_file(path) as file, pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"rows": split.rows, "truncated": split.truncated, "sha256": checksum}


def _view(array: Any) -> Any:
    """A numpy view of an Arrow array, never a copy."""
    return array.to_numpy(zero_copy_only=True)


def _private_file(path: Path) -> Any:
    """Make a new file that only its owner can read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


@contextlib.contextmanager
def _writable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DpftError(
            f"cannot write the prepared-data cache {root}: {error.strerror or error}",
            hint="point DPFT_CACHE at a folder with room, where you may write",
        ) from error
