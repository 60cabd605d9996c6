"""Rows to tokens, once: read, tokenise, keep as Arrow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dpft.data.arrow_cache import ArrowCache, PreparedSplit
from dpft.data.raw import RawDataset, RawSplit
from dpft.data.sources import read_rows
from dpft.data.task import Task
from dpft.errors import DataError, UsageError

__all__ = ["PreparedData", "PreparedSplit", "Progress", "Tokenizer", "prepare", "tokenizer_identity"]

_BATCH = 2048
_SANE_LENGTH = 1_000_000  # transformers uses 10³⁰ for "no limit known"

_CONTROL_IN_TEXT = "split, else unknown"  # part of an entry's identity

Progress = Callable[[str, int, int], None]
"""Called with a split's name, rows done, and rows in all."""


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    model_max_length: int

    def __call__(
        self, text: list[str], text_pair: list[str] | None = None, **kwargs: Any
    ) -> Mapping[str, Any]:
        """Tokenise a batch."""
        ...

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many tokens are not text."""
        ...


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A task's tokenised splits.

    Attributes:
        task: what the rows are.
        cache_key: the entry's name; a keyed hash, so it tells nothing about the rows.
        cached: whether it was there already, and nothing was tokenised.
        max_length: the longest a row may be, special tokens included.
        splits: ``train`` and the validation splits.
        source: where the rows came from, without paths.
        revision: the source's version, or None.
        content_digest: identifies the train rows in any order. Private: to be keyed before it is kept.
        directory: the cache entry.
        places: the splits without their texts and labels: where each row stands, for error texts.
        carved: the validation rows were set aside from the training rows' own file.
    """

    task: Task
    cache_key: str
    cached: bool
    max_length: int
    splits: Mapping[str, PreparedSplit]
    source: str
    revision: str | None
    content_digest: bytes
    directory: Path
    carved: bool = False
    places: Mapping[str, RawSplit] = field(default_factory=dict)

    def locate(self, split: str, row: int) -> str:
        """Where a row stands, for an error text."""
        place = self.places.get(split)
        return f"split {split}, {place.locate(row) if place is not None else f'row {row}'}"


