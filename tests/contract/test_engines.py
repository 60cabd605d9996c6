"""Every engine gives the clipped sums of the one-example-at-a-time oracle, in every mode it supports."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from dpft.engines import oracle
from dpft.engines.base import Engine
from dpft.errors import UnsupportedLayerError, UsageError
from dpft.privacy.clipping import Clipper, FlatClipper, PerLayerClipper
from dpft.tables import CLIPPERS, ENGINES, MODES
from tests import models
from tests.contract.engine_choice import REFUSED_MODES, REFUSED_PRECISIONS, engine_for

RELATIVE = 1e-4


def split(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(count, start + size))) for start in range(0, count, size)]


@pytest.mark.parametrize("mode", MODES.names())
@pytest.mark.parametrize("engine", ENGINES.names())
@pytest.mark.parametrize("micro_batch", [1, 3, 7])
def test_norms_and_clipped_sum_equal_the_oracle(engine: str, mode: str, micro_batch: int) -> None:
    """With padding, a row that is all padding but one token, repeated tokens, and any micro-batch."""
    chosen = engine_for(engine, mode)
    model, parameters = models.tuned(mode)
    whole = models.batch()
    truth = oracle.per_example_gradients(model, parameters, whole)
    _, norms = oracle.clipped_sum(truth, 1.0)
    bound = float(norms.median())
    expected, _ = oracle.clipped_sum(truth, bound)

    sums, found = models.zeros(parameters), []
    with chosen.session(model, parameters, FlatClipper(bound), "fp32") as session:
        for rows in split(len(whole), micro_batch):
            report = session.accumulate(models.rows_of(whole, rows), sums)
            found.append(report.norms)
            assert report.dropped == 0

    torch.testing.assert_close(torch.cat(found), norms, rtol=RELATIVE, atol=0)
    difference = models.flat(sums) - models.flat(expected)
    assert difference.norm() <= RELATIVE * models.flat(expected).norm()
    for name, value in expected.items():  # parameter by parameter, on the scale of the whole
        assert (sums[name].double() - value).norm() <= RELATIVE * models.flat(expected).norm(), name


def left_on(model: Any) -> list[Any]:
    """Hooks, attributes and training flags of every module, attributes of every parameter."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [
        ({kind: len(vars(m)[kind]) for kind in kinds}, sorted(vars(m)), m.training, m._is_full_backward_hook)
        for m in model.modules()
    ]
    return [modules, [sorted(vars(p)) for p in model.parameters()]]


@pytest.mark.parametrize("clipper", [FlatClipper(1.0), PerLayerClipper(1.0)], ids=["flat", "per-layer"])
@pytest.mark.parametrize("engine", ENGINES.names())
def test_model_is_left_as_it_was(engine: str, clipper: Clipper) -> None:
    chosen = engine_for(engine)
    model, parameters = models.tuned("lora")
    before = models.flat(parameters)
    traces = left_on(model)
    with chosen.session(model, parameters, clipper, "fp32") as session:
        session.accumulate(models.batch(), models.zeros(parameters))
        assert all(p.grad is None for p in parameters.values())
    assert all(p.requires_grad and p.grad is None for p in parameters.values())
    assert torch.equal(models.flat(parameters), before)
    assert left_on(model) == traces


@pytest.mark.parametrize("engine", ENGINES.names())
@pytest.mark.parametrize("mode", ["full", "lora", "soft-prompt"])
def test_an_examples_gradient_does_not_depend_on_its_company(engine: str, mode: str) -> None:
    """Alone, in three batches, and under more padding: the same clipped gradient."""
    chosen = engine_for(engine, mode)
    model, parameters = models.tuned(mode)
    whole = models.batch()
    padded = {key: torch.nn.functional.pad(value, (0, 5)) for key, value in whole.inputs.items()}
    wider = type(whole)(padded, whole.labels)
    companies = [(whole, [3]), (whole, [3, 1]), (whole, [0, 2, 3]), (whole, [6, 5, 3, 4]), (wider, [3])]
    clipper = FlatClipper(0.1)
    differences = []
    with chosen.session(model, parameters, clipper, "fp32") as session:
        for source, rows in companies:
            together, others = models.zeros(parameters), models.zeros(parameters)
            session.accumulate(models.rows_of(source, rows), together)
            if len(rows) > 1:
                session.accumulate(models.rows_of(source, [row for row in rows if row != 3]), others)
            differences.append(models.flat(together) - models.flat(others))
    for value in differences[1:]:
        assert (value - differences[0]).norm() <= 1e-5 * clipper.sensitivity


