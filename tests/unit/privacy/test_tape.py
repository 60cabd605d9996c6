"""What the tape records, what it refuses, and what goes wrong without its care."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from dpft.engines import oracle
from dpft.engines.base import MicroBatch
from dpft.engines.bookkeeping import ENGINE
from dpft.errors import ModelError, PrivacyError, UnsupportedLayerError
from dpft.privacy import gradients, tape
from dpft.privacy.clipping import FlatClipper
from dpft.privacy.gradients import DenseGradient, PerExampleGradient
from dpft.privacy.tape import Tape
from dpft.spec import TuningSpec
from dpft.training.preflight import check_engine, check_reachable, synthetic_batch
from dpft.tuning.virtual import prompt_config
from tests import models


class Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class Reusing(nn.Module):
    """An embedding tied to a linear layer, a linear layer used twice, positions of batch one."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6, padding_idx=0)
        self.places = nn.Embedding(9, 6)
        self.norm = nn.LayerNorm(6)
        self.shared = nn.Linear(6, 6)
        self.scores = nn.Linear(6, 11, bias=False)
        self.scores.weight = self.words.weight
        self.head = nn.Linear(11, 3)

    def forward(self, input_ids: torch.Tensor) -> Output:
        places = torch.arange(input_ids.shape[1])[None]
        hidden = self.norm(self.words(input_ids) + self.places(places))
        hidden = self.shared(torch.tanh(self.shared(hidden)))
        return Output(self.head(self.scores(hidden).mean(1)))


