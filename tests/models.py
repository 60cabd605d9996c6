"""Tiny random models, in every mode, for tests: no network, no files."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dpft.engines.base import MicroBatch
from dpft.spec import TuningSpec
from dpft.tables import MODES

LABELS = 3
VOCABULARY = 60


def tiny_bert(**changes: Any) -> Any:
    """A two-layer BERT classifier with random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "num_labels": LABELS,
        "initializer_range": 0.2,
    }
    return BertForSequenceClassification(BertConfig(**{**settings, **changes})).eval()


def tuned(mode: str, seed: int = 0, model: Any = None) -> tuple[Any, dict[str, nn.Parameter]]:
    """A model in ``mode``, with adapters moved away from their start, and its trainable parameters."""
    torch.manual_seed(seed)
    entry = MODES.get(mode)
    tuning = TuningSpec(mode=mode, lora_r=3, num_prepend_tokens=entry.defaults.num_prepend_tokens and 4)
    applied = entry.apply(tiny_bert() if model is None else model, tuning).eval()
    parameters = {name: p for name, p in applied.named_parameters() if p.requires_grad}
    for parameter in parameters.values():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return applied, parameters


def batch(seed: int = 0, rows: int = 7, length: int = 9) -> MicroBatch:
    """Rows with padding: one full, one nearly all padding, one of a single repeated token, others random."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, length), generator=generator)
    lengths = torch.randint(2, length + 1, (rows,), generator=generator)
    lengths[0] = length
    if rows > 1:
        lengths[1] = 1
    if rows > 2:
        ids[2] = 7
    mask = (torch.arange(length) < lengths[:, None]).long()
    return MicroBatch(
        {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)},
        torch.randint(0, LABELS, (rows,), generator=generator),
    )


def rows_of(whole: MicroBatch, rows: Any) -> MicroBatch:
    """Some rows of a batch."""
    return MicroBatch({key: value[rows] for key, value in whole.inputs.items()}, whole.labels[rows])


def zeros(parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Accumulators."""
    return {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}


def flat(values: Any) -> torch.Tensor:
    """All tensors of a mapping as one float64 vector."""
    return torch.cat([values[name].detach().double().flatten() for name in sorted(values)])
