"""Prefix and LoRA together."""

from __future__ import annotations

from typing import Any

from dpft.spec import TuningSpec
from dpft.tuning.combined import CombinedAdapters
from dpft.tuning.mode import ModeDefaults
from dpft.tuning.virtual import prefix_config

__all__ = ["MODE", "PrefixLoRA"]


class PrefixLoRA(CombinedAdapters):
    """LoRA inside, prefix outside."""

    name = "prefix+lora"
    description = "learnt keys and values before every layer's own, low-rank updates, and the head"
    peft_types = ("LORA", "PREFIX_TUNING")
    defaults = ModeDefaults(
        learning_rate=4e-3, learning_rate_without_privacy=1e-3, max_grad_norm=1.0, num_prepend_tokens=16
    )

    def outer_config(self, model: Any, tuning: TuningSpec) -> Any:
        """The virtual tokens."""
        return prefix_config(model, tuning)


MODE = PrefixLoRA()
