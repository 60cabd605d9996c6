"""A head trained on what its frozen encoder once said learns what it would learn with the encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpft.engines.bookkeeping import ENGINE
from dpft.privacy.clipping import FlatClipper
from dpft.runs import paths
from dpft.training import features, frozen, run
from dpft.training.features import Features, as_input, head_of, keep_features, reading_of
from dpft.training.loop import fit
from tests import architectures, models
from tests.unit.training.resuming import MakeSpec

from .test_loop import split

FIRST = ["bert", "roberta", "distilbert", "albert", "electra", "mpnet", "deberta-v2"]
LAST = ["gpt2", "llama"]


def built(name: str) -> tuple[Any, Any]:
    return architectures.tuned(name, "last-layer")


@pytest.mark.parametrize(("name", "position"), [*((n, "first") for n in FIRST), *((n, "last") for n in LAST)])
def test_heads_read_one_token_and_clip_the_same(name: str, position: str) -> None:
    model, parameters = built(name)
    batch = architectures.batch(name)
    reading = reading_of(model, parameters, batch)
    assert reading is not None
    assert reading.position == position
    hidden = features._hidden(model, batch)
    assert hidden is not None
    small = as_input(reading.head, reading.pick(hidden, batch.inputs["attention_mask"]), batch.labels)
    sums = []
    for module, piece in ((model, batch), (reading.head, small)):
        sums.append(models.zeros(parameters))
        with ENGINE.session(module, parameters, FlatClipper(0.3), "fp32") as session:
            session.accumulate(piece, sums[-1])
            assert not session.notes
    whole, apart = map(models.flat, sums)
    assert (whole - apart).norm() <= 1e-5 * whole.norm()
    assert whole.norm() > 0


def test_a_head_that_reads_more_than_one_token_keeps_its_encoder() -> None:
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    model, parameters = architectures.tuned("modernbert", "last-layer", classifier_pooling="mean")
    assert isinstance(model, ModernBertForSequenceClassification)
    assert isinstance(model.config, ModernBertConfig)
    assert reading_of(model, parameters, architectures.batch("modernbert")) is None


def test_a_planted_wrong_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features.Reading, "pick", lambda self, hidden, mask: hidden[:, 1])
    model, parameters = models.tuned("last-layer")
    assert reading_of(model, parameters, models.batch()) is None


def test_a_new_head_of_zeros_hides_no_wrong_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """All logits are equal then, whatever is read: the gradients are not."""
    model, parameters = models.tuned("last-layer")
    model.classifier.weight.data.zero_()
    assert reading_of(model, parameters, models.batch()) is not None
    monkeypatch.setattr(features.Reading, "pick", lambda self, hidden, mask: hidden[:, 1])
    assert reading_of(model, parameters, models.batch()) is None


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_where_more_than_the_head_trains_nothing_is_kept(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor even tried: dropout, where it is on, would be drawn from the run's own generator."""
    model, parameters = models.tuned(mode)
    monkeypatch.delattr(features, "_logits_and_gradients")
    assert reading_of(model, parameters, models.batch()) is None


def test_a_head_tied_to_its_encoder_keeps_it() -> None:
    model, parameters = models.tuned("last-layer")
    model.bert.pooler.dense.weight = model.bert.encoder.layer[0].attention.output.dense.weight
    parameters["bert.pooler.dense.weight"] = model.bert.pooler.dense.weight
    assert reading_of(model, parameters, models.batch()) is None


def test_the_model_itself_is_left_as_it_was() -> None:
    model, parameters = models.tuned("last-layer")
    head = head_of(model)
    assert type(model.bert).__name__ == "BertModel"
    assert {id(p) for p in head.parameters()} == {id(p) for p in parameters.values()}


# -- the cache


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, list[int]]:
    """Model, reading, and how many rows were computed in each call."""
    monkeypatch.setenv("DPFT_CACHE", str(tmp_path / "cache"))
    model, parameters = models.tuned("last-layer")
    counted: list[int] = []
    compute = features._compute

    def counting(model: Any, reading: Any, of: Any, rows: Any, pad: int) -> Any:
        counted.append(len(rows))
        return compute(model, reading, of, rows, pad)

    monkeypatch.setattr(features, "_compute", counting)
    return model, reading_of(model, parameters, models.batch()), counted


