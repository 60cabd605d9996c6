"""The work every contender does: a random model in a mode, a logical batch cut into micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dpft.engines.base import MicroBatch
from dpft.privacy.pieces import as_they_come, by_own_length
from dpft.spec import TuningSpec
from dpft.tables import MODES

__all__ = ["LENGTHS", "SIZES", "Work", "build", "logical_batch"]

VOCABULARY = 30522
SIZES = {"L2H128": (2, 128), "L3H192": (3, 192), "L4H256": (4, 256), "L6H384": (6, 384)}
LENGTHS = ("fixed", "dynamic")
FIXED, LONGEST = 64, 66


@dataclass(frozen=True)
class Work:
    """One row of the benchmark.

    Attributes:
        size: a name in ``SIZES``.
        mode: a fine-tune mode.
        lengths: "fixed" (every example has 64 tokens) or "dynamic" (as SST-2's: 13 on average, 3 to 66).
        examples: of the logical batch.
        budget: tokens of a micro-batch, padding included.
        threads: of torch.
        precision: "fp32" or "bf16" (autocast), for everyone alike.
    """

    size: str
    mode: str
    lengths: str
    examples: int
    budget: int
    threads: int = 1
    precision: str = "fp32"


def build(work: Work) -> tuple[Any, dict[str, nn.Parameter]]:
    """A random BERT in the mode, and what trains; dropout is off everywhere."""
    from transformers import BertConfig, BertForSequenceClassification

    layers, hidden = SIZES[work.size]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(2, hidden // 32 if hidden > 128 else hidden // 64),
        intermediate_size=4 * hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    entry = MODES.get(work.mode)
    tuning = TuningSpec(mode=work.mode, num_prepend_tokens=entry.defaults.num_prepend_tokens)
    model = entry.apply(BertForSequenceClassification(config), tuning).eval()
    return model, {name: p for name, p in model.named_parameters() if p.requires_grad}


def logical_batch(work: Work, *, own_widths: bool = False) -> list[MicroBatch]:
    """The same made-up examples for everyone, cut as training cuts them.

    Args:
        work: what is done.
        own_widths: as private training cuts them at bf16: each as wide as its own length says, a power of two
            of them at a time.
    """
    generator = np.random.default_rng(0)
    if work.lengths == "fixed":
        lengths = np.full(work.examples, FIXED)
    else:
        # Fits the lengths of SST-2's training split: mean 13.3, quartiles 6, 10, 18, longest 66.
        lengths = np.clip(3 + generator.gamma(1.2, 9.0, work.examples), 3, LONGEST).astype(np.int64)
    longest = FIXED if work.lengths == "fixed" else LONGEST
    # Zipf's law, roughly: a few words are in almost every sentence.
    words = np.exp(generator.uniform(0, np.log(VOCABULARY), (work.examples, longest))).astype(np.int64)
    ids, labels = words.clip(max=VOCABULARY - 1), generator.integers(0, 2, work.examples)
    extra = MODES.get(work.mode).defaults.num_prepend_tokens or 0
    if own_widths:
        cut = by_own_length(lengths, longest, work.budget, extra)
    else:
        cut = as_they_come(lengths + extra, work.budget)
    made = []
    for piece in cut(np.arange(work.examples)):
        width = piece.width if piece.width is not None else int(lengths[piece.rows].max())
        mask = (np.arange(width) < lengths[piece.rows][:, None]).astype(np.int64)
        inputs = {
            "input_ids": torch.from_numpy(ids[piece.rows, :width] * mask),
            "attention_mask": torch.from_numpy(mask),
            "token_type_ids": torch.zeros(mask.shape, dtype=torch.int64),
        }
        made.append(MicroBatch(inputs, torch.from_numpy(labels[piece.rows]), piece.fill))
    return made