def example_batch() -> MicroBatch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 11, (4, 5), generator=generator)
    return MicroBatch({"input_ids": ids}, torch.tensor([0, 1, 2, 1]))


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def norms_of(model: nn.Module, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Norms by the tape alone, and by the oracle."""
    parameters = trainable(model)
    with ENGINE.recording(model, parameters, FlatClipper(1.0), "fp32") as session:
        report = session.accumulate(batch, models.zeros(parameters))
    assert report.norms is not None
    _, truth = oracle.clipped_sum(oracle.per_example_gradients(model, parameters, batch), 1.0)
    return report.norms, truth


# -- row 7: parameters used more than once


def test_tied_and_reused_parameters_have_the_norm_of_their_sum() -> None:
    torch.manual_seed(0)
    found, truth = norms_of(Reusing(), example_batch())
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=0)


def test_planted_norm_of_each_use_apart_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def apart(uses: list[PerExampleGradient]) -> PerExampleGradient:
        squares = torch.stack([use.norms().square for use in uses]).sum(0)
        merged = gradients.merge(uses).dense()
        scale = squares.sqrt() / merged.flatten(1).double().norm(dim=1)
        return DenseGradient(merged * scale.view(-1, *[1] * (merged.dim() - 1)).float())

    monkeypatch.setattr(tape, "merge", apart)
    torch.manual_seed(0)
    found, truth = norms_of(Reusing(), example_batch())
    assert ((found - truth).abs() / truth).max() > 1e-2


# -- row 8: what is computed once and broadcast


def test_recorded_batch_dimension_is_the_batch() -> None:
    for mode in ("full", "soft-prompt", "prefix"):
        model, parameters = models.tuned(mode)
        with Tape(model, parameters) as recording, recording.recording(7):
            logits = model(**models.batch().inputs).logits
            torch.autograd.backward(logits.sum())
            assert {gradient.batch_size for gradient in recording.gradients().values()} == {7}
            assert recording.gradients().keys() == parameters.keys()


def test_planted_unexpanded_positions_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tape, "batched", lambda self, site, value: value)
    with pytest.raises((AssertionError, RuntimeError)):
        norms_of(Reusing(), example_batch())


def test_planted_repeated_prompt_is_caught() -> None:
    """PEFT's own soft prompt looks up one prompt and repeats it: expanding that first cannot fit."""
    model = models.tiny_bert()
    config = prompt_config(model, TuningSpec(mode="soft-prompt", num_prepend_tokens=4))
    applied = peft.PeftModelForSequenceClassification(model, config).eval()
    parameters = {name: p for name, p in applied.named_parameters() if p.requires_grad}
    with (
        ENGINE.recording(applied, parameters, FlatClipper(1.0), "fp32") as session,
        pytest.raises(RuntimeError),
    ):
        session.accumulate(models.batch(), models.zeros(parameters))


def test_a_layer_that_is_not_per_example_is_refused() -> None:
    class Flattened(Reusing):
        def forward(self, input_ids: torch.Tensor) -> Output:
            hidden = self.words(input_ids).flatten(0, 1)
            return Output(self.head(self.scores(self.shared(hidden))).view(*input_ids.shape, 3).mean(1))

    model = Flattened()
    parameters = {"shared.weight": model.shared.weight}
    with (
        ENGINE.recording(model, parameters, FlatClipper(1.0), "fp32") as session,
        pytest.raises(UnsupportedLayerError, match="'shared' works on shape"),
    ):
        session.accumulate(example_batch(), models.zeros(parameters))


# -- row 9: examples that are coupled


def test_batch_normalisation_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(PrivacyError, match="mixes the examples"):
        Tape(model, {"0.weight": model[0].weight})


def test_planted_loss_coupling_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits centred over the batch: exact one by one, and so another model than in company."""

    class Coupled(Reusing):
        def forward(self, input_ids: torch.Tensor) -> Output:
            logits = super().forward(input_ids).logits
            return Output(logits - 0.9 * logits.mean(0, keepdim=True))

    model = Coupled()
    with pytest.raises(PrivacyError, match="Coupled answers an example differently in company"):
        check_engine(ENGINE, model, trainable(model), example_batch())


def padding_mixer(kind: str) -> nn.Module:
    """Architectures whose answer depends on how wide the batch is padded."""
    from transformers import (
        ConvBertConfig,
        ConvBertForSequenceClassification,
        FNetConfig,
        FNetForSequenceClassification,
    )

    torch.manual_seed(0)
    common = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}
    if kind == "fnet":
        return FNetForSequenceClassification(FNetConfig(**common, initializer_range=0.2)).eval()
    config = ConvBertConfig(**common, num_attention_heads=4, embedding_size=32, initializer_range=0.2)
    return ConvBertForSequenceClassification(config).eval()


@pytest.mark.parametrize("kind", ["fnet", "convbert"])
def test_examples_coupled_through_padding_fail_the_preflight(kind: str) -> None:
    """A longer neighbour widens everybody's padding: where that changes a gradient, no ε is true."""
    model = padding_mixer(kind)
    parameters = {n: p for n, p in model.named_parameters() if n.startswith("classifier.")}
    batch = synthetic_batch(model, token_types=False, labels=2, pad_token_id=0)
    with pytest.raises(PrivacyError, match="not exact on"):
        check_engine(ENGINE, model, parameters, batch)


def test_bert_does_not_mind_padding() -> None:
    model, parameters = models.tuned("full")
    check_engine(
        ENGINE, model, parameters, synthetic_batch(model, token_types=True, labels=3, pad_token_id=0)
    )


# -- row 10: a parameter without a rule


class Scaled(Reusing):
    """A bare parameter that belongs to no layer with a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(3))

    def forward(self, input_ids: torch.Tensor) -> Output:
        return Output(super().forward(input_ids).logits * self.temperature)


def test_a_parameter_without_a_rule_is_refused_by_name() -> None:
    model = Scaled()
    with pytest.raises(UnsupportedLayerError, match=r"temperature \(Scaled\)") as caught:
        Tape(model, trainable(model))
    assert caught.value.exit_code == 4


def test_a_parameter_tied_into_a_layer_without_a_rule_is_refused() -> None:
    model = Scaled()
    model.temperature = model.head.bias
    with pytest.raises(UnsupportedLayerError, match="temperature"):
        Tape(model, {"head.bias": model.head.bias})


def test_frozen_parameters_need_no_rule() -> None:
    model = Scaled()
    parameters = {name: p for name, p in model.named_parameters() if name != "temperature"}
    model.temperature.requires_grad_(False)
    check_engine(ENGINE, model, parameters, example_batch())


class Peeking(Reusing):
    """A weight that is read past its layer."""

    def forward(self, input_ids: torch.Tensor) -> Output:
        logits = super().forward(input_ids).logits
        return Output(logits + F.linear(logits, self.head.weight[:, :3]))


def test_planted_weight_read_past_its_layer_fails_the_preflight() -> None:
    class Unguarded:
        name = "unguarded"
        session = staticmethod(ENGINE.recording)

    torch.manual_seed(0)
    model = Peeking()
    with pytest.raises(PrivacyError, match=r"not exact on Peeking.* most at 'head\.weight'"):
        check_engine(Unguarded(), model, trainable(model), example_batch())


def test_an_unreachable_parameter_is_refused_by_name() -> None:
    model = Reusing()
    model.add_module("idle", nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"idle\.weight, idle\.bias"):
        check_reachable(model, trainable(model), example_batch())


def test_raw_gradients_cannot_leak_to_the_optimizer() -> None:
    """While recording, backward leaves no ``.grad`` on any trainable parameter."""
    model, parameters = models.tuned("full")
    with ENGINE.session(model, parameters, FlatClipper(1.0), "fp32") as session:
        session.accumulate(models.batch(), models.zeros(parameters))
        assert all(p.grad is None and not p.requires_grad for p in parameters.values())


def test_recording_needs_an_attached_tape() -> None:
    model = Reusing()
    detached: Any = Tape(model, trainable(model))
    with pytest.raises(PrivacyError, match="only while it is attached"), detached.recording(2):
        pass


def test_a_model_that_ignores_what_trains_is_refused() -> None:
    model = Reusing()
    model.requires_grad_(False)
    model.add_module("idle", nn.Linear(2, 2))
    with (
        ENGINE.session(model, {"idle.weight": model.idle.weight}, FlatClipper(1.0), "fp32") as session,
        pytest.raises(PrivacyError, match="no trainable parameter"),
    ):
        session.accumulate(example_batch(), {})


# -- what a layer saw must still be there when its gradient arrives


class Overwriting(Reusing):
    """Changes a layer's input after the layer has read it."""

    def forward(self, input_ids: torch.Tensor) -> Output:
        hidden = torch.tanh(self.norm(self.words(input_ids)))
        out = self.shared(hidden)
        with torch.no_grad():
            hidden.mul_(2)
        return Output(self.head(self.scores(out).mean(1)))


def test_an_input_changed_in_place_is_noticed() -> None:
    model = Overwriting()
    with (
        Tape(model, {"shared.weight": model.shared.weight}) as recording,
        recording.recording(4),
        pytest.raises(UnsupportedLayerError, match="'shared' was changed in place"),
    ):
        torch.autograd.backward(model(example_batch().inputs["input_ids"]).logits.sum())


def test_layers_that_read_one_tensor_share_it_and_others_do_not() -> None:
    recording = Tape(Reusing(), {})
    value = torch.randn(2, 3, 4)
    first = recording.shared(value)
    assert recording.shared(value.detach()) is first
    assert recording.shared(value[:, :2]) is not first
    value.add_(1)
    assert recording.shared(value) is not first
