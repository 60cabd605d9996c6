"""What a frozen encoder says of each example, computed once: training a head need not ask it again.

Where only the classification head trains, the encoder gives the same hidden states in every epoch, and most
heads read them at one token. These are kept in the cache; the head is trained on them as a model of its own,
the very same modules with the encoder's place taken by what it said. Whether a head reads just one token is
not looked up but tried: logits and gradients of model and head must agree on made-up texts, or every step
goes through the whole model as in any other mode.

Features are as private as the texts: their folder is 0700, the files are 0600, and the name of an entry is a
keyed hash.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor, nn

from dpft.data.arrow_cache import ArrowCache
from dpft.data.prepare import PreparedSplit
from dpft.engines.base import MicroBatch, example_losses
from dpft.errors import DpftError
from dpft.privacy.sampling import micro_batches
from dpft.runs import paths
from dpft.training.batches import collate
from dpft.tuning.head import head_parameters

__all__ = ["Features", "Reading", "as_input", "head_of", "keep_features", "reading_of"]

_TOKENS = 4096  # of a micro-batch on its way through the encoder, without gradients
_TOLERANCE = 1e-4
_ROWS_TO_CHECK = 3
_SHA = "sha256"


class _Said(nn.Module):
    """Stands where the encoder was, and says what it is given; a pooler, if it has one, is the encoder's."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.pooler = getattr(encoder, "pooler", None)
        self._after = getattr(encoder, "pooler_activation", None)  # ALBERT's pooler is a bare linear layer

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

        pooled = None
        if self.pooler is not None:
            pooled = self.pooler(inputs_embeds if self._after is None else inputs_embeds[:, 0])
        if self._after is not None:
            pooled = self._after(pooled)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=inputs_embeds, pooler_output=pooled
        )


