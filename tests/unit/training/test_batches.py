"""Collation: ragged rows to padded tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from dpft.training.batches import collate


def split(*, token_types: bool) -> Any:
    rows = [[5, 6, 7], [8], [9, 10]]
    return SimpleNamespace(
        input_ids=np.array([token for row in rows for token in row], dtype=np.int32),
        token_type_ids=np.array([0, 0, 1, 0, 0, 1], dtype=np.int8) if token_types else None,
        offsets=np.array([0, 3, 4, 6]),
        lengths=np.array([3, 1, 2], dtype=np.int32),
        labels=np.array([2, 0, 1]),
    )


def test_rows_are_padded_to_the_longest_of_the_piece() -> None:
    batch = collate(split(token_types=True), np.array([2, 1]), pad_token_id=99)
    assert batch.inputs["input_ids"].tolist() == [[9, 10], [8, 99]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 1], [0, 0]]
    assert batch.labels.tolist() == [1, 0]
    assert all(value.dtype == torch.int64 for value in (*batch.inputs.values(), batch.labels))


def test_order_and_repetition_of_rows_are_kept() -> None:
    batch = collate(split(token_types=False), np.array([1, 0, 1]), pad_token_id=0)
    assert batch.inputs["input_ids"].tolist() == [[8, 0, 0], [5, 6, 7], [8, 0, 0]]
    assert batch.inputs.keys() == {"input_ids", "attention_mask"}
    assert batch.labels.tolist() == [0, 2, 0]
