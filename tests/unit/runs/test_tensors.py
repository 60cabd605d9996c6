"""Headers of safetensors files: what safetensors writes is read, and lies about sizes are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dpft.errors import UntrustedError
from dpft.runs import tensors
from dpft.runs.tensors import HEADER_BYTES, check_finite, read_header

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def write(path: Path, header: Any, data: bytes = bytes(8), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    values = {
        "b.weight": torch.randn(3, 5),
        "a": torch.tensor(1.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "half": torch.ones(7, dtype=torch.bfloat16),
        "ids": torch.arange(4),
    }
    save_file(values, path, metadata={"format": "pt", "dpft": "{}"})
    header = read_header(path)
    assert {name: entry.shape for name, entry in header.tensors.items()} == {
        name: tuple(value.shape) for name, value in values.items()
    }
    assert header.metadata == {"format": "pt", "dpft": "{}"}
    raw = path.read_bytes()
    found = header.tensors["b.weight"]
    piece = raw[header.data_start + found.begin : header.data_start + found.end]
    assert piece == values["b.weight"].numpy().tobytes()
    check_finite(path, header)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"a": entry(shape=(3,))}, "8 bytes; F32 .3. has 12"),
        ({"a": entry(shape=(1 << 40, 1 << 40))}, "bytes; F32"),
        ({"a": entry(shape=(-2,))}, "shape"),
        ({"a": entry(shape=(2.0,))}, "shape"),
        ({"a": entry(shape=(True, 2))}, "shape"),
        ({"a": entry(shape=(1,) * 9)}, "shape"),
        ({"a": entry(shape="2")}, "shape"),
        ({"a": entry(shape=(1 << 64,))}, "shape"),
        ({"a": entry(offsets=(8, 0))}, "-8 bytes"),
        ({"a": entry(offsets=(-8, 0))}, "offsets"),
        ({"a": entry(offsets=(0, 8, 8))}, "offsets"),
        ({"a": entry(dtype="F31")}, "dtype"),
        ({"a": entry(dtype=["F32"])}, "dtype"),
        ({"a": entry(extra=1)}, "does not describe"),
        ({"a": 7}, "does not describe"),
        ({"a\x1b[2J": entry()}, "unusual name"),
        ({"": entry()}, "unusual name"),
        ({"x" * 600: entry()}, "unusual name"),
        ({"a": entry(), "b": entry()}, "overlap"),
        ({"a": entry((1,), (0, 4)), "b": entry((1,), (2, 6))}, "overlap"),
        ({"a": entry((1,), (4, 8))}, "hole"),
        ({"a": entry((1,), (0, 4))}, "8 bytes of tensors, and its header speaks of 4"),
        ({"a": entry((4,), (0, 16))}, "8 bytes of tensors, and its header speaks of 16"),
        ({"a": entry(), "__metadata__": {"k": 1}}, "metadata"),
        ({"a": entry(), "__metadata__": "k"}, "metadata"),
        ([1], "not a JSON object"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b"{", "not valid JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a":' + b"[" * 99 + b"]" * 99 + b"}", "deeper"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, problem: str) -> None:
    path = write(tmp_path / "x.safetensors", header)
    with pytest.raises(UntrustedError, match=problem) as caught:
        read_header(path)
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("length", "problem"),
    [
        (2**64 - 1, "more than"),
        (HEADER_BYTES + 1, "more than"),
        (HEADER_BYTES, "in all"),
        (3, "not valid JSON"),
    ],
)
def test_a_length_that_lies_is_refused(tmp_path: Path, length: int, problem: str) -> None:
    with pytest.raises(UntrustedError, match=problem):
        read_header(write(tmp_path / "x.safetensors", {"a": entry()}, length=length))


@pytest.mark.parametrize("content", [b"", b"1234567", b"PK\x03\x04 a pickle in a zip", bytes(8)])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UntrustedError):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_none_is_found(
    tmp_path: Path, dtype: torch.dtype, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "_CHUNK", 7)  # so that several pieces are read
    path = tmp_path / "x.safetensors"
    value = torch.full((5, 5), torch.finfo(dtype).max, dtype=dtype)
    value[0, 0], value[1, 1] = torch.finfo(dtype).tiny, -0.0
    save_file({"ids": torch.full((3,), -1), "w": value}, path)
    check_finite(path, read_header(path))
    value[4, 4] = bad
    save_file({"ids": torch.full((3,), -1), "w": value}, path)
    with pytest.raises(UntrustedError, match="'w'"):
        check_finite(path, read_header(path))


def test_a_file_cut_short_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(100)}, path)
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UntrustedError, match="ended before"):
        check_finite(path, header)
