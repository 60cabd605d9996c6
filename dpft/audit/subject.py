"""What is audited: the user's model and mode, with one more trainable vector and a synthetic dataset.

Each canary is a row of the dataset like any other. In the model it pushes its own entry of the *audit
vector*, an embedding table of one column, and nothing else; production clipping cuts that push down to the
clipping norm. So canary i contributes (nearly) C·eᵢ whenever it is sampled, the gradient that is easiest to
tell from noise, and everything between the model's output and the released gradient is the production path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.data.prepare import PreparedSplit
from dpft.engines.base import MicroBatch
from dpft.privacy.pieces import as_they_come, by_own_length, own_width
from dpft.spec import TuningSpec
from dpft.training.batches import collate

__all__ = ["AUDIT_VECTOR", "LONGEST", "AuditedModel", "Rows", "Subject", "make_rows"]

AUDIT_VECTOR = "audit_vector.weight"

_CANARY, _GAIN, _PUSH = "audit_canary", "audit_gain", "audit_push"
_OVERSHOOT = 10.0
"""Norm of a canary's gradient in units of the sensitivity: far enough to be clipped, whatever the clipper."""

LONGEST = 16
"""Tokens of a text, at most."""

_SHORTEST, _CANARY_LENGTH = 4, 3
_WANTED_CLASS = 1

Indices = npt.NDArray[np.int64]


class AuditedModel(nn.Module):
    """The model with the audit vector beside it.

    Three more inputs, one row per example, say what an example is: which canary (1 to m), by how much its
    gradient with respect to the model is multiplied (0 for canaries, 1 for texts), and how hard it pushes its
    entry of the audit vector (0 for texts). Neither factor changes the value of any output, only gradients.

    Args:
        model: a sequence-classification model in its fine-tune mode.
        canaries: m.
    """

    def __init__(self, model: nn.Module, canaries: int) -> None:
        super().__init__()
        self.model = model
        self.audit_vector = nn.Embedding(canaries + 1, 1, padding_idx=0)
        nn.init.zeros_(self.audit_vector.weight)

    def forward(
        self, *, audit_canary: Tensor, audit_gain: Tensor, audit_push: Tensor, **inputs: Tensor
    ) -> SimpleNamespace:
        """Logits (b k), as ``.logits``; a canary's are zero: its push does not depend on the model."""
        logits: Tensor = self.model(**inputs).logits
        still, push = logits.detach(), audit_push[:, :1]
        entry = self.audit_vector(audit_canary[:, :1])[:, :, 0]  # b 1
        direction = F.one_hot(torch.tensor(_WANTED_CLASS), logits.shape[1]).to(logits.dtype)
        moved = audit_gain[:, :1] * (logits - still) + direction * push * (entry - entry.detach())
        return SimpleNamespace(logits=torch.where(push != 0, torch.zeros_like(still), still) + moved)


@dataclass(frozen=True, eq=False)
class Rows:
    """The synthetic dataset: m canaries first, then texts.

    Attributes:
        split: token ids and labels, as if prepared.
        canaries: m.
        coins: whether each row is in; a row that is out contributes a gradient of zero, as if absent.
    """

    split: PreparedSplit
    canaries: int
    coins: npt.NDArray[np.bool_]

    @property
    def texts(self) -> Indices:
        """Rows that are texts and in."""
        return np.flatnonzero(self.coins & (np.arange(self.split.rows) >= self.canaries))

    @property
    def canaries_in(self) -> Indices:
        """Canaries that are in."""
        return np.flatnonzero(self.coins[: self.canaries])


