"""Every architecture that dpft is held to, tiny and with random weights: no network, no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpft.engines import oracle
from dpft.engines.base import MicroBatch
from dpft.privacy.clipping import FlatClipper
from dpft.spec import TuningSpec
from dpft.tables import MODES
from tests import models

__all__ = [
    "ARCHITECTURES",
    "LABELS",
    "RELATIVE",
    "VOCABULARY",
    "batch",
    "build",
    "checkpoint",
    "config",
    "difference",
    "error",
    "tuned",
]

RELATIVE = 1e-4
LABELS = 3
VOCABULARY = 40
PAD, UNKNOWN, EOS = 0, 2, 3
POSITIONS = 40

_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
}
_DECODER = {**_ENCODER, "num_key_value_heads": 1, "bos_token_id": 2, "eos_token_id": EOS}

# model type -> the settings of its configuration
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "bert": _ENCODER,
    "roberta": {**_ENCODER, "pad_token_id": 1},
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 24,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.2,
        "pad_token_id": PAD,
    },
    "albert": {**_ENCODER, "embedding_size": 8},
    "electra": {**_ENCODER, "embedding_size": 8},
    "mpnet": {**_ENCODER, "pad_token_id": 1},
    "deberta-v2": {
        **_ENCODER,
        "relative_attention": True,
        "position_buckets": 4,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "modernbert": {
        **_ENCODER,
        "global_attn_every_n_layers": 2,
        "local_attention": 4,
        "bos_token_id": 2,
        "eos_token_id": EOS,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_inner": 24,
        "n_positions": POSITIONS,
        "initializer_range": 0.2,
        "pad_token_id": PAD,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
    },
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "word_embed_proj_dim": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 24,
        "max_position_embeddings": POSITIONS,
        "init_std": 0.2,
        "pad_token_id": PAD,
        "do_layer_norm_before": True,
    },
    "gpt_neox": {**_ENCODER, "rotary_pct": 0.5, "eos_token_id": EOS, "bos_token_id": EOS},
    "llama": _DECODER,
    "qwen2": _DECODER,
    "qwen3": {**_DECODER, "head_dim": 8},
    "gemma": {**_DECODER, "head_dim": 8},
    "gemma2": {**_DECODER, "head_dim": 8, "sliding_window": 4},
    "gemma3_text": {**_DECODER, "head_dim": 8, "sliding_window": 4},
    "t5": {
        "vocab_size": VOCABULARY,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 2,
        "relative_attention_num_buckets": 8,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "decoder_start_token_id": PAD,
    },
}


def config(name: str, **changes: Any) -> Any:
    """The configuration of a tiny ``name``."""
    from transformers import AutoConfig

    return AutoConfig.for_model(name, num_labels=LABELS, **{**ARCHITECTURES[name], **changes})


def build(name: str, seed: int = 0, **changes: Any) -> Any:
    """A tiny classifier with random weights, none of them at a value that hides what it does.

    Norms start at one or zero and biases at zero; a rule that forgot them would go unnoticed.
    """
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config(name, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.config.problem_type = "single_label_classification"
    return model


def tuned(name: str, mode: str, seed: int = 0, **changes: Any) -> tuple[Any, dict[str, nn.Parameter]]:
    """A tiny ``name`` in ``mode``, its adapters moved away from their start, and its trainable parameters."""
    entry = MODES.get(mode)
    tuning = TuningSpec(mode=mode, lora_r=2, num_prepend_tokens=entry.defaults.num_prepend_tokens and 3)
    applied = entry.apply(build(name, seed, **changes), tuning).eval()
    parameters = {name: p for name, p in applied.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return applied, parameters


def checkpoint(name: str, folder: Path) -> Path:
    """A folder with a tiny ``name`` and a tokenizer of words ``w4`` … ``w39``, which ends each text."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = [f"w{number}" for number in range(VOCABULARY)]
    pad = int(ARCHITECTURES[name]["pad_token_id"])
    words[pad], words[UNKNOWN], words[EOS] = "<pad>", "<unk>", "</s>"
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A $B </s>", [("</s>", EOS)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(folder)
    build(name).save_pretrained(folder)
    return folder


def batch(name: str, rows: int = 5, length: int = 9, seed: int = 0) -> MicroBatch:
    """Rows with padding on the right: one full, one of the fewest tokens, one of a repeated token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCABULARY, (rows, length), generator=generator)
    lengths = torch.randint(2, length + 1, (rows,), generator=generator)
    lengths[0] = length
    if rows > 1:
        lengths[1] = 2
    if rows > 2:
        ids[2] = 7
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids[torch.arange(rows), lengths - 1] = EOS  # T5 pools there
    pad = int(ARCHITECTURES[name]["pad_token_id"])
    inputs = {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}
    if name in ("bert", "albert", "electra"):
        inputs["token_type_ids"] = mask * (torch.arange(length) >= 2)
    return MicroBatch(inputs, torch.randint(0, LABELS, (rows,), generator=generator))


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative, over all parameters together."""
    return float((models.flat(found) - models.flat(expected)).norm() / models.flat(expected).norm())


def error(
    model: Any, parameters: dict[str, nn.Parameter], batch: MicroBatch, session: Callable[..., Any]
) -> float:
    """The largest relative difference from the oracle, over norms and the clipped sum."""
    gradients = oracle.per_example_gradients(model, parameters, batch)
    _, norms = oracle.clipped_sum(gradients, 1.0)
    clipper = FlatClipper(float(norms.median()))
    sums = models.zeros(parameters)
    with session(model, parameters, clipper, "fp32") as opened:
        report = opened.accumulate(batch, sums)
    worst = float(((report.norms - norms).abs() / norms).max())
    return max(worst, difference(sums, oracle.clipped_sum(gradients, clipper)[0]))
