"""bfloat16: norms near the truth, delivered norms bounded, and nobody's gradient moved by a neighbour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.data.arrow_cache import PreparedSplit
from dpft.engines import base, oracle
from dpft.engines.base import MicroBatch, PieceReport, Session
from dpft.engines.bookkeeping import ENGINE
from dpft.errors import PrivacyError
from dpft.privacy.clipping import FlatClipper
from dpft.privacy.pieces import Cut, as_they_come, by_own_length
from dpft.spec import ModelSpec, TuningSpec
from dpft.tables import CLIPPERS, MODES
from dpft.training.batches import collate
from dpft.training.moved import moved
from dpft.training.precision import has_bfloat16
from dpft.training.preflight import synthetic_batch
from dpft.training.rounding import check_rounding
from dpft.tuning.base import load_model
from tests import models

LONGEST, BUDGET, BOUND = 40, 256, 0.5

pytestmark = pytest.mark.skipif(
    not has_bfloat16(), reason="no bfloat16 here: what a substitute rounds says nothing of training"
)


def texts(rows: int = 24, seed: int = 3) -> PreparedSplit:
    """Random rows of many lengths; the first is the longest."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, LONGEST - 8, rows).astype(np.int32)
    lengths[0] = LONGEST
    return PreparedSplit(
        input_ids=generator.integers(1, models.VOCABULARY, lengths.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        token_type_ids=np.zeros(lengths.sum(), dtype=np.int8),
        labels=generator.integers(0, models.LABELS, rows),
        lengths=lengths,
        truncated=0,
    )


def clipped(mode: str, split: PreparedSplit, cut: Cut, rows: Any, *, wide: bool = True) -> dict[str, Tensor]:
    """The clipped sum over ``rows``, cut by ``cut``; ``wide``: with attention in float32, as shipped."""
    model, parameters = models.tuned(mode)
    sums = models.zeros(parameters)
    with ENGINE.session(model, parameters, FlatClipper(BOUND), "bf16") as session, _attention(wide):
        for piece in cut(np.asarray(rows)):
            session.accumulate(collate(split, piece.rows, 0, piece.width, piece.fill), sums)
    return sums


@contextmanager
def _attention(wide: bool) -> Iterator[None]:
    """Attention as PyTorch's own autocast has it, unless ``wide``."""
    with pytest.MonkeyPatch.context() as patch:
        if not wide:
            patch.setattr(base, "_wide", lambda value: value.bfloat16() if _floats(value) else value)
        yield


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def moved_by_a_neighbour(mode: str, make_cut: Any, *, wide: bool = True) -> float:
    """What the longest text moves beyond its own clipped gradient, in clipping norms."""
    split = texts()
    cut = make_cut(split)
    without, alone = (
        clipped(mode, split, cut, range(1, 24), wide=wide),
        clipped(mode, split, cut, [0], wide=wide),
    )
    together = clipped(mode, split, cut, range(24), wide=wide)
    return float((models.flat(together) - models.flat(without) - models.flat(alone)).norm()) / BOUND


def own(split: PreparedSplit) -> Cut:
    return by_own_length(split.lengths, LONGEST, BUDGET)


def sorted_by_length(split: PreparedSplit) -> Cut:
    return as_they_come(split.lengths, BUDGET * 8)


@pytest.mark.parametrize("mode", [mode for mode in MODES.names() if mode != "last-layer"])
def test_a_longer_neighbour_moves_nobody(mode: str) -> None:
    assert moved_by_a_neighbour(mode, own) <= 2e-6


def test_planted_common_padding_moves_everybody() -> None:
    assert moved_by_a_neighbour("full", sorted_by_length, wide=False) > 1e-3


@pytest.mark.parametrize("clipping", CLIPPERS.names())
@pytest.mark.parametrize("mode", MODES.names())
def test_norms_are_near_the_truth_and_what_is_delivered_is_bounded(mode: str, clipping: str) -> None:
    model, parameters = models.tuned(mode)
    batch = models.batch()
    _, truth = oracle.clipped_sum(oracle.per_example_gradients(model, parameters, batch), 1.0)
    clipper = CLIPPERS.get(clipping)(float(truth.min()) / 2)
    with ENGINE.session(model, parameters, clipper, "bf16") as session:
        report = session.accumulate(batch, models.zeros(parameters))
        assert report.norms is not None
        for row in range(len(batch)):
            sums = models.zeros(parameters)
            session.accumulate(models.rows_of(batch, [row]), sums)
            assert float(models.flat(sums).double().norm()) <= clipper.sensitivity * (1 + 1e-6)
    assert float(((report.norms - truth) / truth).abs().median()) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_norms_of_a_pretrained_model_are_within_one_percent(mode: str) -> None:
    model = load_model(ModelSpec(checkpoint="builtin:minilm"), ("no", "yes"), 0)
    torch.manual_seed(0)
    tuned = MODES.get(mode).apply(model, TuningSpec(mode=mode)).eval()
    parameters = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
    batch = synthetic_batch(tuned, token_types=True, labels=2, pad_token_id=0, lengths=(20, 17, 9, 4))
    found = []
    with moved(parameters):
        for precision in ("fp32", "bf16"):
            with ENGINE.session(tuned, parameters, FlatClipper(1.0), precision) as session:
                report = session.accumulate(batch, models.zeros(parameters))
            assert report.norms is not None
            found.append(report.norms)
    assert float((found[1] / found[0] - 1).abs().max()) <= 0.01


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["full", "lora", "prefix"])
def test_rows_that_fill_a_piece_count_for_nothing(mode: str, precision: str) -> None:
    model, parameters = models.tuned(mode)
    batch = models.batch()
    filled = models.rows_of(batch, [*range(len(batch)), 0, 0])
    filled = MicroBatch(filled.inputs, filled.labels, fill=2)
    found = []
    with ENGINE.session(model, parameters, FlatClipper(BOUND), precision) as session:
        for given in (batch, filled):
            sums = models.zeros(parameters)
            report = session.accumulate(given, sums).of_first(given.examples)
            assert len(report.losses) == len(batch)
            found.append((models.flat(sums), report.norms))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_a_poisoned_row_is_dropped_once_however_often_it_fills() -> None:
    model, parameters = models.tuned("full")
    poison = models.rows_of(models.batch(), [0, 1, 0, 0])
    with torch.no_grad():
        model.get_input_embeddings().weight[poison.inputs["input_ids"][0, 0]] = float("inf")
    poison = MicroBatch(poison.inputs, poison.labels, fill=2)
    sums = models.zeros(parameters)
    with ENGINE.session(model, parameters, FlatClipper(BOUND), "fp32") as session:
        report = session.accumulate(poison, sums).of_first(poison.examples)
    assert report.dropped == int((~torch.isfinite(report.losses)).sum()) == 1
    assert torch.isfinite(models.flat(sums)).all()


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_poisoned_neighbour_moves_nobody(mode: str) -> None:
    """Not even where it comes first, when there is nothing finite to hold the engine against yet."""
    found = []
    for poisoned in (True, False):
        model, parameters = models.tuned(mode)
        batch = models.batch(rows=8)
        batch.inputs["input_ids"][batch.inputs["input_ids"] == 1] = 2
        batch.inputs["input_ids"][0, 0] = 1
        with torch.no_grad():
            model.get_input_embeddings().weight[1] = float("inf") if poisoned else 0.0
        sums = models.zeros(parameters)
        with ENGINE.session(model, parameters, FlatClipper(BOUND), "bf16") as session:
            if poisoned:
                report = session.accumulate(batch, sums)
                assert report.dropped == 1
            else:  # the very same rows, the first of which counts for nothing
                rows = [*range(1, 8), 0]
                last = models.rows_of(batch, rows)
                session.accumulate(MicroBatch(last.inputs, last.labels, fill=1), sums)
        found.append(models.flat({k: v for k, v in sums.items() if "word_embeddings" not in k}))
    assert float((found[0] - found[1]).norm()) <= 2e-6 * BOUND


