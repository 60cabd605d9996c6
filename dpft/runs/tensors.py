"""The header of a safetensors file, read and checked without any library, and without loading a tensor.

The format: eight bytes with the header's length (little-endian), the header (a JSON object of tensor name to
dtype, shape and data offsets, and ``__metadata__``), then the tensors end to end. Nothing in it can run code;
what it can do is lie about sizes. Here it may not.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpft.errors import UntrustedError
from dpft.runs.confine import open_regular, parse_json, shown

__all__ = ["HEADER_BYTES", "Header", "TensorEntry", "check_finite", "read_header"]

HEADER_BYTES = 16 << 20
"""The largest header read; one of a thousand tensors has about a tenth of a megabyte."""

_LENGTH = struct.Struct("<Q")
_MOST_NAME, _MOST_DIMENSIONS = 512, 8
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "BOOL": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8,
}  # fmt: skip
_EXPONENTS = {"F64": 0x7FF0 << 48, "F32": 0x7F80 << 16, "F16": 0x7C00, "BF16": 0x7F80}
_CHUNK = 1 << 22
_HINT = "fetch it again from where it came from; nothing of it was loaded"


@dataclass(frozen=True)
class TensorEntry:
    """One tensor, as the header describes it.

    Attributes:
        dtype: safetensors' name of it ("F32").
        shape: its dimensions.
        begin: of its bytes, counted from the end of the header.
        end: likewise.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header.

    Attributes:
        tensors: by name.
        metadata: text by key.
        data_start: where the tensors begin in the file.
        size: of the file, in bytes.
    """

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    data_start: int
    size: int


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        NotFoundError: there is no such file.
        UntrustedError: a header longer than ``HEADER_BYTES`` or than the file, one that is not strict JSON,
            an unknown dtype, a shape that does not agree with its offsets, tensors that overlap or leave
            holes, or a file that is longer or shorter than they are.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        first = stream.read(_LENGTH.size)
        if len(first) < _LENGTH.size:
            raise _refusal(path, f"is no safetensors file: it has {size} bytes")
        (length,) = _LENGTH.unpack(first)
        if length > HEADER_BYTES:
            raise _refusal(path, f"announces a header of {length:,} bytes, more than {HEADER_BYTES:,}")
        if _LENGTH.size + length > size:
            raise _refusal(path, f"announces a header of {length:,} bytes and has {size:,} in all")
        text = stream.read(length)
    if not text.startswith(b"{"):
        raise _refusal(path, "is no safetensors file: its header is not a JSON object")
    document = parse_json(text, f"the header of {path}")
    metadata = _metadata(document.pop("__metadata__", {}), path)
    tensors = {name: _entry(name, value, path) for name, value in document.items()}
    start = _LENGTH.size + length
    _check_layout(tensors, size - start, path)
    return Header(tensors, metadata, start, size)


def check_finite(path: Path, header: Header) -> None:
    """Look at every number of a file.

    Raises:
        UntrustedError: a NaN or an infinity, or a file that has changed since its header was read.
    """
    for name, entry in header.tensors.items():
        exponent = _EXPONENTS.get(entry.dtype)
        if exponent is None:
            continue
        if any(bool(((words & exponent) == exponent).any()) for words in _words(path, header, entry)):
            raise UntrustedError(
                f"tensor {shown(name)} of {path} holds NaN or infinity",
                hint="its training diverged, or the file is damaged: train again, or " + _HINT,
            )


def _words(path: Path, header: Header, entry: TensorEntry) -> Iterator[Any]:
    """A floating-point tensor's bit patterns, as unsigned integers, piece by piece."""
    import numpy as np

    width = _BITS[entry.dtype] // 8
    with open_regular(path) as stream:
        stream.seek(header.data_start + entry.begin)
        left = entry.end - entry.begin
        while left:
            data = stream.read(min(left, _CHUNK * width))
            if not data or len(data) % width:
                raise _refusal(path, "ended before its last tensor")
            left -= len(data)
            yield np.frombuffer(data, dtype=f"<u{width}")


def _metadata(found: Any, path: Path) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _refusal(path, "has metadata that are not text by key")
    return found


def _entry(name: str, found: Any, path: Path) -> TensorEntry:
    if not name.isprintable() or not 0 < len(name) <= _MOST_NAME:
        raise _refusal(path, f"has a tensor with the unusual name {shown(name)}")
    if not isinstance(found, dict) or found.keys() != {"dtype", "shape", "data_offsets"}:
        raise _refusal(path, f"does not describe tensor {shown(name)} as dtype, shape and data_offsets")
    dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _refusal(path, f"has tensor {shown(name)} in the dtype {shown(dtype)}")
    if not _counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise _refusal(path, f"has tensor {shown(name)} in the shape {shown(shape)}")
    if not _counts(offsets) or len(offsets) != 2:
        raise _refusal(path, f"has tensor {shown(name)} at the offsets {shown(offsets)}")
    begin, end = offsets
    expected = math.prod(shape) * _BITS[dtype] // 8
    if end - begin != expected:
        raise _refusal(
            path, f"gives tensor {shown(name)} {end - begin:,} bytes; {dtype} {shape} has {expected:,}"
        )
    return TensorEntry(dtype, tuple(shape), begin, end)


def _counts(values: Any) -> bool:
    """Whether ``values`` is a list of sizes: whole numbers from 0 to 2⁶³, and no booleans."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_layout(tensors: Mapping[str, TensorEntry], room: int, path: Path) -> None:
    """Tensors lie end to end, from the header to the end of the file."""
    place = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            what = "overlap" if entry.begin < place else "leave a hole"
            raise _refusal(path, f"has tensors that {what}, at {shown(name)}")
        place = entry.end
    if place != room:
        raise _refusal(path, f"has {room:,} bytes of tensors, and its header speaks of {place:,}")


def _refusal(path: Path, problem: str) -> UntrustedError:
    return UntrustedError(f"{path} {problem}", hint=_HINT)
