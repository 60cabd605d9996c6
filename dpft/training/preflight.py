"""Before the first step: does this very model, mode and engine clip what it should?

A rule can be right for a layer and wrong for how a model uses it (a weight read past its module, a batch
dimension that is not one), and a model can mix examples by itself (attention or convolution over padding,
whose width a longer neighbour decides). So the engine that is about to train is compared with the slow truth
on three synthetic examples of different lengths, and the model's answers in company with those alone
(:mod:`dpft.training.company`); it costs milliseconds and reads no data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.engines import oracle
from dpft.engines.base import Engine, MicroBatch
from dpft.errors import ModelError, PrivacyError
from dpft.privacy.clipping import Clipper, FlatClipper
from dpft.training.company import check_company
from dpft.training.moved import moved

__all__ = [
    "LENGTHS",
    "Agreement",
    "check_engine",
    "check_reachable",
    "compare_engine",
    "synthetic_batch",
]

LENGTHS = (11, 7, 2)  # different from each other and from their number, so that no two dimensions coincide
_EXTRA_PADDING = 5
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Agreement:
    """How an engine compares with each example alone.

    Attributes:
        norm_error: largest relative difference of a norm.
        sum_error: relative difference of the clipped sum.
        worst: the parameter whose sum differs most.
        notes: what the user should know of how the engine works here (a slow path), in sentences.
    """

    norm_error: float
    sum_error: float
    worst: str
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether both are within tolerance; not so for NaN."""
        return self.norm_error <= _TOLERANCE and self.sum_error <= _TOLERANCE


