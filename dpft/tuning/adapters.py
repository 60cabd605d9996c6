"""What the PEFT modes share: configurations, per-example prompts, saving and loading by plain PEFT."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn

from dpft.errors import ModelError, UntrustedError
from dpft.runs.confine import list_folder, shown
from dpft.runs.files import write_json_atomic
from dpft.spec import TuningSpec
from dpft.tuning.head import head_modules
from dpft.tuning.untrusted import (
    ADAPTER_CONFIG,
    ADAPTER_TENSORS,
    check_fit,
    check_sizes,
    read_adapter_config,
    read_weights,
)

__all__ = [
    "PerExamplePrompts",
    "encoder_linears",
    "last_components",
    "load_peft",
    "lora_config",
    "prefix_config",
    "prompt_config",
    "save_peft",
    "wrap",
]


class PerExamplePrompts(peft.PeftModelForSequenceClassification):  # type: ignore[misc]
    """PEFT's classification model, with prompts that keep their examples apart.

    For soft prompts PEFT looks the prompt up once and repeats it over the batch; its gradient would arrive
    summed over examples, before anything could be clipped. Here it is looked up once per example: the same
    numbers, the same saved files.
    """

    def get_prompt(self, batch_size: int, task_ids: Tensor | None = None, **options: Any) -> Any:
        """Virtual tokens, one row per example: (b v d) for soft prompts, key-value pairs for prefixes."""
        config = self.active_peft_config
        if config.peft_type != peft.PeftType.PROMPT_TUNING:
            return super().get_prompt(batch_size, task_ids, **options)
        encoder = self.prompt_encoder[self.active_adapter]
        ids = torch.arange(config.num_virtual_tokens, device=encoder.embedding.weight.device)
        return encoder(ids.expand(batch_size, -1))


def last_components(names: list[str]) -> list[str]:
    """``bert.pooler`` → ``pooler``: PEFT matches modules by the end of their name."""
    return [name.rpartition(".")[2] for name in names]


def lora_config(model: Any, tuning: TuningSpec, *, with_head: bool) -> peft.LoraConfig:
    """LoRA (Hu et al. 2021, arXiv 2106.09685) on every linear layer of the encoder."""
    return peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS if with_head else None,
        r=tuning.lora_r,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        target_modules=encoder_linears(model),
        modules_to_save=last_components(head_modules(model)) if with_head else None,
    )


def encoder_linears(model: Any) -> list[str]:
    """Shortest name endings that match every linear layer of the encoder and none of the head."""
    heads = tuple(f"{name}." for name in head_modules(model))
    wanted: set[str] = set()
    others: set[str] = set()
    for name, module in model.named_modules():
        inside_head = f"{name}.".startswith(heads)
        (wanted if isinstance(module, nn.Linear) and not inside_head else others).add(name)
    endings: set[str] = set()
    for name in wanted:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            ending = ".".join(parts[-length:])
            if not any(other == ending or other.endswith(f".{ending}") for other in others):
                endings.add(ending)
                break
    return sorted(endings)


def prefix_config(model: Any, tuning: TuningSpec) -> peft.PrefixTuningConfig:
    """Prefix tuning (Li & Liang 2021, arXiv 2101.00190): learnt keys and values before every layer's own."""
    return peft.PrefixTuningConfig(
        task_type=peft.TaskType.SEQ_CLS,
        num_virtual_tokens=tuning.num_prepend_tokens,
        modules_to_save=last_components(head_modules(model)),
    )


def prompt_config(model: Any, tuning: TuningSpec) -> peft.PromptTuningConfig:
    """Soft prompts (Lester et al. 2021, arXiv 2104.08691): learnt embeddings before the input."""
    return peft.PromptTuningConfig(
        task_type=peft.TaskType.SEQ_CLS,
        num_virtual_tokens=tuning.num_prepend_tokens,
        modules_to_save=last_components(head_modules(model)),
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
        return wrapped
    except (ValueError, AttributeError, KeyError) as error:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise ModelError(
            f"PEFT cannot put {kind} on {type(model).__name__}: {error}",
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
    return wrapped
