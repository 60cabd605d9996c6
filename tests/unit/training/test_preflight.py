"""The preflight sees leaks of any size, and what an adapter's start hides; it leaves every bit as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpft.engines.bookkeeping import ENGINE
from dpft.errors import PrivacyError
from dpft.privacy.gradients import Norms, OuterGradient, PerExampleGradient
from dpft.privacy.tape import Tape
from dpft.spec import TuningSpec
from dpft.tables import MODES
from dpft.training.company import InFloat64, check_company
from dpft.training.moved import moved
from dpft.training.preflight import check_engine, synthetic_batch
from tests import models
from tests.models import flat


def fresh(mode: str, model: Any) -> tuple[Any, dict[str, nn.Parameter]]:
    """A model in ``mode``, its adapters where training begins."""
    torch.manual_seed(0)
    applied = MODES.get(mode).apply(model, TuningSpec(mode=mode, lora_r=2)).eval()
    return applied, {name: p for name, p in applied.named_parameters() if p.requires_grad}


def convbert(spread: float) -> Any:
    """An architecture that convolves over padding, the less visibly the smaller its weights."""
    from transformers import ConvBertConfig, ConvBertForSequenceClassification

    torch.manual_seed(0)
    config = ConvBertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        embedding_size=32,
        initializer_range=spread,
        conv_kernel_size=3,
    )
    return ConvBertForSequenceClassification(config).eval()


@pytest.mark.parametrize("mode", ["lora", "last-layer"])
@pytest.mark.parametrize("spread", [0.02, 0.05])
def test_planted_coupling_too_small_for_float32_is_refused(mode: str, spread: float) -> None:
    """Each example's gradient is within 1e-3; a thousand neighbours still move the sum by more than C."""
    model, parameters = fresh(mode, convbert(spread))
    batch = synthetic_batch(model, token_types=False, labels=2, pad_token_id=0)
    with pytest.raises(PrivacyError, match=r"in company|not exact on"):
        check_engine(ENGINE, model, parameters, batch)


class Leaky(nn.Module):
    """BERT whose logits have a trace of the whole batch's, or of its width."""

    def __init__(self, kind: str, share: float) -> None:
        super().__init__()
        self.bert = models.tiny_bert()
        self.config, self.get_input_embeddings = self.bert.config, self.bert.get_input_embeddings
        self.kind, self.share = kind, share

    def forward(self, **inputs: Tensor) -> Any:
        output = self.bert(**inputs)
        other = output.logits.mean(0) if self.kind == "batch" else 1.0 / inputs["input_ids"].shape[1]
        output.logits = output.logits + self.share * other
        return output


@pytest.mark.parametrize("kind", ["batch", "width"])
def test_planted_leak_is_refused_however_small(kind: str) -> None:
    """Nobody sees it in float32."""
    model = Leaky(kind, 1e-8)
    batch = synthetic_batch(model, token_types=True, labels=3, pad_token_id=0)
    parameters = dict(model.bert.classifier.named_parameters())
    with pytest.raises(PrivacyError, match="answers an example differently in company"):
        check_engine(ENGINE, model, parameters, batch)
    model.share = 0.0
    check_engine(ENGINE, model, parameters, batch)


def test_what_a_model_casts_down_is_compared_in_float64_all_the_same() -> None:
    """A softmax in float32, as T5 has it, rounds differently at another width: that is no leak."""
    scores = torch.randn(3, 11, generator=torch.Generator().manual_seed(0))
    with InFloat64():
        probabilities = torch.softmax(scores.float(), -1, dtype=torch.float32).to(torch.float32)
        total = torch.zeros(3, dtype=torch.float32)
        total += probabilities.sum(-1)
    assert probabilities.dtype == total.dtype == torch.float64
    torch.testing.assert_close(total, torch.ones(3).double(), rtol=0, atol=1e-15)
    assert scores.dtype == torch.float32


def test_in_float64_weights_stay_as_they_are() -> None:
    model = models.tiny_bert()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad(), InFloat64():
        assert model(**models.batch().inputs).logits.dtype == torch.float64
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(value.dtype == before[name].dtype for name, value in after.items())


def test_a_model_that_cannot_compute_in_float64_is_refused() -> None:
    class Stubborn(Leaky):
        def forward(self, **inputs: Tensor) -> Any:
            output = super().forward(**inputs)
            if output.logits.dtype != torch.float32:
                raise RuntimeError("expected Float\nand found Double")
            return output

    model = Stubborn("batch", 0.0)
    batch = synthetic_batch(model, token_types=True, labels=3, pad_token_id=0)
    with pytest.raises(PrivacyError, match=r"does not compute in float64.*expected Float$"):
        check_company(model, batch, (batch,))


def test_answers_that_are_no_numbers_are_refused() -> None:
    model = Leaky("width", float("nan"))
    batch = synthetic_batch(model, token_types=True, labels=3, pad_token_id=0)
    with pytest.raises(PrivacyError, match="in company"):
        check_company(model, batch, (batch,))


# -- what an adapter's start hides


class Faulty(OuterGradient):
    """Planted: the norm of a gradient is a hundredth of what is delivered; its sum is right."""

    def _compute_norms(self) -> Norms:
        norms = OuterGradient._compute_norms(self)
        return Norms(norms.square * 1e-4, norms.square_magnitude * 1e-4)

    def settle(self) -> Faulty:
        return self


class Unguarded:
    name = "unguarded"
    packages: tuple[str, ...] = ()
    session = staticmethod(ENGINE.recording)


def plant(monkeypatch: pytest.MonkeyPatch, parameters: dict[str, nn.Parameter]) -> None:
    """Wrong norms for every ``lora_A``."""
    original, names = Tape.add, {id(p): name for name, p in parameters.items()}

    def add(tape: Tape, parameter: nn.Parameter, gradient: PerExampleGradient) -> None:
        if "lora_A" in names.get(id(parameter), "") and isinstance(gradient, OuterGradient):
            gradient = Faulty(gradient.activations, gradient.output_gradients)
        original(tape, parameter, gradient)

    monkeypatch.setattr(Tape, "add", add)


def test_planted_fault_behind_a_zero_factor_fails_the_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    """As training makes it, LoRA's B is zero and so is every gradient of A."""
    from dpft.training import preflight

    model, parameters = fresh("lora", models.tiny_bert())
    batch = synthetic_batch(model, token_types=True, labels=3, pad_token_id=0)
    check_engine(Unguarded(), model, parameters, batch)
    plant(monkeypatch, parameters)
    with pytest.raises(PrivacyError, match="not exact on"):
        check_engine(Unguarded(), model, parameters, batch)
    monkeypatch.setattr(preflight, "moved", lambda parameters: torch.enable_grad())
    check_engine(Unguarded(), model, parameters, batch)  # why the parameters are moved


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_moved_is_put_back_to_the_bit(fails: bool) -> None:
    model, parameters = fresh("lora", models.tiny_bert())
    everything = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    before = flat(parameters)
    try:
        with moved(parameters):
            assert all(bool((p != everything[name]).any()) for name, p in parameters.items())
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert torch.equal(before, flat(parameters))
    assert all(torch.equal(value, everything[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(p.requires_grad for p in parameters.values())


def test_a_refused_model_is_as_it_was() -> None:
    model, parameters = fresh("lora", convbert(0.05))
    before = flat(parameters)
    batch = synthetic_batch(model, token_types=False, labels=2, pad_token_id=0)
    with pytest.raises(PrivacyError):
        check_engine(ENGINE, model, parameters, batch)
    assert torch.equal(before, flat(parameters))
