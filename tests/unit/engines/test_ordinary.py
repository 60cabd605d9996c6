"""Training without privacy: plain sums of gradients."""

from __future__ import annotations

import torch

from dpft.engines import ordinary
from tests import models


def test_sums_are_plain_gradients_and_nothing_is_left_behind() -> None:
    model, parameters = models.tuned("full")
    whole = models.batch()
    sums = {name: torch.full(p.shape, 0.5) for name, p in parameters.items()}
    with ordinary.session(model, parameters, "fp32") as session:
        for rows in ([0, 1, 2], [3], [4, 5, 6]):
            session.accumulate(models.rows_of(whole, rows), sums)
    assert all(p.grad is None for p in parameters.values())
    loss = torch.nn.functional.cross_entropy(model(**whole.inputs).logits, whole.labels, reduction="sum")
    expected = torch.autograd.grad(loss, list(parameters.values()))
    for value, gradient in zip(sums.values(), expected, strict=True):
        torch.testing.assert_close(value, gradient + 0.5, rtol=1e-4, atol=1e-5)
