"""Which folder is a run's, and where its weights may be. Everybody who opens a folder asks here."""

from __future__ import annotations

from collections.abc import Collection

from dpft.runs.files import CHECKPOINTS, LOCAL_ONLY

__all__ = ["ADAPTER", "PICKLED", "WEIGHTS", "is_run", "stray_weights"]

ADAPTER = "adapter"
RECORD = "run.json"

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
WEIGHTS = (*PICKLED, ".safetensors", ".npy", ".npz", ".onnx", ".h5", ".msgpack", ".gguf")
"""How names of files end that some library loads a model from."""

_LOADED = (
    "adapter_config.json",
    "config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
"""Files that make a library take the folder they are in for a model."""


def is_run(names: Collection[str]) -> bool:
    """Whether a folder with these files is a run's own, with its adapter in ``adapter/``.

    Args:
        names: of all files below it, relative, with forward slashes.
    """
    return RECORD in names


def stray_weights(names: Collection[str]) -> list[str]:
    """What a library might load of a run's folder, and is not where a run has it.

    Whoever gives the folder to a library that looks for an adapter loads what lies at its root; whoever asks
    dpft is told of what lies in ``adapter/``. So nothing may lie at the root. A staging folder of a process
    that was killed, whose name begins with a dot, is loaded by nobody.

    Args:
        names: of all files below the run's folder.
    """
    places = (ADAPTER, CHECKPOINTS, LOCAL_ONLY)
    return sorted(
        name
        for name in names
        if (name.lower().endswith(WEIGHTS) or name.rpartition("/")[2] in _LOADED)
        and not (name.count("/") and (name.partition("/")[0] in places or name.startswith(".")))
    )
