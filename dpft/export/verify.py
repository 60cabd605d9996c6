"""Does an export compute what the run computes? Asked on synthetic text, before anything is published."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpft.errors import ExportError

__all__ = ["SHAPE", "Batch", "compare", "logits_of", "synthetic_batch"]

Batch = dict[str, Tensor]

SHAPE = (4, 32)
"""Rows, and tokens of the longest."""

_REPORT = "nothing was published; report this, with the run's mode and base model"


def synthetic_batch(model: Any, tokenizer: Any, virtual_tokens: int, shape: tuple[int, int] = SHAPE) -> Batch:
    """Rows of random tokens, the same at every call; no private text has a part in them.

    Args:
        model: a classifier; its vocabulary and its number of positions are read.
        tokenizer: whose special tokens are left out, and which says what the model takes.
        virtual_tokens: positions that the mode takes for itself.
        shape: rows, and tokens of the longest; fewer where the model has fewer positions.

    Returns:
        ``input_ids``, ``attention_mask`` and, where the model takes them, ``token_type_ids``; each (b t),
        rows of different lengths from the longest down to 2, padded on the right.
    """
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    special = set(tokenizer.all_special_ids)
    ordinary = torch.tensor([i for i in range(vocabulary) if i not in special] or list(range(vocabulary)))
    positions = getattr(model.config, "max_position_embeddings", None)
    rows, longest = shape
    if isinstance(positions, int) and positions > 0:
        longest = max(2, min(longest, positions - virtual_tokens - 2))  # some architectures reserve two
    lengths = torch.linspace(longest, 2, rows).floor().long() if rows > 1 else torch.tensor([longest])
    generator = torch.Generator().manual_seed(0)
    ids = ordinary[torch.randint(len(ordinary), (len(lengths), longest), generator=generator)]
    if getattr(model.config, "is_encoder_decoder", False) and tokenizer.eos_token_id is not None:
        ids[torch.arange(len(lengths)), lengths - 1] = int(tokenizer.eos_token_id)  # it answers there
    mask = (torch.arange(longest) < lengths[:, None]).long()
    batch = {
        "input_ids": torch.where(mask.bool(), ids, int(tokenizer.pad_token_id or 0)),
        "attention_mask": mask,
    }
    if "token_type_ids" in tokenizer.model_input_names:
        second = (torch.arange(longest) >= lengths[:, None] // 2).long() * mask
        batch["token_type_ids"] = second * int(getattr(model.config, "type_vocab_size", 1) > 1)
    return batch


def logits_of(model: Any, batch: Batch, *, one_by_one: bool = False) -> Tensor:
    """Logits (b k) in eval mode, float32.

    Args:
        model: a classifier.
        batch: rows padded on the right.
        one_by_one: give it each row alone, without its padding.
    """
    lengths = batch["attention_mask"].sum(1).tolist()
    parts = [batch]
    if one_by_one:
        parts = [
            {key: value[row : row + 1, :length] for key, value in batch.items()}
            for row, length in enumerate(lengths)
        ]
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(**part).logits for part in parts])
    return logits.float()


def compare(expected: Tensor, found: Tensor, tolerance: float) -> float:
    """Hold the export's logits against the run's.

    Args:
        expected: logits (b k) of the run's model.
        found: logits of the export, loaded afresh.
        tolerance: largest absolute difference that rounding explains.

    Returns:
        The largest absolute difference.

    Raises:
        ExportError: another shape, a logit that is not finite, or a difference above ``tolerance``.
    """
    if expected.shape != found.shape:
        raise ExportError(
            f"the export gives logits of shape {tuple(found.shape)}, the run {tuple(expected.shape)}",
            hint=_REPORT,
        )
    for name, logits in (("run", expected), ("export", found)):
        if not bool(logits.isfinite().all()):
            raise ExportError(
                f"the {name} gives logits that are not finite",
                hint="its weights overflow or hold NaN: train again, with a smaller --learning-rate",
            )
    difference = float((expected - found).abs().max())
    if not difference <= tolerance:
        raise ExportError(
            f"the export does not reproduce the run: its logits differ by {difference:.3g}, "
            f"more than {tolerance:.3g}",
            hint=_REPORT,
        )
    return difference
