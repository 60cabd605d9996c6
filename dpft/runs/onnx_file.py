"""An ONNX file's statement and digest, read without any library and without loading a model.

An ONNX file is one protocol-buffers message (ModelProto in ONNX's ``onnx.proto``). Of its fields only
``metadata_props`` (14) is looked into; all others, the graph with its weights among them, are hashed as they
stand. So the statement can name the digest of everything else in the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dpft.errors import UntrustedError
from dpft.runs.confine import open_regular

__all__ = ["OnnxFile", "read_onnx"]

_METADATA = 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_FIELDS = 10_000
_MOST_METADATA = 1 << 20
_CHUNK = 1 << 22
_LONGEST_VARINT = 10


@dataclass(frozen=True)
class OnnxFile:
    """What a file says of itself, and what it is.

    Attributes:
        metadata: text by key.
        sha256: of all bytes but those of the metadata.
    """

    metadata: dict[str, str]
    sha256: str


def read_onnx(path: Path) -> OnnxFile:
    """Read metadata and digest, a piece at a time.

    Raises:
        UntrustedError: no ONNX file, a truncated one, or a key that is given twice.
    """
    metadata: dict[str, str] = {}
    digest = hashlib.sha256()
    size = path.stat().st_size
    with open_regular(path) as stream:
        for number, kind, head, length in _fields(stream, size, path):
            if number == _METADATA and kind == _BYTES:
                key, value = _entry(_take(stream, length, path), path)
                if key in metadata:
                    raise _refusal(path, f"has the metadata {key!r} twice")
                metadata[key] = value
                continue
            digest.update(head)
            while length:
                piece = _take(stream, min(length, _CHUNK), path)
                digest.update(piece)
                length -= len(piece)
    return OnnxFile(metadata, digest.hexdigest())


def _fields(stream: BinaryIO, size: int, path: Path) -> Iterator[tuple[int, int, bytes, int]]:
    """Number, wire type, bytes of the head, and length of what follows; the caller reads exactly that."""
    for _ in range(_MOST_FIELDS):
        if stream.tell() >= size:
            return
        head, tag = _varint(stream, path)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            head += _varint(stream, path)[0]
            length = 0
        elif kind == _BYTES:
            more, length = _varint(stream, path)
            head += more
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise _refusal(path, f"has a field of wire type {kind}")
        if number == 0 or stream.tell() + length > size:
            raise _refusal(path, "is truncated, or none")
        if number == _METADATA and length > _MOST_METADATA:
            raise _refusal(path, f"has {length:,} bytes of metadata")
        yield number, kind, head, length
    raise _refusal(path, f"has more than {_MOST_FIELDS:,} fields")


def _varint(stream: BinaryIO, path: Path) -> tuple[bytes, int]:
    found, value = bytearray(), 0
    while True:
        byte = _take(stream, 1, path)
        found += byte
        value |= (byte[0] & 0x7F) << (7 * (len(found) - 1))
        if byte[0] < 0x80:
            return bytes(found), value
        if len(found) == _LONGEST_VARINT:
            raise _refusal(path, "has a number that is too long")


def _take(stream: BinaryIO, length: int, path: Path) -> bytes:
    found = stream.read(length)
    if len(found) != length:
        raise _refusal(path, "is truncated")
    return found


def _entry(data: bytes, path: Path) -> tuple[str, str]:
    """A StringStringEntryProto: key (1) and value (2), and nothing else."""
    texts, place = {1: "", 2: ""}, 0
    while place < len(data):
        number, place = data[place] >> 3, place + 1
        if data[place - 1] & 7 != _BYTES or number not in texts:
            raise _refusal(path, "has metadata of another kind")
        length = shift = 0
        while True:
            if place >= len(data) or shift > 7 * _LONGEST_VARINT:
                raise _refusal(path, "has damaged metadata")
            byte, place = data[place], place + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if place + length > len(data):
            raise _refusal(path, "has damaged metadata")
        try:
            texts[number] = data[place : place + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _refusal(path, "has metadata that is no text") from error
        place += length
    return texts[1], texts[2]


def _refusal(path: Path, problem: str) -> UntrustedError:
    return UntrustedError(
        f"{path.name} {problem}: it is no ONNX model as dpft writes one",
        hint="fetch it again from where it came from; nothing of it was loaded",
    )
