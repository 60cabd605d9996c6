"""From prepared rows to the tensors a model takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from dpft.data.prepare import PreparedSplit
from dpft.engines.base import MicroBatch

__all__ = ["collate"]


def collate(
    split: PreparedSplit,
    indices: npt.NDArray[np.int64],
    pad_token_id: int,
    width: int | None = None,
    fill: int = 0,
) -> MicroBatch:
    """Rows ``indices`` of ``split``, padded on the right to the longest of them, or to ``width``.

    Args:
        split: token ids as one flat array with offsets.
        indices: which rows, in this order; at least one.
        pad_token_id: what fills the rest; it is masked.
        width: tokens, at least those of the longest row.
        fill: how many of the last rows count for nothing.

    Returns:
        ``input_ids``, ``attention_mask`` and, where the tokenizer has them, ``token_type_ids``, each (b t)
        int64, with labels (b).
    """
    lengths = split.lengths[indices].astype(np.int64)
    position = np.arange(int(lengths.max()) if width is None else width)
    mask = position < lengths[:, None]
    source = (split.offsets[indices][:, None] + position)[mask]
    ids = np.full(mask.shape, pad_token_id, dtype=np.int64)
    ids[mask] = split.input_ids[source]
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
    if split.token_type_ids is not None:
        types = np.zeros(mask.shape, dtype=np.int64)
        types[mask] = split.token_type_ids[source]
        inputs["token_type_ids"] = torch.from_numpy(types)
    return MicroBatch(inputs, torch.from_numpy(split.labels[indices].astype(np.int64)), fill)
