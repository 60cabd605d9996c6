"""Prefix tuning: learnt keys and values before every layer's own (Li & Liang 2021, arXiv 2101.00190)."""

from __future__ import annotations

from typing import Any

from dpft.spec import TuningSpec
from dpft.tuning.mode import ModeDefaults
from dpft.tuning.single import SingleAdapter
from dpft.tuning.virtual import prefix_config

__all__ = ["MODE", "Prefix"]


class Prefix(SingleAdapter):
    """Learnt keys and values."""

    name = "prefix"
    description = "learnt keys and values before every layer's own, and the head"
    peft_types = ("PREFIX_TUNING",)
    defaults = ModeDefaults(
        learning_rate=6e-2, learning_rate_without_privacy=1e-2, max_grad_norm=3.0, num_prepend_tokens=16
    )

    def config(self, model: Any, tuning: TuningSpec) -> Any:
        """Without reparametrisation: the prefix itself trains."""
        return prefix_config(model, tuning)


MODE = Prefix()
