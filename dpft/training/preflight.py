"""Before the first step: does this very model, mode and engine clip what it should?

A rule can be right for a layer and wrong for how a model uses it (a weight read past its module, a batch
dimension that is not one), and a model can mix examples by itself (attention or convolution over padding,
whose width a longer neighbour decides). So the engine that is about to train is compared with the slow truth
on three synthetic examples of different lengths; it costs milliseconds and reads no data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.engines import oracle
from dpft.engines.base import Engine, MicroBatch
from dpft.errors import ModelError, PrivacyError
from dpft.privacy.clipping import Clipper, FlatClipper

__all__ = ["check_engine", "check_reachable", "synthetic_batch"]

_LENGTHS = (11, 7, 2)  # different from each other and from their number, so that no two dimensions coincide
_EXTRA_PADDING = 5
_TOLERANCE = 1e-3


def synthetic_batch(model: Any, *, token_types: bool, labels: int, pad_token_id: int) -> MicroBatch:
    """Three rows of made-up tokens, padded to the longest."""
    generator = torch.Generator().manual_seed(0)
    shape = (len(_LENGTHS), max(_LENGTHS))
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    ids = torch.randint(0, vocabulary, shape, generator=generator)
    # The padding token inside a text would be taken for the text's end by some architectures.
    ids = torch.where(ids == pad_token_id, (ids + 1) % vocabulary, ids)
    ids[:, 1] = ids[:, 0]
    mask = (torch.arange(shape[1]) < torch.tensor(_LENGTHS)[:, None]).long()
    inputs = {"input_ids": torch.where(mask.bool(), ids, pad_token_id), "attention_mask": mask}
    if token_types:
        inputs["token_type_ids"] = torch.zeros(shape, dtype=torch.long)
    return MicroBatch(inputs, torch.arange(len(_LENGTHS)) % labels)


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
) -> None:
    """Compare norms and clipped sum with the oracle.

    Args:
        engine: that is to train.
        model: in its mode.
        parameters: its trainable parameters by name.
        batch: examples of different lengths, the shortest last.
        make_clipper: the kind of clipper that is to train, from C (an entry of ``tables.CLIPPERS``).

    Raises:
        PrivacyError: they differ; nothing must be trained.
    """
    truth = oracle.per_example_gradients(model, parameters, batch)
    _, norms = oracle.clipped_sum(truth, 1.0)
    clipper = make_clipper(float(norms.median()))  # so that some examples are clipped and some are not
    expected, _ = oracle.clipped_sum(truth, clipper)
    with engine.session(model, parameters, clipper, "fp32") as session:
        for piece in (batch, _wider(batch)) if "attention_mask" in batch.inputs else (batch,):
            sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
            report = session.accumulate(piece, sums)
            _compare(engine.name, type(model).__name__, report.norms, norms, sums, expected)


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


def _compare(
    engine: str,
    model: str,
    found_norms: Tensor | None,
    norms: Tensor,
    sums: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> None:
    difference = torch.stack([(sums[n].double() - expected[n]).square().sum() for n in expected]).sum().sqrt()
    size = torch.stack([value.square().sum() for value in expected.values()]).sum().sqrt()
    norm_error = float("nan") if found_norms is None else float(((found_norms - norms).abs() / norms).max())
    sum_error = float(difference / size)
    if not (norm_error <= _TOLERANCE and sum_error <= _TOLERANCE):
        raise PrivacyError(
            f"engine {engine!r} is not exact on {model}: against each example alone, norms differ by "
            f"{norm_error:.2g} and the clipped sum by {sum_error:.2g} (relative)",
            hint="this architecture may mix examples (through padding, say): choose another model or "
            "--finetune-mode",
        )
