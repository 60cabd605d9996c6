"""Before the first step: does this very model, mode and engine clip what it should?

A rule can be right for a layer and wrong for how a model uses it (a weight read past its module, a batch
dimension that is not one). So the engine that is about to train is compared with the slow truth on three
synthetic examples of different lengths; it costs milliseconds and reads no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dpft.engines import oracle
from dpft.engines.base import Engine, MicroBatch
from dpft.errors import ModelError, PrivacyError
from dpft.privacy.clipping import FlatClipper

__all__ = ["check_engine", "check_reachable", "synthetic_batch"]

_LENGTHS = (11, 7, 2)  # different from each other and from their number, so that no two dimensions coincide
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
    engine: Engine, model: Any, parameters: Mapping[str, nn.Parameter], batch: MicroBatch
) -> None:
    """Compare norms and clipped sum with the oracle.

    Raises:
        PrivacyError: they differ; nothing must be trained.
    """
    truth = oracle.per_example_gradients(model, parameters, batch)
    _, norms = oracle.clipped_sum(truth, 1.0)
    bound = float(norms.median())  # so that some examples are clipped and some are not
    expected, _ = oracle.clipped_sum(truth, bound)
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    with engine.session(model, parameters, FlatClipper(bound), "fp32") as session:
        report = session.accumulate(batch, sums)
    difference = torch.stack([(sums[n].double() - expected[n]).square().sum() for n in expected]).sum().sqrt()
    size = torch.stack([value.square().sum() for value in expected.values()]).sum().sqrt()
    norm_error = float("nan") if report.norms is None else float(((report.norms - norms).abs() / norms).max())
    sum_error = float(difference / size)
    if not (norm_error <= _TOLERANCE and sum_error <= _TOLERANCE):
        raise PrivacyError(
            f"engine {engine.name!r} is not exact on {type(model).__name__}: per-example norms differ by "
            f"{norm_error:.2g}, the clipped sum by {sum_error:.2g} (relative)",
            hint="choose another --finetune-mode or --engine for this architecture",
        )
