"""What the PEFT modes share."""

from __future__ import annotations

import pytest
import torch

from dpft.errors import UsageError
from dpft.spec import TuningSpec
from dpft.tables import MODES
from dpft.tuning.head import head_modules, head_parameters
from dpft.tuning.targets import encoder_linears
from tests import models


def apply(mode: str, **changes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    entry = MODES.get(mode)
    tuning = TuningSpec(mode=mode, num_prepend_tokens=entry.defaults.num_prepend_tokens and 3, **changes)
    return entry.apply(models.tiny_bert(), tuning)


@pytest.mark.parametrize("mode", MODES.names())
def test_every_mode_trains_the_head_and_what_it_names(mode: str) -> None:
    model = apply(mode, lora_r=2)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    kinds = {
        "lora": any("lora_A" in name for name in trainable) and any("lora_B" in name for name in trainable),
        "ia3": any("ia3_l" in name for name in trainable),
        "prompt": any("prompt_encoder" in name for name in trainable),
        "head": any("classifier" in name for name in trainable)
        and any("pooler" in name for name in trainable),
        "encoder": any("encoder.layer.0.output.dense.weight" in name for name in trainable),
    }
    wanted = {
        "full": {"head", "encoder"},
        "last-layer": {"head"},
        "lora": {"head", "lora"},
        "ia3": {"head", "ia3"},
        "prefix": {"head", "prompt"},
        "soft-prompt": {"head", "prompt"},
        "soft-prompt+lora": {"head", "prompt", "lora"},
        "prefix+lora": {"head", "prompt", "lora"},
    }[mode]
    assert {kind for kind, found in kinds.items() if found} == wanted


def test_the_head_is_pooler_and_classifier() -> None:
    model = models.tiny_bert()
    assert head_modules(model) == ["bert.pooler", "classifier"]
    assert len(head_parameters(model)) == 4


def test_lora_reaches_every_linear_layer_of_the_encoder_and_none_of_the_head() -> None:
    model = models.tiny_bert()
    endings = encoder_linears(model)
    matched = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and any(name.endswith(f".{ending}") for ending in endings)
    }
    assert len(matched) == 12
    assert not any("pooler" in name or "classifier" in name for name in matched)


@pytest.mark.parametrize("mode", ["prefix", "soft-prompt"])
def test_virtual_tokens_start_at_the_scale_of_the_embeddings(mode: str) -> None:
    model = apply(mode)
    scale = model.get_input_embeddings().weight.std()
    virtual = model.prompt_encoder["default"].embedding.weight
    assert 0.6 * scale < virtual.std() < 1.5 * scale


def test_dropout_of_the_base_model_rests() -> None:
    assert not any(module.training for module in apply("lora").modules() if "Bert" in type(module).__name__)


@pytest.mark.parametrize("mode", ["prefix", "soft-prompt", "soft-prompt+lora", "prefix+lora"])
def test_virtual_tokens_cannot_be_merged(mode: str) -> None:
    with pytest.raises(UsageError, match="cannot be merged") as caught:
        MODES.get(mode).merge(apply(mode))
    assert "--format peft" in caught.value.hint


@pytest.mark.parametrize("mode", ["lora", "ia3", "full", "last-layer"])
def test_a_merged_model_answers_the_same(mode: str) -> None:
    model = apply(mode)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    inputs = models.batch().inputs
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
        merged = MODES.get(mode).merge(model).eval()
        torch.testing.assert_close(merged(**inputs).logits, expected, rtol=0, atol=1e-5)
    assert type(merged).__name__ == "BertForSequenceClassification"
