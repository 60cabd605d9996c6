"""float32: a neighbour, however long, moves what the others add by rounding only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpft.engines.base import MicroBatch
from dpft.engines.bookkeeping import ENGINE
from dpft.privacy.clipping import FlatClipper
from dpft.privacy.gradients import DenseGradient, OuterGradient
from dpft.tables import MODES
from tests import architectures, models

BOUND, SHORT, LONG, ROWS = 0.5, 18, 100, 24


def texts(kind: str) -> MicroBatch:
    """Rows of up to ``SHORT`` tokens, after one of ``LONG``."""
    whole = architectures.batch(kind, rows=ROWS, length=LONG)
    lengths = torch.from_numpy(np.random.default_rng(0).integers(2, SHORT + 1, ROWS))
    lengths[0] = LONG
    ids = torch.randint(4, architectures.VOCABULARY, (ROWS, LONG), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(LONG) < lengths[:, None]).long()
    padding = architectures.config(kind).pad_token_id
    inputs = {**whole.inputs, "attention_mask": mask, "input_ids": torch.where(mask > 0, ids, padding)}
    return MicroBatch(inputs, whole.labels)


def short_ones(whole: MicroBatch) -> MicroBatch:
    """As they are padded where the longest is not among them."""
    rows = models.rows_of(whole, slice(1, None))
    return MicroBatch({key: value[:, :SHORT] for key, value in rows.inputs.items()}, rows.labels)


def moved_by_a_neighbour(kind: str, mode: str) -> float:
    """What the longest text moves beyond its own clipped gradient, in clipping norms."""
    wide = {"hidden_size": 128, "intermediate_size": 512, "max_position_embeddings": 128}
    model = architectures.build(kind, **wide)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(0.25)  # as they are, attention at this width has eyes for one token only
    model, parameters = models.tuned(mode, model=model)
    whole = texts(kind)
    found = []
    with ENGINE.session(model, parameters, FlatClipper(BOUND), "fp32") as session:
        for batch in (whole, short_ones(whole), models.rows_of(whole, slice(0, 1))):
            sums = models.zeros(parameters)
            assert session.accumulate(batch, sums).dropped == 0
            found.append(models.flat(sums))
    everyone, others, alone = found
    return float((everyone - others - alone).norm()) / BOUND


CASES = [("bert", mode) for mode in MODES.names()] + [("gpt2", "full"), ("llama", "full"), ("llama", "lora")]


@pytest.mark.parametrize(("kind", "mode"), CASES)
def test_a_longer_neighbour_moves_nobody(kind: str, mode: str) -> None:
    """But for the rounding of 23 gradients: each at most 4e-7 of its bound."""
    assert moved_by_a_neighbour(kind, mode) <= 9e-6


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_planted_magnitude_of_one_form_only_moves_everybody(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = OuterGradient._written

    def written(self: OuterGradient) -> DenseGradient:
        found = genuine(self)
        return DenseGradient(found.values, transposed=found.transposed)

    monkeypatch.setattr(OuterGradient, "_written", written)
    assert moved_by_a_neighbour(kind, "full") > 2e-5
