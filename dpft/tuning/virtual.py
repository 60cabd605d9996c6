"""Virtual tokens: prompts and prefixes that keep their examples apart, wherever a model can take them.

Three things PEFT leaves open are settled here. A soft prompt is looked up once per example, or its gradient
would arrive summed over the batch. Its sizes are the embedding table's, whatever the architecture calls them.
And a decoder that reads its answer at the last token of a text finds that token by its id; a prompt hides the
ids, and padding would be read instead. So the last token is found by the attention mask, which is what the
model does with a single text that needs no padding.
"""

from __future__ import annotations

import inspect
from typing import Any

import peft
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dpft.errors import ModelError
from dpft.spec import TuningSpec
from dpft.tuning.head import head_modules
from dpft.tuning.targets import last_components

__all__ = [
    "PerExamplePrompts",
    "check_prefix",
    "prefix_config",
    "prompt_config",
    "prompt_sizes",
    "read_where_texts_end",
    "reads_where_texts_end",
]

_MARK = "dpft_reads_where_texts_end"
_HINT = "choose another --finetune-mode"


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


def prefix_config(model: Any, tuning: TuningSpec) -> peft.PrefixTuningConfig:
    """Prefix tuning (Li & Liang 2021, arXiv 2101.00190): learnt keys and values before every layer's own.

    Raises:
        ModelError: the architecture takes no keys and values from outside.
    """
    check_prefix(model)
    return peft.PrefixTuningConfig(
        task_type=peft.TaskType.SEQ_CLS,
        num_virtual_tokens=tuning.num_prepend_tokens,
        modules_to_save=last_components(head_modules(model)),
    )


def prompt_config(model: Any, tuning: TuningSpec) -> peft.PromptTuningConfig:
    """Soft prompts (Lester et al. 2021, arXiv 2104.08691): learnt embeddings before the input.

    Raises:
        ModelError: the architecture takes no embeddings.
    """
    if model.config.is_encoder_decoder:
        raise ModelError(
            f"{type(model).__name__} takes no embeddings in place of token ids (it finds its answer by one): "
            "it can have no soft prompt",
            hint=_HINT,
        )
    return peft.PromptTuningConfig(
        task_type=peft.TaskType.SEQ_CLS,
        num_virtual_tokens=tuning.num_prepend_tokens,
        modules_to_save=last_components(head_modules(model)),
        **prompt_sizes(model),
    )


def prompt_sizes(model: Any) -> dict[str, int]:
    """What PEFT needs to know of a model: it looks under names that not every configuration has."""
    return {
        "token_dim": int(model.get_input_embeddings().embedding_dim),
        "num_layers": int(model.config.num_hidden_layers),
        "num_attention_heads": int(model.config.num_attention_heads),
    }


def check_prefix(model: Any) -> None:
    """Can keys and values be given to this model?

    Raises:
        ModelError: it takes none, or is an encoder and a decoder, of which PEFT would drive one.
    """
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ModelError(
            f"PEFT has no prefix for {name}: it classifies with an encoder or a decoder, not with both",
            hint=_HINT,
        )
    parts = (model, getattr(model, model.base_model_prefix))
    taken = {name for part in parts for name in inspect.signature(part.forward).parameters}
    if "past_key_values" not in taken and "cache" in taken:  # its name from transformers 5.24 on
        raise ModelError(
            f"PEFT cannot give {name} a prefix: this version of transformers takes it by another name",
            hint="pip install 'transformers<5.24'",
        )
    if "past_key_values" not in taken:
        raise ModelError(
            f"{name} takes no keys and values from outside (past_key_values): it can have no prefix",
            hint=_HINT,
        )


def reads_where_texts_end(model: Any) -> bool:
    """Whether :func:`read_where_texts_end` had something to do for this PEFT model."""
    return hasattr(model, _MARK)


def read_where_texts_end(wrapped: Any) -> None:
    """Let a decoder with a soft prompt read its answer at the last token of each text, not at the padding.

    Such a model gives logits for every position and takes those of the last; then its head sees only the
    hidden state of each text's last token. Models that pool otherwise are left alone.

    Args:
        wrapped: a PEFT model with a soft prompt; it is changed in place.
    """
    head = _head_of_every_position(wrapped)
    if head is None:
        return
    virtual = int(wrapped.active_peft_config.num_virtual_tokens)
    ends: list[Tensor | None] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        places = None if mask is None else torch.arange(mask.shape[1], device=mask.device)
        ends.append(None if places is None else virtual + (places * (mask != 0)).argmax(1))

    def pick(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not ends or ends[-1] is None:
            return None
        hidden = args[0]
        row = torch.arange(hidden.shape[0], device=hidden.device)  # not len(): a trace would freeze it
        return (hidden[row, ends[-1]][:, None], *args[1:])

    def forget(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        ends.pop()

    wrapped.register_forward_pre_hook(note, with_kwargs=True)
    wrapped.register_forward_hook(forget, always_call=True)
    head.register_forward_pre_hook(pick)
    object.__setattr__(wrapped, _MARK, True)


@torch.no_grad()
def _head_of_every_position(wrapped: Any) -> nn.Module | None:
    """The layer that gives logits for every position, if the model takes the last of them; else None."""
    seen: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            seen.append((module, output))

    base = wrapped.get_base_model()
    handles: list[RemovableHandle] = [child.register_forward_hook(keep) for child in base.children()]
    length = 3
    try:
        logits = wrapped(**_tiny_text(wrapped, length)).logits
    finally:
        for handle in handles:
            handle.remove()
    positions = wrapped.active_peft_config.num_virtual_tokens + length
    for module, output in seen:
        if output.shape == (1, positions, logits.shape[-1]) and torch.equal(output[:, -1], logits):
            return module
    return None


def _tiny_text(model: Any, length: int) -> dict[str, Tensor]:
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    ids = torch.arange(1, length + 1)[None] % vocabulary
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
