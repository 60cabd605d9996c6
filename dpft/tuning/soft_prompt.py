"""Soft prompts: learnt embeddings before the input (Lester et al. 2021, arXiv 2104.08691)."""

from __future__ import annotations

from typing import Any

from dpft.spec import TuningSpec
from dpft.tuning.mode import ModeDefaults
from dpft.tuning.single import SingleAdapter
from dpft.tuning.virtual import prompt_config

__all__ = ["MODE", "SoftPrompt"]


class SoftPrompt(SingleAdapter):
    """Learnt input embeddings."""

    name = "soft-prompt"
    description = "learnt embeddings before the input, and the head"
    peft_types = ("PROMPT_TUNING",)
    defaults = ModeDefaults(
        learning_rate=3e-2, learning_rate_without_privacy=1e-2, max_grad_norm=3.0, num_prepend_tokens=16
    )

    def config(self, model: Any, tuning: TuningSpec) -> Any:
        """Randomly initialised from the seed."""
        return prompt_config(model, tuning)


MODE = SoftPrompt()
