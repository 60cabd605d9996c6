"""LoRA: low-rank updates of the encoder's linear layers (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from typing import Any

from dpft.spec import TuningSpec
from dpft.tuning.adapters import lora_config
from dpft.tuning.mode import ModeDefaults
from dpft.tuning.single import SingleAdapter

__all__ = ["MODE", "LoRA"]


class LoRA(SingleAdapter):
    """Low-rank adapters."""

    name = "lora"
    description = "low-rank updates of every linear layer of the encoder, and the head"
    peft_types = ("LORA",)
    defaults = ModeDefaults(learning_rate=4e-3, learning_rate_without_privacy=1e-3, max_grad_norm=1.0)

    def config(self, model: Any, tuning: TuningSpec) -> Any:
        """LoRA with the head saved beside it."""
        return lora_config(model, tuning, with_head=True)

    def merge(self, model: Any) -> Any:
        """Add ``α/r · B A`` to each weight."""
        return model.merge_and_unload()


MODE = LoRA()
