"""Soft-prompt and LoRA together."""

from __future__ import annotations

from typing import Any

from dpft.spec import TuningSpec
from dpft.tuning.combined import CombinedAdapters
from dpft.tuning.mode import ModeDefaults
from dpft.tuning.virtual import prompt_config

__all__ = ["MODE", "SoftPromptLoRA"]


class SoftPromptLoRA(CombinedAdapters):
    """LoRA inside, soft-prompt outside."""

    name = "soft-prompt+lora"
    description = "learnt embeddings before the input, low-rank updates, and the head"
    peft_types = ("LORA", "PROMPT_TUNING")
    defaults = ModeDefaults(
        learning_rate=4e-3, learning_rate_without_privacy=1e-3, max_grad_norm=1.0, num_prepend_tokens=16
    )

    def outer_config(self, model: Any, tuning: TuningSpec) -> Any:
        """The virtual tokens."""
        return prompt_config(model, tuning)


MODE = SoftPromptLoRA()