def check(engine: Any, model: Any, parameters: Mapping[str, nn.Parameter]) -> None:
    check_rounding(
        engine,
        model,
        parameters,
        FlatClipper(1.0),
        longest=LONGEST,
        token_budget=BUDGET,
        extra_tokens=0,
        token_types=True,
        pad_token_id=0,
        labels=models.LABELS,
    )


@pytest.mark.parametrize("mode", MODES.names())
def test_rounding_is_the_same_in_any_company(mode: str) -> None:
    model, parameters = models.tuned(mode)
    before = models.flat(parameters).clone()
    check(ENGINE, model, parameters)
    assert torch.equal(models.flat(parameters), before)


def four_rows_differ(where: Callable[[Tensor], bool]) -> tuple[Any, dict[str, nn.Parameter]]:
    """A model that rounds in another way where there are four rows, as a kernel might that cuts work so.

    Args:
        where: whether it does, given the tokens.
    """
    model, parameters = models.tuned("lora")

    def after(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        ids = kwargs["input_ids"]
        return output * (1 + 2.0**-7) if len(ids) == 4 and where(ids) else output

    model.get_base_model().bert.embeddings.register_forward_hook(after, with_kwargs=True)
    return model, parameters


class _Neighbourly:
    """An engine that adds one part in 10^5 of the neighbours' mean to each norm."""

    name, packages = "planted", ()

    @contextmanager
    def session(self, model: Any, parameters: Any, clipper: Any, precision: str) -> Iterator[Any]:
        with ENGINE.session(model, parameters, clipper, precision) as session:
            yield _Leaning(session)


class _Leaning:
    notes: tuple[str, ...] = ()

    def __init__(self, session: Session) -> None:
        self._session, self.clipper = session, session.clipper

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        report = self._session.accumulate(batch, sums)
        assert report.norms is not None
        return PieceReport(report.losses, report.norms + 1e-5 * report.norms.mean(), report.dropped)


@pytest.mark.parametrize("width", [8, 16, 24, 32, LONGEST])
def test_planted_kernel_that_depends_on_the_number_of_rows_is_refused_at_any_width(width: int) -> None:
    planted = four_rows_differ(lambda ids: ids.shape[1] == width and bool((ids == 0).any()))
    with pytest.raises(PrivacyError, match="rounds an example at bf16 by its company"):
        check(ENGINE, *planted)


def test_planted_kernel_is_refused_where_no_row_has_padding() -> None:
    with pytest.raises(PrivacyError, match="rounds an example at bf16 by its company"):
        check(ENGINE, *four_rows_differ(lambda ids: bool((ids != 0).all())))


def test_planted_norms_that_lean_on_neighbours_are_refused() -> None:
    model, parameters = models.tuned("lora")
    with pytest.raises(PrivacyError, match="its gradient's norm by"):
        check(_Neighbourly(), model, parameters)


class _Turning(_Leaning):
    """Turns each sum by a few hundred-thousandths where there are several rows; no norm or loss tells."""

    def accumulate(self, batch: MicroBatch, sums: Mapping[str, Tensor]) -> PieceReport:
        report = self._session.accumulate(batch, sums)
        largest = max(sums.values(), key=torch.numel)
        if len(batch) > 1:
            size = math.sqrt(sum(float(value.square().sum()) for value in sums.values()))
            largest.view(-1)[0].add_(3e-5 * size)
        return report


def test_planted_gradients_that_turn_in_company_are_refused() -> None:
    class Engine(_Neighbourly):
        @contextmanager
        def session(self, model: Any, parameters: Any, clipper: Any, precision: str) -> Iterator[Any]:
            with ENGINE.session(model, parameters, clipper, precision) as session:
                yield _Turning(session)

    model, parameters = models.tuned("lora")
    with pytest.raises(PrivacyError, match="of what it adds, a part of"):
        check(Engine(), model, parameters)


def test_attention_is_in_float32_within_bf16_and_other_products_are_not() -> None:
    query = torch.randn(1, 1, 4, 8, dtype=torch.bfloat16)
    with base.autocast(torch.device("cpu"), "bf16"):
        assert F.scaled_dot_product_attention(query, query, query).dtype == torch.float32
        assert F.linear(torch.ones(2, 8), torch.ones(3, 8)).dtype == torch.bfloat16
    with base.autocast(torch.device("cpu"), "fp32"):
        assert F.linear(torch.ones(2, 8), torch.ones(3, 8)).dtype == torch.float32
