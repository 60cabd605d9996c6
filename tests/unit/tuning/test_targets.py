"""Where adapters go, and how large prompts are, on architectures that PEFT has no entry for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from dpft.errors import ModelError
from dpft.tuning.head import head_modules
from dpft.tuning.targets import encoder_linears, ia3_targets, stores_transposed
from dpft.tuning.virtual import prompt_sizes
from tests import architectures
from tests.architectures import ARCHITECTURES

HEADS = {
    "bert": ["bert.pooler", "classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "albert": ["albert.pooler", "classifier"],
    "deberta-v2": ["pooler", "classifier"],
    "modernbert": ["head", "classifier"],
    "t5": ["classification_head"],
    **{name: ["classifier"] for name in ("roberta", "electra", "mpnet")},
}
SCALED = {  # keys, values, and what enters the second feed-forward layer; the latter apart
    "distilbert": ({"k_lin", "v_lin", "lin2"}, {"lin2"}),
    "albert": ({"key", "value", "ffn_output"}, {"ffn_output"}),
    "electra": ({"key", "value", "0.output.dense", "1.output.dense"}, {"0.output.dense", "1.output.dense"}),
    "mpnet": ({"k", "v", "output.dense"}, {"output.dense"}),
    "modernbert": ({"Wqkv", "mlp.Wo"}, {"mlp.Wo"}),
}


def matched(model: Any, endings: list[str]) -> set[str]:
    return {
        name
        for name, _ in model.named_modules()
        if any(name == ending or name.endswith(f".{ending}") for ending in endings)
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_head_is_what_stands_between_the_encoder_and_the_logits(name: str) -> None:
    assert head_modules(architectures.build(name)) == HEADS.get(name, ["score"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_lora_reaches_every_linear_layer_of_the_encoder_and_nothing_else(name: str) -> None:
    model = architectures.build(name)
    heads = tuple(f"{head}." for head in head_modules(model))
    wanted = {
        at
        for at, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not f"{at}.".startswith(heads)
    }
    assert len(wanted) >= 6
    assert matched(model, encoder_linears(model)) == wanted
    assert stores_transposed(model) == (name == "gpt2")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_ia3_scales_keys_values_and_feed_forward_activations(name: str) -> None:
    targets = ia3_targets(architectures.build(name))
    if name not in SCALED:  # PEFT's own choice
        assert targets == {}
        return
    everything, feedforward = SCALED[name]
    assert targets == {"target_modules": sorted(everything), "feedforward_modules": sorted(feedforward)}


def test_ia3_is_refused_where_nothing_looks_like_keys_and_values() -> None:
    from transformers import FNetConfig, FNetForSequenceClassification

    config = FNetConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, intermediate_size=12)
    with pytest.raises(ModelError, match="no keys and values are found in FNetForSequenceClassification"):
        ia3_targets(FNetForSequenceClassification(config))


@pytest.mark.parametrize(("name", "width"), [("bert", 16), ("electra", 8), ("albert", 8), ("opt", 8)])
def test_a_prompt_is_as_wide_as_the_embeddings(name: str, width: int) -> None:
    """Not as the hidden states: factorised embeddings are narrower."""
    assert prompt_sizes(architectures.build(name))["token_dim"] == width
    model, _ = architectures.tuned(name, "soft-prompt")
    assert model.prompt_encoder["default"].embedding.weight.shape == (3, width)


@pytest.mark.parametrize("name", ["gpt2", "opt", "modernbert"])
def test_a_merged_model_answers_the_same(name: str) -> None:
    from dpft.tables import MODES

    inputs = architectures.batch(name).inputs
    for mode in ("lora", "ia3"):
        model, _ = architectures.tuned(name, mode)
        with torch.no_grad():
            expected = model(**inputs).logits
            merged = MODES.get(mode).merge(model).eval()
            torch.testing.assert_close(merged(**inputs).logits, expected, rtol=0, atol=1e-4)