@dataclass(frozen=True)
class Reading:
    """How a head reads the encoder.

    Attributes:
        head: the model without its encoder; its parameters are the model's own, by the same names.
        position: "first" or "last": the token whose hidden state it reads.
    """

    head: nn.Module
    position: str

    def pick(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The state that is read, (b d), of ``hidden`` (b t d), padded on the right by ``mask`` (b t)."""
        if self.position == "first":
            return hidden[:, 0]
        return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]


@dataclass(frozen=True, eq=False)
class Features:
    """The training examples as the head sees them.

    Attributes:
        head: what trains, as a model of its own.
        values: float32, (rows d), mapped from a file.
        labels: int64, (rows).
    """

    head: nn.Module
    values: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """One token each."""
        return np.ones(len(self.values), dtype=np.int64)

    def batch(self, rows: npt.NDArray[np.int64]) -> MicroBatch:
        """Rows ``rows`` as input of :attr:`head`."""
        values, labels = torch.from_numpy(self.values[rows]), torch.from_numpy(self.labels[rows])
        return as_input(self.head, values, labels)


def as_input(head: Any, values: Tensor, labels: Tensor) -> MicroBatch:
    """Features (b d) as input of ``head``: texts of one token, which is no padding."""
    mask = torch.ones(len(values), 1, dtype=torch.long)
    ids = mask if head.config.pad_token_id != 1 else torch.zeros_like(mask)
    inputs = {"input_ids": ids, "inputs_embeds": values[:, None], "attention_mask": mask}
    return MicroBatch(inputs, labels)


def head_of(model: Any) -> nn.Module:
    """``model`` without its encoder: a copy that shares every other module."""
    prefix = model.base_model_prefix
    head: Any = copy.copy(model)
    head._modules = {**model._modules, prefix: _Said(getattr(model, prefix))}
    return head  # type: ignore[no-any-return]


def reading_of(model: Any, parameters: Mapping[str, nn.Parameter], batch: MicroBatch) -> Reading | None:
    """How the head of ``model`` reads its encoder; None where it needs more than one token, or more trains.

    Args:
        model: in eval mode, as training uses it.
        parameters: what trains, by name.
        batch: made-up texts of different lengths, longer than one token.
    """
    encoder = model._modules.get(model.base_model_prefix)  # not of a wrapper around the model
    if encoder is None or not parameters.keys() <= head_parameters(model):
        return None
    inside = {id(p) for name, p in encoder.named_parameters() if not name.startswith("pooler.")}
    if any(id(parameter) in inside for parameter in parameters.values()):
        return None  # tied to the encoder, which would change
    expected = _logits_and_gradients(model, parameters, batch)
    hidden = _hidden(model, batch)
    if hidden is None:
        return None
    for position in ("first", "last"):
        reading = Reading(head_of(model), position)
        values = reading.pick(hidden, batch.inputs["attention_mask"])
        try:
            found = _logits_and_gradients(
                reading.head, parameters, as_input(reading.head, values, batch.labels)
            )
        except Exception:  # a head that cannot be had apart is trained with its encoder
            return None
        if all(map(_agree, found, expected)):
            return reading
    return None


def _logits_and_gradients(
    model: Any, parameters: Mapping[str, nn.Parameter], batch: MicroBatch
) -> list[Tensor]:
    """Per-example losses, and the gradient of their weighted sum: no two examples weigh the same."""
    with torch.enable_grad():
        losses = example_losses(model, batch, "fp32")
        weighted = (losses * torch.arange(1, len(batch) + 1)).sum()
        return [losses.detach(), *torch.autograd.grad(weighted, list(parameters.values()))]


def _agree(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())


@torch.no_grad()
def _hidden(model: Any, batch: MicroBatch) -> Tensor | None:
    """What the encoder says within ``model``, (b t d); None where that is something else."""
    said: list[Any] = []
    encoder = getattr(model, model.base_model_prefix)
    handle = encoder.register_forward_hook(lambda _, __, output: said.append(output[0]))
    try:
        model(**batch.inputs)
    finally:
        handle.remove()
    shape = batch.inputs["input_ids"].shape
    whole = len(said) == 1 and isinstance(said[0], Tensor) and said[0].shape[:-1] == shape
    return said[0].float() if whole else None


def keep_features(
    model: Any, reading: Reading, split: PreparedSplit, pad_token_id: int, identity: Mapping[str, Any]
) -> Features:
    """Features of ``split``, from the cache or computed into it.

    Args:
        model: the whole model.
        reading: from :func:`reading_of`.
        split: the examples.
        pad_token_id: of the tokenizer.
        identity: whatever decides the features: the prepared data, the encoder, its configuration.

    Raises:
        DpftError: the cache cannot be written.
    """
    cache = ArrowCache(paths.cache() / "prepared")  # beside the data, and collected with it
    key = cache.key("features", {**identity, "position": reading.position, "torch": torch.__version__})
    place = cache.directory(key)
    with FileLock(place.with_name(f"{key}.lock"), mode=0o600):
        values = _load(place, split.rows)
        if values is None or not _still_true(values, model, reading, split, pad_token_id):
            everything = np.arange(split.rows)
            _store(place, _compute(model, reading, split, everything, pad_token_id))
            values = _load(place, split.rows)
    if values is None:
        raise DpftError(
            f"the cache {place.parent} does not give back what was written",
            hint="check the disk, or point DPFT_CACHE at another one",
        )
    return Features(reading.head, values, split.labels)


def _compute(
    model: Any, reading: Reading, split: PreparedSplit, rows: npt.NDArray[np.int64], pad_token_id: int
) -> npt.NDArray[np.float32]:
    """Features of ``rows``, (rows d): no dropout, no gradients, texts of like length together."""
    values: npt.NDArray[np.float32] | None = None
    for piece in micro_batches(np.arange(len(rows)), split.lengths[rows], _TOKENS):
        batch = collate(split, rows[piece], pad_token_id)
        hidden = _hidden(model, batch)
        assert hidden is not None
        found = reading.pick(hidden, batch.inputs["attention_mask"]).numpy()
        if values is None:
            values = np.empty((len(rows), found.shape[1]), dtype=np.float32)
        values[piece] = found
    assert values is not None
    return values


def _still_true(
    values: npt.NDArray[np.float32], model: Any, reading: Reading, split: PreparedSplit, pad_token_id: int
) -> bool:
    """A few rows computed anew are what was kept: an entry that says otherwise is of something else."""
    rows = np.unique(np.linspace(0, split.rows - 1, _ROWS_TO_CHECK).astype(np.int64))
    fresh = _compute(model, reading, split, rows, pad_token_id)
    if fresh.shape[1] != values.shape[1]:
        return False
    return _agree(torch.from_numpy(values[rows]), torch.from_numpy(fresh))


def _load(place: Path, rows: int) -> npt.NDArray[np.float32] | None:
    """Map an entry; None if it is not there or damaged."""
    try:
        with (place / "values.npy").open("rb") as file:
            digest = hashlib.file_digest(file, _SHA).hexdigest()
        if json.loads((place / "meta.json").read_text("utf-8"))[_SHA] != digest:
            return None
        values = np.load(place / "values.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return values if values.dtype == np.float32 and values.ndim == 2 and len(values) == rows else None


def _store(place: Path, values: npt.NDArray[np.float32]) -> None:
    """Write an entry beside its place, then rename it there.

    Raises:
        DpftError: no room, or not allowed.
    """
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))  # 0700
        try:
            entry = scratch / "entry"
            entry.mkdir(mode=0o700)
            with _private(entry / "values.npy") as file:
                np.save(file, values, allow_pickle=False)
            with (entry / "values.npy").open("rb") as file:
                digest = hashlib.file_digest(file, _SHA).hexdigest()
            with _private(entry / "meta.json") as file:
                file.write(json.dumps({_SHA: digest, "shape": list(values.shape)}).encode())
            if place.exists():  # it was damaged
                place.rename(scratch / "before")
            entry.rename(place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise DpftError(
            f"cannot write the cache {place.parent}: {error.strerror or error}",
            hint="point DPFT_CACHE at a folder with room, where you may write",
        ) from error


def _private(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
