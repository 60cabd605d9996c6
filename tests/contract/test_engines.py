"""Every engine gives the clipped sums of the one-example-at-a-time oracle, in every mode it supports."""

from __future__ import annotations

import pytest
import torch

from dpft.engines import oracle
from dpft.privacy.clipping import FlatClipper
from dpft.tables import ENGINES, MODES
from tests import models

RELATIVE = 1e-4


def split(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(count, start + size))) for start in range(0, count, size)]


@pytest.mark.parametrize("mode", MODES.names())
@pytest.mark.parametrize("engine", ENGINES.names())
@pytest.mark.parametrize("micro_batch", [1, 3, 7])
def test_norms_and_clipped_sum_equal_the_oracle(engine: str, mode: str, micro_batch: int) -> None:
    """With padding, a row that is all padding but one token, repeated tokens, and any micro-batch."""
    model, parameters = models.tuned(mode)
    whole = models.batch()
    truth = oracle.per_example_gradients(model, parameters, whole)
    _, norms = oracle.clipped_sum(truth, 1.0)
    bound = float(norms.median())
    expected, _ = oracle.clipped_sum(truth, bound)

    sums, found = models.zeros(parameters), []
    with ENGINES.get(engine).session(model, parameters, FlatClipper(bound), "fp32") as session:
        for rows in split(len(whole), micro_batch):
            report = session.accumulate(models.rows_of(whole, rows), sums)
            found.append(report.norms)
            assert report.dropped == 0

    torch.testing.assert_close(torch.cat(found), norms, rtol=RELATIVE, atol=0)
    difference = models.flat(sums) - models.flat(expected)
    assert difference.norm() <= RELATIVE * models.flat(expected).norm()
    for name, value in expected.items():  # parameter by parameter, on the scale of the whole
        assert (sums[name].double() - value).norm() <= RELATIVE * models.flat(expected).norm(), name


@pytest.mark.parametrize("engine", ENGINES.names())
def test_model_is_left_as_it_was(engine: str) -> None:
    model, parameters = models.tuned("lora")
    before = models.flat(parameters)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    with ENGINES.get(engine).session(model, parameters, FlatClipper(1.0), "fp32") as session:
        session.accumulate(models.batch(), models.zeros(parameters))
    assert all(p.requires_grad and p.grad is None for p in parameters.values())
    assert torch.equal(models.flat(parameters), before)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


@pytest.mark.parametrize("engine", ENGINES.names())
@pytest.mark.parametrize("mode", ["full", "lora", "soft-prompt"])
def test_an_examples_gradient_does_not_depend_on_its_company(engine: str, mode: str) -> None:
    """Alone, in three batches, and under more padding: the same clipped gradient."""
    model, parameters = models.tuned(mode)
    whole = models.batch()
    padded = {key: torch.nn.functional.pad(value, (0, 5)) for key, value in whole.inputs.items()}
    wider = type(whole)(padded, whole.labels)
    companies = [(whole, [3]), (whole, [3, 1]), (whole, [0, 2, 3]), (whole, [6, 5, 3, 4]), (wider, [3])]
    clipper = FlatClipper(0.1)
    differences = []
    with ENGINES.get(engine).session(model, parameters, clipper, "fp32") as session:
        for source, rows in companies:
            together, others = models.zeros(parameters), models.zeros(parameters)
            session.accumulate(models.rows_of(source, rows), together)
            if len(rows) > 1:
                session.accumulate(models.rows_of(source, [row for row in rows if row != 3]), others)
            differences.append(models.flat(together) - models.flat(others))
    for value in differences[1:]:
        assert (value - differences[0]).norm() <= 1e-5 * clipper.sensitivity


@pytest.mark.parametrize("engine", ENGINES.names())
@pytest.mark.parametrize("mode", ["full", "lora", "ia3"])
def test_a_poisoned_example_is_as_if_absent(engine: str, mode: str) -> None:
    model, parameters = models.tuned(mode)
    poison = 5
    whole = models.batch()
    whole.inputs["input_ids"][whole.inputs["input_ids"] == poison] = poison + 1
    model.get_input_embeddings().weight.data[poison] = float("nan")
    with_poison = models.rows_of(whole, list(range(7)))
    with_poison.inputs["input_ids"][4, 0] = poison
    sums, reference = models.zeros(parameters), models.zeros(parameters)
    with ENGINES.get(engine).session(model, parameters, FlatClipper(0.5), "fp32") as session:
        report = session.accumulate(with_poison, sums)
        session.accumulate(models.rows_of(whole, [0, 1, 2, 3, 5, 6]), reference)
    assert report.dropped == 1
    assert torch.isfinite(models.flat(sums)).all()
    torch.testing.assert_close(models.flat(sums), models.flat(reference), rtol=0, atol=1e-6)


def test_planted_factor_zero_instead_of_absence_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 4: a poisoned example that is multiplied by zero instead of left out poisons the sum."""
    model, parameters = models.tuned("lora")
    model.get_input_embeddings().weight.data[5] = float("nan")
    whole = models.batch()
    whole.inputs["input_ids"][4, 0] = 5
    sums = models.zeros(parameters)
    zero = torch.zeros(len(whole))
    monkeypatch.setattr(FlatClipper, "over", lambda self, names: lambda norms: dict.fromkeys(norms, zero))
    with (
        ENGINES.get("dpft").session(model, parameters, FlatClipper(0.5), "fp32") as session,
        monkeypatch.context() as planted,
    ):
        planted.setattr(torch, "isfinite", lambda value: torch.ones_like(value, dtype=torch.bool))
        session.accumulate(whole, sums)
    poisoned = models.flat(sums)
    assert poisoned.isnan().any()  # zero times NaN is NaN


@pytest.mark.parametrize("engine", ENGINES.names())
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["full", "lora", "ia3", "prefix", "soft-prompt"])
def test_delivered_norm_is_bounded(engine: str, mode: str, precision: str) -> None:
    """What one example adds to the sum has norm at most C(1 + 1e-6), at either precision."""
    model, parameters = models.tuned(mode)
    whole = models.batch(seed=3)
    clipper = FlatClipper(0.01)
    with ENGINES.get(engine).session(model, parameters, clipper, precision) as session:
        for row in range(len(whole)):
            sums = models.zeros(parameters)
            session.accumulate(models.rows_of(whole, [row]), sums)
            delivered = float(models.flat(sums).norm())
            assert 0.99 * 0.01 <= delivered <= 0.01 * (1 + 1e-6)
