"""The files of an adapter folder: which tensors they hold, and the statement in their header."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from dpft.runs.confine import list_folder
from dpft.runs.tensors import read_header
from dpft.tuning.base import tensors_sha256

__all__ = ["adapter_sha256", "read_tensors", "stamp"]


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of every safetensors file below ``directory``, named ``file:tensor``.

    Raises:
        UntrustedError: a link or another file that is not what it must be (see ``runs.confine``).
    """
    found: dict[str, Tensor] = {}
    for file in (name for name in list_folder(directory) if name.endswith(".safetensors")):
        read_header(directory / file)
        found |= {f"{file}:{name}": value for name, value in load_file(directory / file).items()}
    return found


def adapter_sha256(directory: Path) -> str:
    """Hash of all tensors (not of the files, whose headers may be written anew)."""
    return tensors_sha256(read_tensors(directory))


def stamp(directory: Path, statement: str) -> None:
    """Write ``statement`` into the header of every safetensors file below ``directory``, under ``dpft``.

    Args:
        directory: an adapter folder, not published yet.
        statement: compact JSON (``runs.manifest.safetensors_header``).
    """
    for path in sorted(directory.rglob("*.safetensors")):
        save_file(load_file(path), path, metadata={"format": "pt", "dpft": statement})
        path.chmod(0o600)