def entry() -> Path:
    return next(path for path in (paths.cache() / "prepared").glob("features-*") if path.is_dir())


def keep(kept: Any, **identity: str) -> Features:
    return keep_features(kept[0], kept[1], split(), 0, {"data": "d", **identity})


def test_features_are_computed_once(kept: Any) -> None:
    rows = split().rows
    first = keep(kept)
    assert kept[2] == [rows]
    again = keep(kept)
    assert kept[2] == [rows, 3]  # a look at a few
    assert np.array_equal(first.values, again.values)
    keep(kept, encoder="another")
    assert kept[2][2:] == [rows]


def test_features_are_each_examples_own(kept: Any) -> None:
    found = keep(kept).values
    for row in range(split().rows):
        alone = features._compute(kept[0], kept[1], split(), np.array([row]), 0)
        np.testing.assert_allclose(found[row], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["flipped", "cut", "no meta", "meta of another", "pickle"])
def test_a_damaged_entry_is_computed_again(kept: Any, how: str) -> None:
    expected = np.array(keep(kept).values)
    values, meta = entry() / "values.npy", entry() / "meta.json"
    data = values.read_bytes()
    if how == "flipped":
        values.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "cut":
        values.write_bytes(data[:-8])
    elif how == "no meta":
        meta.unlink()
    elif how == "meta of another":
        meta.write_text(json.dumps({"sha256": "0" * 64}))
    else:
        np.save(values, np.array([{}], dtype=object), allow_pickle=True)
    assert np.array_equal(keep(kept).values, expected)


def test_an_entry_that_says_otherwise_is_computed_again(kept: Any) -> None:
    """As if the key had left something out: whole, but of another encoder."""
    keep(kept)
    with torch.no_grad():
        kept[0].bert.embeddings.word_embeddings.weight.mul_(2)
    found = keep(kept).values
    fresh = features._compute(kept[0], kept[1], split(), np.arange(split().rows), 0)
    np.testing.assert_allclose(found, fresh, rtol=1e-4, atol=1e-5)


def test_features_are_their_owners_alone(kept: Any) -> None:
    keep(kept)
    assert entry().stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in entry().iterdir()} == {0o600}
    assert not list(entry().parent.glob(".features*"))


# -- the run


@pytest.mark.usefixtures("fixed_key")
def test_a_run_ends_the_same_with_and_without(small: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same key, so the same samples and the same noise; what differs is rounding."""
    ended: list[dict[str, torch.Tensor]] = []
    used: list[bool] = []

    def looking(work: Any, *rest: Any) -> None:
        used.append(work.features is not None)
        fit(work, *rest)
        ended.append({name: value.detach().clone() for name, value in work.parameters.items()})

    monkeypatch.setattr(run, "fit", looking)
    run.train(small("last-layer"))
    monkeypatch.setattr(run, "with_features", lambda spec, assembled, *_, **__: assembled)
    run.train(small("last-layer"))
    assert used == [True, False]
    for name, value in ended[0].items():
        torch.testing.assert_close(value, ended[1][name], rtol=1e-3, atol=1e-4)


def test_not_where_several_processes_cut_each_batch(small: MakeSpec) -> None:
    """They would cut it by different lengths, and an example might count in two shares."""
    from dpft.privacy.plan import schedule_for
    from dpft.training.assemble import assemble
    from dpft.training.observer import Observer
    from dpft.training.parallel import _materials

    spec = small("last-layer")
    assembled = assemble(spec, Observer())
    schedule = schedule_for(assembled.data.splits["train"].rows, spec.optimisation, spec.privacy)
    assert frozen.with_features(spec, assembled, schedule, Observer(), alone=False).features is None
    apart = frozen.with_features(spec, assembled, schedule, Observer())
    assert apart.features is not None
    assert _materials(spec, apart, schedule) != _materials(spec, assembled, schedule)
