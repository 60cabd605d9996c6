"""Does bfloat16 round an example's gradient the same way in any company?

In float64 a model that keeps its examples apart agrees with itself (:mod:`dpft.training.company`); in
bfloat16 it need not: a kernel that adds up in another order for other rows rounds to other numbers. In
training each example has a width of its own (:mod:`dpft.privacy.pieces`), so what is left to see is that
neither the number of rows, of which there are few to try, nor neighbours or place among them decide anything.
That is seen here, to the last bit of each loss, on this machine, with this model, before the first step.

Every width is looked at, the least and the greatest with every number of rows, those in between, and texts
that leave no room for padding, with a few. A norm hides what turns a gradient without making it longer; so at
the least and the greatest width, what a text adds to the sum is compared, too: alone, and before rows that
count for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.engines.base import Engine, MicroBatch, Session
from dpft.errors import RoundingError
from dpft.privacy.clipping import Clipper
from dpft.privacy.pieces import own_width, rows_of
from dpft.training.moved import moved
from dpft.training.preflight import synthetic_batch

__all__ = ["check_rounding"]

_NORMS = 1e-6  # relative; norms are added up in float32 products, whose order may be the batch's
_SUMS = 5e-6  # of what an example adds; in float32, over as many rows
_FEW = (0, 1, 2, 0)  # texts beside each other: the first of three in the first place and in the last


def check_rounding(
    engine: Engine,
    model: Any,
    parameters: Mapping[str, nn.Parameter],
    clipper: Clipper,
    *,
    longest: int,
    token_budget: int,
    extra_tokens: int,
    token_types: bool,
    pad_token_id: int,
    labels: int,
) -> None:
    """Refuse bf16 where company or place change what an example contributes.

    Args:
        engine: that is to train.
        model: in its mode, in eval mode.
        parameters: its trainable parameters by name.
        clipper: any; what is compared comes before clipping.
        longest: what texts are truncated to.
        token_budget: of micro-batches.
        extra_tokens: virtual tokens of the mode.
        token_types: whether the tokenizer gives ``token_type_ids``.
        pad_token_id: of the tokenizer.
        labels: number of labels.

    Raises:
        RoundingError: a loss differs in its last bit, or a norm or what is added beyond rounding in float32.
    """
    sums, added = (
        {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()} for _ in range(2)
    )
    with moved(parameters), engine.session(model, parameters, clipper, "bf16") as session:
        for width, lengths, thoroughly in _shapes(longest):
            texts = synthetic_batch(
                model,
                token_types=token_types,
                labels=labels,
                pad_token_id=pad_token_id,
                lengths=lengths,
            )
            seen = _Seen(model, session, texts, width, pad_token_id)
            most = rows_of(width, token_budget, extra_tokens)
            for rows, fill in _companies(most) if thoroughly else (([0], 0), (_FEW[-most:], 0)):
                seen.compare(rows, fill, added)
            if not thoroughly:
                continue
            _clear(sums)
            seen.compare([0], 0, sums)
            for count in (1 << doublings for doublings in range(1, most.bit_length())):
                _clear(added)
                seen.compare([0, *(1 + place % 2 for place in range(count - 1))], count - 1, added)
                _compare_added(model, sums, added)


@dataclass(frozen=True)
class _Seen:
    """Losses and norms of three texts at one width, as the first company had them."""

    model: Any
    session: Session
    texts: MicroBatch
    width: int
    pad_token_id: int
    found: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def compare(self, rows: Sequence[int], fill: int, into: Mapping[str, Tensor]) -> None:
        """Those of ``rows`` of the texts, the last ``fill`` of which count for nothing; what they add."""
        batch = _shaped(self.texts, rows, fill, self.width, self.pad_token_id)
        report = self.session.accumulate(batch, into)
        assert report.norms is not None
        for place, text in enumerate(rows[: len(rows) - fill]):
            found = report.losses[place], report.norms[place]
            _compare(self.model, self.found.setdefault(text, found), found)


def _clear(sums: Mapping[str, Tensor]) -> None:
    for value in sums.values():
        value.zero_()


def _shapes(longest: int) -> Iterator[tuple[int, tuple[int, int, int], bool]]:
    """Every width, the lengths of three texts of that width, and whether to look at it thoroughly."""
    widths = sorted({own_width(length, longest) for length in range(1, longest)})
    for width in widths:
        length = min(width, longest) - 1
        yield width, (length, max(1, length - 1), max(1, length - 2)), width in (widths[0], widths[-1])
    yield own_width(longest, longest), (longest, longest, longest), not widths


def _companies(most: int) -> Iterator[tuple[list[int], int]]:
    """Texts 0, 1 and 2 in each number of rows up to ``most``; and how many of these count for nothing."""
    yield [0], 0
    for doublings in range(1, most.bit_length() - 1):
        count = 1 << doublings
        yield [(place + doublings) % 3 for place in range(count)], count // 3
    yield [place % 3 for place in reversed(range(most))], 0


def _shaped(texts: MicroBatch, rows: Sequence[int], fill: int, width: int, pad_token_id: int) -> MicroBatch:
    """``rows`` of ``texts``, padded to ``width``."""
    more = width - texts.inputs["input_ids"].shape[1]
    inputs = {
        key: F.pad(value[list(rows)], (0, more), value=pad_token_id if key == "input_ids" else 0)
        for key, value in texts.inputs.items()
    }
    return MicroBatch(inputs, texts.labels[list(rows)], fill)


def _compare_added(model: Any, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """The two sums; the second is used up."""
    size = _norm(first.values())
    apart = _norm(second[name].sub_(value) for name, value in first.items())
    if not apart <= _SUMS * size:
        raise RoundingError(
            f"{type(model).__name__} rounds an example at bf16 by its company: of what it adds, a part of "
            f"{apart / size if size else math.inf:.2g} differs",
            hint="give --precision fp32",
        )


def _norm(values: Iterable[Tensor]) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(v, dtype=torch.float64)) for v in values))


def _compare(model: Any, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> None:
    same = torch.equal(first[0], second[0])
    apart = float((first[1] - second[1]).abs())
    if not (same and apart <= _NORMS * float(first[1])):
        raise RoundingError(
            f"{type(model).__name__} rounds an example at bf16 by its company: its loss differs by "
            f"{float((first[0] - second[0]).abs()):.2g}, its gradient's norm by {apart:.2g}",
            hint="give --precision fp32",
        )