@pytest.mark.parametrize("clipper", [FlatClipper(0.5), PerLayerClipper(0.5)], ids=["flat", "per-layer"])
@pytest.mark.parametrize("engine", ENGINES.names())
@pytest.mark.parametrize("mode", ["full", "lora", "ia3"])
def test_a_poisoned_example_is_as_if_absent(engine: str, mode: str, clipper: Clipper) -> None:
    chosen = engine_for(engine, mode)
    model, parameters = models.tuned(mode)
    poison = 5
    whole = models.batch()
    whole.inputs["input_ids"][whole.inputs["input_ids"] == poison] = poison + 1
    model.get_input_embeddings().weight.data[poison] = float("nan")
    with_poison = models.rows_of(whole, list(range(7)))
    with_poison.inputs["input_ids"][4, 0] = poison
    sums, reference = models.zeros(parameters), models.zeros(parameters)
    with chosen.session(model, parameters, clipper, "fp32") as session:
        report = session.accumulate(with_poison, sums)
        session.accumulate(models.rows_of(whole, [0, 1, 2, 3, 5, 6]), reference)
    assert report.dropped == 1
    assert torch.isfinite(models.flat(sums)).all()
    torch.testing.assert_close(models.flat(sums), models.flat(reference), rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES.names())
@pytest.mark.parametrize("mode", ["full", "lora", "ia3"])
def test_a_micro_batch_of_nothing_but_poison_contributes_nothing(engine: str, mode: str) -> None:
    chosen = engine_for(engine, mode)
    model, parameters = models.tuned(mode)
    model.get_input_embeddings().weight.data[5] = float("nan")
    rows = models.rows_of(models.batch(), [3, 4])
    rows.inputs["input_ids"][:, 0] = 5
    sums = models.zeros(parameters)
    with chosen.session(model, parameters, FlatClipper(0.5), "fp32") as session:
        reports = [session.accumulate(models.rows_of(rows, kept), sums) for kept in ([0, 1], [1])]
    assert [report.dropped for report in reports] == [2, 1]
    assert not models.flat(sums).any()


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
    chosen = engine_for(engine, mode, precision)
    model, parameters = models.tuned(mode)
    whole = models.batch(seed=3)
    clipper = FlatClipper(0.01)
    with chosen.session(model, parameters, clipper, precision) as session:
        for row in range(len(whole)):
            sums = models.zeros(parameters)
            session.accumulate(models.rows_of(whole, [row]), sums)
            delivered = float(models.flat(sums).norm())
            assert 0.99 * 0.01 <= delivered <= 0.01 * (1 + 1e-6)


# -- engines beside each other


def sums_of(engine: Engine, mode: str, clipper: Clipper, rows: list[list[int]]) -> torch.Tensor:
    """Clipped sums of the same model and examples, in micro-batches ``rows``."""
    model, parameters = models.tuned(mode)
    whole, sums = models.batch(seed=2, length=14), models.zeros(parameters)
    with engine.session(model, parameters, clipper, "fp32") as session:
        for piece in rows:
            session.accumulate(models.rows_of(whole, piece), sums)
    return models.flat(sums)


@pytest.mark.parametrize("clipping", CLIPPERS.names())
@pytest.mark.parametrize("mode", MODES.names())
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "dpft"])
def test_engines_give_the_same_clipped_sums(engine: str, mode: str, clipping: str) -> None:
    """To 1e-5, with padding, in micro-batches of different cuts; some examples clipped and some not."""
    chosen = engine_for(engine, mode)
    model, parameters = models.tuned(mode)
    truth = oracle.per_example_gradients(model, parameters, models.batch(seed=2, length=14))
    _, norms = oracle.clipped_sum(truth, 1.0)
    clipper: Clipper = CLIPPERS.get(clipping)(float(norms.median()))
    ours = sums_of(ENGINES.get("dpft"), mode, clipper, split(7, 7))
    theirs = sums_of(chosen, mode, clipper, split(7, 3))
    assert (theirs - ours).norm() <= 1e-5 * ours.norm()


@pytest.mark.parametrize(("engine", "mode"), sorted(REFUSED_MODES))
def test_what_an_engine_cannot_do_is_refused(engine: str, mode: str) -> None:
    chosen = engine_for(engine)
    model, parameters = models.tuned(mode)
    with (
        pytest.raises(UnsupportedLayerError, match=rf"engine '{engine}' gives no .* gradients for .*ia3_l"),
        chosen.session(model, parameters, FlatClipper(1.0), "fp32"),
    ):
        pass
    assert all(p.requires_grad for p in parameters.values())


@pytest.mark.parametrize(("engine", "precision"), sorted(REFUSED_PRECISIONS))
def test_a_precision_an_engine_cannot_do_is_refused(engine: str, precision: str) -> None:
    chosen = engine_for(engine)
    model, parameters = models.tuned("lora")
    with (
        pytest.raises(UsageError, match=f"does not work at precision {precision}"),
        chosen.session(model, parameters, FlatClipper(1.0), precision),
    ):
        pass


@pytest.mark.parametrize("engine", ["opacus", "private-transformers"])
def test_an_engine_that_is_not_installed_says_how_to(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.grad_sample", None)
    monkeypatch.setitem(sys.modules, "private_transformers", None)
    model, parameters = models.tuned("lora")
    with (
        pytest.raises(UsageError, match=f"engine '{engine}' needs") as caught,
        ENGINES.get(engine).session(model, parameters, FlatClipper(1.0), "fp32"),
    ):
        pass
    assert f"pip install 'dpft[{engine}]'" in caught.value.hint
