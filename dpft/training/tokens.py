"""Can the model take every row? Asked of all splits before the first step, so that none can end it later.

An error in the step that happens to draw a row would stop the run, and tell that the row was drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dpft.data.prepare import PreparedData, PreparedSplit
from dpft.errors import DataError

__all__ = ["check_tokens"]


def check_tokens(data: PreparedData, model: Any, tokenizer: Any) -> None:
    """Refuse rows with tokens that the model has no row for, or that it could not tell the end of.

    Args:
        data: all of its splits are looked at.
        model: in its mode or not.
        tokenizer: that made the data.

    Raises:
        DataError: naming split and line of the first such row, never its text.
    """
    config = model.config
    words = int(model.get_input_embeddings().num_embeddings)
    types = int(getattr(config, "type_vocab_size", None) or 0)
    ends = _ends(config, tokenizer, pair=data.task.is_pair)
    for name, split in data.splits.items():
        _check_range(data, name, split.input_ids, words, "token")
        if types and split.token_type_ids is not None:
            _check_range(data, name, split.token_type_ids, types, "token type")
        if ends is not None:
            _check_ends(data, name, *ends)


def _ends(config: Any, tokenizer: Any, *, pair: bool) -> tuple[int, int] | None:
    """The end-of-text token and how many of it a row has; None where the model does not answer there."""
    if not getattr(config, "is_encoder_decoder", False) or config.eos_token_id is None:
        return None
    end = int(config.eos_token_id)
    row = tokenizer("a", "a" if pair else None)["input_ids"]
    return end, max(1, list(row).count(end))


def _check_range(data: PreparedData, name: str, values: npt.NDArray[np.int32], rows: int, what: str) -> None:
    wrong = np.flatnonzero((values < 0) | (values >= rows))
    if len(wrong):
        split = data.splits[name]
        row = int(np.searchsorted(split.offsets, wrong[0], side="right")) - 1
        raise DataError(
            f"{data.locate(name, row)}: the tokenizer makes {what} {int(values[wrong[0]])}, the model has "
            f"no row for it (but {rows})",
            hint="use the tokenizer that belongs to the model; dpft adds no rows to a model",
        )


def _check_ends(data: PreparedData, name: str, end: int, count: int) -> None:
    found = _count(data.splits[name], end)
    wrong = np.flatnonzero(found != count)
    if len(wrong):
        raise DataError(
            f"{data.locate(name, int(wrong[0]))}: the row has {int(found[wrong[0]])} end-of-text tokens, not "
            f"{count}; the model answers there",
            hint="use a tokenizer that ends each text with one, as the model's own does",
        )


def _count(split: PreparedSplit, token: int) -> npt.NDArray[np.int64]:
    """How many of ``token`` each row has, (rows)."""
    before = np.concatenate(([0], np.cumsum(split.input_ids == token, dtype=np.int64)))
    counts: npt.NDArray[np.int64] = before[split.offsets[1:]] - before[split.offsets[:-1]]
    return counts