def prepare(
    task: Task,
    tokenizer: Tokenizer,
    *,
    tokenizer_id: str,
    max_length: int,
    cache_dir: Path,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> PreparedData:
    """Read a task's rows and tokenise them, or load them from the cache if nothing that matters has changed.

    A text never yields a control token: ``</s>`` or ``[SEP]`` in it is split like any other text, and where
    the tokenizer would not, it becomes the unknown token. Else one text could pass for the end of itself.

    What matters is: the rows in their order, the tokenizer's whole state, the maximum length, the task, and
    the cache's format. Reading always happens, and every row is checked, so a cached result never hides a bad
    file. Interrupted at any point, nothing half-written remains; two processes at once get the same entry.

    Args:
        task: which dataset.
        tokenizer: a transformers tokenizer. Padding and truncation it was set up with play no part.
        tokenizer_id: its name, for error texts and the entry's ``meta.json``.
        max_length: tokens per row, special tokens included; longer rows are cut (a pair's longer text first).
        cache_dir: the entry is made in ``cache_dir/prepared/<key>``.
        data_dir: a folder in the GLUE layout; None for the hub. A built-in task ignores it.
        progress: told about tokenisation, never called on a cache hit.

    Raises:
        UsageError: ``max_length`` is more than the tokenizer's model takes, or leaves no room for text.
        DataError: a row cannot be used; named by file and line.
        NotFoundError: ``data_dir`` lacks the files.
        HubError: the hub is out of reach.
        DpftError: the cache cannot be written.
    """
    _check_length(task, tokenizer, tokenizer_id, max_length)
    raw = read_rows(task, data_dir)
    cache = ArrowCache(Path(cache_dir) / "prepared")
    key = cache.key(
        task.name,
        {
            "rows": raw.ordered_digest.hex(),
            "tokenizer": tokenizer_identity(tokenizer),
            "max_length": max_length,
            "task": task.name,
            "control_tokens_in_text": _CONTROL_IN_TEXT,
        },
    )
    splits, cached = cache.load_or_build(
        key,
        {"task": task.name, "tokenizer": tokenizer_id, "max_length": max_length},
        lambda: _tokenize(raw, tokenizer, max_length, progress),
    )
    return PreparedData(
        task=task,
        cache_key=key,
        cached=cached,
        max_length=max_length,
        splits=splits,
        source=raw.source,
        revision=raw.revision,
        content_digest=raw.content_digest,
        directory=cache.directory(key),
        carved=raw.carved,
        places={name: replace(split, texts=(), labels=[]) for name, split in raw.splits.items()},
    )


def tokenizer_identity(tokenizer: Any) -> str:
    """Hash everything about a tokenizer that can change its output.

    A fast tokenizer serialises itself; what it was last asked to pad or truncate to is left out, since a mere
    call changes that. Any other tokenizer is known by its vocabulary and its construction arguments.
    """
    state: dict[str, Any] = {
        "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "special_tokens": tokenizer.special_tokens_map,
        "inputs": list(tokenizer.model_input_names),
        "truncation_side": tokenizer.truncation_side,
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state["backend"] = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    else:
        state["vocabulary"] = tokenizer.get_vocab()
        state["arguments"] = tokenizer.init_kwargs
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()


def _check_length(task: Task, tokenizer: Tokenizer, tokenizer_id: str, max_length: int) -> None:
    limit = tokenizer.model_max_length
    if limit < _SANE_LENGTH and not max_length <= limit:
        raise UsageError(
            f"max_length {max_length} is more than {tokenizer_id} takes ({limit} tokens)",
            hint=f"give --max-length {limit} or less",
        )
    specials = tokenizer.num_special_tokens_to_add(pair=task.is_pair)
    least = specials + len(task.text_columns)
    if not max_length >= least:
        raise UsageError(
            f"max_length {max_length} leaves no room for text: {tokenizer_id} adds {specials} special tokens",
            hint=f"give --max-length {least} or more",
        )


def _tokenize(
    raw: RawDataset, tokenizer: Tokenizer, max_length: int, progress: Progress | None
) -> dict[str, PreparedSplit]:
    return {
        name: _tokenize_split(name, rows, tokenizer, max_length, progress)
        for name, rows in raw.splits.items()
    }


def _tokenize_split(
    name: str, split: RawSplit, tokenizer: Tokenizer, max_length: int, progress: Progress | None
) -> PreparedSplit:
    """Tokenise batch by batch into flat arrays.

    Raises:
        DataError: a row has no tokens at all (possible only with a tokenizer that adds no special tokens).
    """
    ids: list[np.ndarray[Any, np.dtype[np.int32]]] = []
    types: list[np.ndarray[Any, np.dtype[np.int32]]] = []
    lengths: list[int] = []
    truncated = 0
    for start in range(0, len(split), _BATCH):
        rows = range(start, min(start + _BATCH, len(split)))
        encoded = _encode(tokenizer, split, rows)
        too_long = [i for i, row_ids in enumerate(encoded["input_ids"]) if len(row_ids) > max_length]
        if too_long:
            cut = _encode(tokenizer, split, [rows[i] for i in too_long], max_length)
            for column, values in cut.items():
                for i, value in zip(too_long, values, strict=True):
                    encoded[column][i] = value
            truncated += len(too_long)
        batch_lengths = [len(row_ids) for row_ids in encoded["input_ids"]]
        if 0 in batch_lengths:
            raise DataError(
                f"{split.locate(rows[batch_lengths.index(0)])}: the tokenizer makes no token of this text",
                hint="correct or remove the row, or use a tokenizer that adds special tokens",
            )
        lengths += batch_lengths
        ids.append(_flat(encoded["input_ids"]))
        if "token_type_ids" in encoded:
            types.append(_flat(encoded["token_type_ids"]))
        if progress is not None:
            progress(name, rows[-1] + 1, len(split))
    return PreparedSplit(
        input_ids=np.concatenate(ids),
        offsets=np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
        token_type_ids=np.concatenate(types) if types else None,
        labels=np.asarray(split.labels, dtype=np.int64),
        lengths=np.asarray(lengths, dtype=np.int32),
        truncated=truncated,
    )


def _encode(
    tokenizer: Tokenizer, split: RawSplit, rows: Sequence[int], max_length: int | None = None
) -> dict[str, list[list[int]]]:
    """Token ids (and types) of some rows, cut to ``max_length`` if it is given; no control token from a text.

    Raises:
        DataError: a text that yields one, with a tokenizer that has no unknown token to put in its place.
    """
    columns = [[texts[row] for row in rows] for texts in split.texts]
    cut = {"truncation": "longest_first", "max_length": max_length} if max_length else {"truncation": False}
    encoded = tokenizer(
        *columns,
        padding=False,
        return_attention_mask=False,
        return_special_tokens_mask=True,
        split_special_tokens=True,
        verbose=False,
        **cut,
    )
    found = {column: list(encoded[column]) for column in ("input_ids", "token_type_ids") if column in encoded}
    unknown = getattr(tokenizer, "unk_token_id", None)
    control = set(getattr(tokenizer, "all_special_ids", ())) - {unknown}
    if control:
        for i, (ids, added) in enumerate(
            zip(found["input_ids"], encoded["special_tokens_mask"], strict=True)
        ):
            places = [at for at, token in enumerate(ids) if token in control and not added[at]]
            if places and unknown is None:
                raise DataError(
                    f"{split.locate(rows[i])}: the text has a control token of the tokenizer",
                    hint="remove it from the row, or use a tokenizer that has an unknown token",
                )
            for at in places:
                found["input_ids"][i][at] = unknown
    return found


def _flat(rows: list[list[int]]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.fromiter((token for row in rows for token in row), dtype=np.int32)
