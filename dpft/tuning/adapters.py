"""What the PEFT modes share: configurations, saving, and loading by plain PEFT."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import torch

from dpft.errors import ModelError, UntrustedError
from dpft.runs.confine import list_folder, shown
from dpft.runs.files import write_json_atomic
from dpft.spec import TuningSpec
from dpft.tuning.head import head_modules
from dpft.tuning.targets import encoder_linears, last_components, stores_transposed
from dpft.tuning.untrusted import (
    ADAPTER_CONFIG,
    ADAPTER_TENSORS,
    check_fit,
    check_sizes,
    read_adapter_config,
    read_weights,
)
from dpft.tuning.virtual import PerExamplePrompts, prompt_sizes, read_where_texts_end

__all__ = [
    "load_peft",
    "lora_config",
    "save_peft",
    "wrap",
]


def lora_config(model: Any, tuning: TuningSpec, *, with_head: bool) -> peft.LoraConfig:
    """LoRA (Hu et al. 2021, arXiv 2106.09685) on every linear layer of the encoder."""
    return peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS if with_head else None,
        r=tuning.lora_r,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        target_modules=encoder_linears(model),
        fan_in_fan_out=stores_transposed(model),
        modules_to_save=last_components(head_modules(model)) if with_head else None,
    )


def wrap(model: Any, config: peft.PeftConfig) -> Any:
    """``model`` with ``config`` on top; virtual tokens start at the scale of the model's own embeddings.

    PEFT draws them from N(0, 1), some twenty times the scale of a BERT's embeddings: a prefix of such keys
    and values drowns the text, and a few dozen noisy steps do not bring it back.

    Raises:
        ModelError: PEFT cannot do this mode on this architecture.
    """
    try:
        scale = float(model.get_input_embeddings().weight.detach().std())
        wrapped = PerExamplePrompts(model, config)
        if config.is_prompt_learning:
            with torch.no_grad():
                wrapped.prompt_encoder[wrapped.active_adapter].embedding.weight.mul_(scale)
        if config.peft_type == peft.PeftType.PROMPT_TUNING:
            read_where_texts_end(wrapped)
        return wrapped
    except (ValueError, AttributeError, KeyError, RuntimeError, NotImplementedError, TypeError) as error:
        kind = getattr(config.peft_type, "value", config.peft_type)
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"PEFT cannot put {kind} on {type(model).__name__}: {reason}",
            hint="choose another --finetune-mode",
        ) from error


def save_peft(model: Any, directory: Path) -> None:
    """``adapter_model.safetensors`` and ``adapter_config.json``, as plain PEFT reads them.

    PEFT lists module names in the order of a set, which differs from process to process: here they are
    sorted, so that equal runs write equal files.
    """
    model.save_pretrained(directory, safe_serialization=True, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty template; the run writes its own
    path = directory / ADAPTER_CONFIG
    config = json.loads(path.read_bytes())
    for name in ("target_modules", "feedforward_modules"):
        if isinstance(config.get(name), list):
            config[name] = sorted(config[name])
    write_json_atomic(path, config)
    (directory / ADAPTER_TENSORS).chmod(0o600)


def load_peft(model: Any, directory: Path, *, with_head: bool = True) -> Any:
    """``PeftModel.from_pretrained``, as a deployment would, on files that were checked first.

    Args:
        model: the base model; it is changed in place.
        directory: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        with_head: whether the classification head must be in it.

    Raises:
        NotFoundError: there is no configuration.
        UntrustedError: the files are not what an adapter of a dpft mode is, or do not fit the model; see
            :mod:`dpft.tuning.untrusted`.
    """
    list_folder(directory)
    config, path = read_adapter_config(directory), directory / ADAPTER_TENSORS
    if config.peft_type == peft.PeftType.PROMPT_TUNING:
        for name, size in prompt_sizes(model).items():
            setattr(config, name, size)
    header = read_weights(path)
    check_sizes(config, header, directory / ADAPTER_CONFIG)
    head = {name for name in head_modules(model) if not name.startswith(f"{model.base_model_prefix}.")}
    saved = {name for name in head if name in (config.modules_to_save or ())}
    if with_head and saved != head:
        raise UntrustedError(
            f"{directory} carries no classification head: {', '.join(sorted(head - saved))} would be random",
            hint="an adapter for text classification saves it (modules_to_save in adapter_config.json)",
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # refused below
            wrapped = peft.PeftModel.from_pretrained(model, directory, config=config)
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error).strip().rpartition("\n")[2].strip()
        raise UntrustedError(
            f"{directory} does not fit {type(model).__name__}: {shown(reason)}",
            hint="it was made for another base model: give the one it names with -m",
        ) from error
    check_fit(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False), header, path)
    if config.peft_type == peft.PeftType.PROMPT_TUNING:
        read_where_texts_end(wrapped)
    return wrapped
