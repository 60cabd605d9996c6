"""Scoring a model on a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dpft.data.metrics import compute_metrics, is_single_class_collapse, majority_baseline, wilson_interval
from dpft.data.prepare import PreparedSplit
from dpft.data.task import Task
from dpft.privacy.sampling import micro_batches
from dpft.spec import HardwareSpec
from dpft.training.batches import collate

__all__ = ["Evaluation", "evaluate", "predict", "resting"]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one split.

    Attributes:
        rows: examples scored.
        metrics: by name.
        majority: accuracy of always answering the most frequent label of this split.
        confidence_interval: 95% Wilson interval of the accuracy.
        collapsed: every prediction is the same label.
    """

    rows: int
    metrics: Mapping[str, float]
    majority: float
    confidence_interval: tuple[float, float]
    collapsed: bool


@torch.no_grad()
def predict(
    model: Any, split: PreparedSplit, pad_token_id: int, hardware: HardwareSpec, extra_tokens: int = 0
) -> torch.Tensor:
    """Logits of every row in order, (rows, labels), at float32 whatever the training's precision.

    So a score is that of the model as anybody loads it.
    """
    logits: list[torch.Tensor] = []
    order: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    lengths = split.lengths + extra_tokens
    for rows in micro_batches(np.arange(split.rows), lengths, hardware.micro_batch_tokens):
        batch = collate(split, rows, pad_token_id)
        logits.append(model(**batch.inputs).logits.float())
        order.append(rows)
    together = torch.cat(logits)
    out = torch.empty_like(together)
    out[torch.from_numpy(np.concatenate(order))] = together
    return out


def evaluate(
    model: Any,
    split: PreparedSplit,
    task: Task,
    pad_token_id: int,
    hardware: HardwareSpec,
    extra_tokens: int = 0,
) -> Evaluation:
    """Score ``model``, which must be in eval mode, on ``split``."""
    predictions = predict(model, split, pad_token_id, hardware, extra_tokens).argmax(-1).numpy()
    references = np.asarray(split.labels)
    correct = int((predictions == references).sum())
    return Evaluation(
        rows=split.rows,
        metrics=compute_metrics(task, predictions, references),
        majority=majority_baseline(references),
        confidence_interval=wilson_interval(correct, split.rows),
        collapsed=is_single_class_collapse(predictions),
    )


@contextmanager
def resting(model: Any) -> Iterator[None]:
    """Let LoRA's own dropout rest: scores and checks are of the model itself."""
    awake = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in awake:
            module.training = True