@dataclass(frozen=True, eq=False)
class Subject:
    """Everything that is audited, put together.

    Attributes:
        model: with the audit vector.
        parameters: what trains, by name, the audit vector included.
        rows: the synthetic dataset.
        pad_token_id: of the tokenizer.
        labels: number of classes.
        sensitivity: of the clipper; canaries overshoot it.
        extra_tokens: virtual tokens of the mode.
        precision: of the model's matrix products.
        micro_batch_tokens: small, so that every step takes several micro-batches.
    """

    model: AuditedModel
    parameters: dict[str, nn.Parameter]
    rows: Rows
    pad_token_id: int
    labels: int
    sensitivity: float
    extra_tokens: int = 0
    precision: str = "fp32"

    @classmethod
    def of(
        cls,
        model: nn.Module,
        tuning: TuningSpec,
        rows: Rows,
        *,
        pad_token_id: int,
        labels: int,
        sensitivity: float,
        precision: str = "fp32",
    ) -> Subject:
        """Append the audit vector to ``model``, whose trainable parameters are marked."""
        audited = AuditedModel(model, rows.canaries).eval()
        parameters = {name: p for name, p in audited.named_parameters() if p.requires_grad}
        return cls(
            audited,
            parameters,
            rows,
            pad_token_id,
            labels,
            sensitivity,
            tuning.num_prepend_tokens or 0,
            precision,
        )

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of every row inside the model."""
        return self.rows.split.lengths + np.int32(self.extra_tokens)

    @property
    def micro_batch_tokens(self) -> int:
        """A budget that cuts every usual batch into several micro-batches."""
        return 8 * int(self.lengths.max())

    def kin(self, row: int) -> Indices:
        """Rows that are in and may share a micro-batch with ``row`` at any precision; texts first."""
        everyone = np.concatenate([self.rows.texts, self.rows.canaries_in])
        width = self._width(row)
        return np.array([other for other in everyone if other != row and self._width(other) == width], int)

    @property
    def typical(self) -> Indices:
        """Texts that are in, of the width that most of them have."""
        texts = self.rows.texts
        return max((np.intersect1d(texts, np.append(self.kin(row), row)) for row in texts), key=len)

    def _width(self, row: int) -> tuple[int, bool]:
        length = int(self.rows.split.lengths[row])
        width = own_width(length, LONGEST)
        return width, length == width

    def pieces(
        self, indices: Indices, *, gain: float | Tensor = 1.0, tokens: int | None = None
    ) -> Iterator[MicroBatch]:
        """Rows in micro-batches, cut and collated as in training at this precision.

        Args:
            indices: rows, each once.
            gain: factor on the gradients of texts that are in, or one for each row.
            tokens: of a micro-batch, instead of the few that cut every usual batch.
        """
        budget = tokens if tokens is not None else self.micro_batch_tokens
        if self.precision == "bf16":
            cut = by_own_length(self.rows.split.lengths, LONGEST, budget, self.extra_tokens)
        else:
            cut = as_they_come(self.lengths, budget)
        place = {int(row): number for number, row in enumerate(indices)}
        for piece in cut(indices):
            own = gain[[place[int(row)] for row in piece.rows]] if isinstance(gain, Tensor) else gain
            yield self.batch(piece.rows, gain=own, width=piece.width, fill=piece.fill)

    def batch(
        self, indices: Indices, *, gain: float | Tensor = 1.0, width: int | None = None, fill: int = 0
    ) -> MicroBatch:
        """Rows, collated as in training, and what each of them is.

        Args:
            indices: rows; at least one.
            gain: factor on the gradients of texts that are in, or one for each row.
            width: tokens to pad to; None for those of the longest row.
            fill: how many of the last rows count for nothing.
        """
        plain = collate(self.rows.split, indices, self.pad_token_id, width, fill)
        coins = torch.from_numpy(self.rows.coins[indices])[:, None]
        canary = torch.from_numpy(indices < self.rows.canaries)[:, None]
        gains = gain[:, None] if isinstance(gain, Tensor) else torch.full(canary.shape, float(gain))
        overshoot = _OVERSHOOT * self.sensitivity * self.labels
        marks = {
            _CANARY: torch.where(canary, torch.from_numpy(indices)[:, None] + 1, 0),
            _GAIN: torch.where(coins & ~canary, gains, torch.zeros_like(gains)),
            _PUSH: torch.where(coins & canary, overshoot, 0.0),
        }
        return MicroBatch({**plain.inputs, **marks}, plain.labels, fill)


def make_rows(
    tokenizer: Any, *, canaries: int, texts: int, labels: int, generator: np.random.Generator
) -> Rows:
    """Canaries of a few tokens, and texts of random tokens with random labels; each in by a fair coin.

    Args:
        tokenizer: for its vocabulary and special tokens.
        canaries: m.
        texts: how many texts.
        labels: number of classes.
        generator: of tokens, labels and coins.
    """
    special = set(tokenizer.all_special_ids)
    ordinary = np.array([token for token in range(len(tokenizer)) if token not in special])
    lengths = np.concatenate(
        [np.full(canaries, _CANARY_LENGTH), generator.integers(_SHORTEST, LONGEST + 1, texts)]
    ).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    ids = generator.choice(ordinary, int(offsets[-1])).astype(np.int32)
    if tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None:
        ids[offsets[:-1]], ids[offsets[1:] - 1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    split = PreparedSplit(
        input_ids=ids,
        offsets=offsets,
        token_type_ids=np.zeros_like(ids) if "token_type_ids" in tokenizer.model_input_names else None,
        labels=np.concatenate([np.zeros(canaries, int), generator.integers(0, labels, texts)]).astype(
            np.int64
        ),
        lengths=lengths,
        truncated=0,
    )
    return Rows(split, canaries, generator.random(canaries + texts) < 0.5)
