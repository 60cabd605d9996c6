"""Every parameter trains."""

from __future__ import annotations

from dpft.spec import TuningSpec
from dpft.tuning.mode import ModeDefaults
from dpft.tuning.plain import PlainMode

__all__ = ["MODE", "Full"]


class Full(PlainMode):
    """Full fine-tuning."""

    name = "full"
    description = "all parameters of the model"
    defaults = ModeDefaults(learning_rate=2e-3, learning_rate_without_privacy=1e-4, max_grad_norm=1.0)

    def trainable(self, model: object, tuning: TuningSpec) -> set[str]:
        """All of them."""
        return {name for name, _ in model.named_parameters()}  # type: ignore[attr-defined]


MODE = Full()