def synthetic_batch(
    model: Any,
    *,
    token_types: bool,
    labels: int,
    pad_token_id: int,
    lengths: Sequence[int] = LENGTHS,
    repeated: bool = False,
) -> MicroBatch:
    """Rows of made-up tokens, padded to the longest, the shortest last.

    Where the model reads its answer at the end-of-text token (encoder-decoder models), each row ends in it.

    Args:
        model: whose vocabulary is used.
        token_types: whether its tokenizer gives ``token_type_ids``.
        labels: number of labels.
        pad_token_id: of the tokenizer.
        lengths: tokens of each row.
        repeated: whether the first row is one token over and over.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (len(lengths), max(lengths))
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    ids = torch.randint(0, vocabulary, shape, generator=generator)
    # The padding token inside a text would be taken for the text's end by some architectures.
    ids = torch.where(ids == pad_token_id, (ids + 1) % vocabulary, ids)
    ids[:, 1:2] = ids[:, :1]
    if repeated:
        ids[0] = ids[0, 0]
    if getattr(model.config, "is_encoder_decoder", False) and model.config.eos_token_id is not None:
        end = int(model.config.eos_token_id)
        ids = torch.where(ids == end, (ids + 2) % vocabulary, ids)
        ids[torch.arange(shape[0]), torch.tensor(lengths) - 1] = end
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    inputs = {"input_ids": torch.where(mask.bool(), ids, pad_token_id), "attention_mask": mask}
    if token_types:
        inputs["token_type_ids"] = torch.zeros(shape, dtype=torch.long)
    return MicroBatch(inputs, torch.arange(len(lengths)) % labels)


def check_reachable(model: Any, parameters: Mapping[str, nn.Parameter], batch: MicroBatch) -> None:
    """Refuse parameters that the output does not depend on: they would be saved as noise, or never move.

    Raises:
        ModelError: naming them.
    """
    loss = model(**batch.inputs).logits.float().logsumexp(-1).sum()
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    unreached = [name for name, gradient in zip(parameters, found, strict=True) if gradient is None]
    if unreached:
        raise ModelError(
            f"the model's output does not depend on {', '.join(unreached[:3])}"
            + (f" and {len(unreached) - 3} more" if len(unreached) > 3 else ""),
            hint="choose another --finetune-mode for this architecture",
        )


def check_engine(
    engine: Engine,
    model: Any,
    parameters: Mapping[str, nn.Parameter],
    batch: MicroBatch,
    make_clipper: Callable[[float], Clipper] = FlatClipper,
) -> tuple[str, ...]:
    """Refuse an engine that is not exact here, or a model whose examples are not apart.

    Args:
        engine: that is to train.
        model: in its mode.
        parameters: its trainable parameters by name.
        batch: examples of different lengths, the shortest last.
        make_clipper: the kind of clipper that is to train, from C (an entry of ``tables.CLIPPERS``).

    Returns:
        What the user should know of how the engine works here (a slow path), in sentences.

    Raises:
        PrivacyError: they differ; nothing must be trained.
    """
    found = compare_engine(engine, model, parameters, batch, make_clipper)
    if not found.holds:
        raise PrivacyError(
            f"engine {engine.name!r} is not exact on {type(model).__name__}: against each example alone, "
            f"norms differ by {found.norm_error:.2g} and the clipped sum by {found.sum_error:.2g} "
            f"(relative), most at {found.worst!r}",
            hint="this architecture may mix examples (through padding, say): choose another model or "
            "--finetune-mode",
        )
    return found.notes


def compare_engine(
    engine: Engine,
    model: Any,
    parameters: Mapping[str, nn.Parameter],
    batch: MicroBatch,
    make_clipper: Callable[[float], Clipper] = FlatClipper,
) -> Agreement:
    """Compare norms and clipped sum with the oracle; see that answers are each example's own.

    Both with the trainable parameters moved a little from where they are (:func:`dpft.training.moved.moved`),
    since an adapter's start hides what it does; afterwards they are as they were. The arguments are those of
    :func:`check_engine`.

    Returns:
        The worse of two comparisons: with the padding as it is, and with more.

    Raises:
        PrivacyError: the model answers differently in company, or keeps something of each text.
    """
    with moved(parameters):
        return _compare(engine, model, parameters, batch, make_clipper)


def _compare(
    engine: Engine,
    model: Any,
    parameters: Mapping[str, nn.Parameter],
    batch: MicroBatch,
    make_clipper: Callable[[float], Clipper],
) -> Agreement:
    """The comparison at the weights as they are."""
    pieces = (batch, _wider(batch)) if "attention_mask" in batch.inputs else (batch,)
    before = _versions(model)
    truth = oracle.per_example_gradients(model, parameters, batch)
    _, norms = oracle.clipped_sum(truth, 1.0)
    clipper = make_clipper(float(norms.median()))  # so that some examples are clipped and some are not
    expected, _ = oracle.clipped_sum(truth, clipper)
    found = []
    with engine.session(model, parameters, clipper, "fp32") as session:
        for piece in pieces:
            sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
            report = session.accumulate(piece, sums)
            found.append(_agreement(report.norms, norms, sums, expected))
        notes = session.notes
    worst = next((agreement for agreement in found if not agreement.holds), None)
    worst = worst or max(found, key=lambda agreement: agreement.sum_error)
    if worst.holds:
        _check_memory(model, before)
        check_company(model, batch, pieces)
    return replace(worst, notes=notes)


def _check_memory(model: Any, before: Mapping[str, int]) -> None:
    """Refuse a model that keeps something of the texts it meets."""
    changed = [name for name, version in _versions(model).items() if version != before[name]]
    if changed:
        raise PrivacyError(
            f"{type(model).__name__} changes {changed[0]!r} whenever it meets a text",
            hint="what it keeps of private texts carries no noise: choose another model",
        )


def _versions(model: nn.Module) -> dict[str, int]:
    """How often each parameter and buffer was written to."""
    return {name: value._version for name, value in (*model.named_parameters(), *model.named_buffers())}


def _wider(batch: MicroBatch) -> MicroBatch:
    """The same examples under more padding, as a longer neighbour would bring."""
    pad = int(batch.inputs["input_ids"][-1, -1])  # the shortest row ends in padding
    return MicroBatch(
        {
            key: F.pad(value, (0, _EXTRA_PADDING), value=pad if key == "input_ids" else 0)
            for key, value in batch.inputs.items()
        },
        batch.labels,
    )


def _agreement(
    found_norms: Tensor | None, norms: Tensor, sums: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Agreement:
    wrong = {name: float((sums[name].double() - value).norm()) for name, value in expected.items()}
    size = torch.stack([value.square().sum() for value in expected.values()]).sum().sqrt()
    norm_error = float("nan") if found_norms is None else float(((found_norms - norms).abs() / norms).max())
    sum_error = math.hypot(*wrong.values()) / float(size)
    return Agreement(norm_error, sum_error, max(wrong, key=lambda name: wrong[name]))
