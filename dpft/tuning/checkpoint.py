"""Base model folders given by path: what must hold before ``transformers`` reads one."""

from __future__ import annotations

from pathlib import Path

from dpft.errors import UntrustedError
from dpft.runs.confine import check_relative_name, read_json, shown
from dpft.runs.tensors import read_header

__all__ = ["check_checkpoint"]

_INDEX_BYTES = 64 << 20  # of a checkpoint in many files, with some thousand tensors


def check_checkpoint(folder: Path) -> None:
    """Refuse a checkpoint whose index leads out of its folder, or whose weights files lie about their sizes.

    A base model is the user's choice, and is not held to the rules for adapters: links are followed (the
    hub's cache consists of them), and old checkpoints in ``pytorch_model.bin`` are read, by a loader that
    builds tensors only (``weights_only``). Code in the folder is never run (``trust_remote_code``).

    Raises:
        UntrustedError: an index that is damaged, or names files elsewhere; a damaged safetensors file.
    """
    for path in sorted(folder.glob("*.safetensors")):
        read_header(path.resolve())
    for path in sorted(folder.glob("*.index.json")):
        index = read_json(path.resolve(), most=_INDEX_BYTES)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict):
            raise UntrustedError(
                f"{path} has no weight_map", hint="fetch the checkpoint again from where it came from"
            )
        for name in weight_map.values():
            check_relative_name(name, str(path))
            if not (folder / name).is_file():
                raise UntrustedError(
                    f"{path} names {shown(name)}, which is not there", hint="fetch the checkpoint again"
                )
