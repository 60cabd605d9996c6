"""Only the classification head trains; the encoder stays as it was."""

from __future__ import annotations

from typing import Any

from dpft.spec import TuningSpec
from dpft.tuning.head import head_parameters
from dpft.tuning.mode import ModeDefaults
from dpft.tuning.plain import PlainMode

__all__ = ["MODE", "LastLayer"]


class LastLayer(PlainMode):
    """The head alone."""

    name = "last-layer"
    description = "the classification head alone"
    defaults = ModeDefaults(learning_rate=3e-2, learning_rate_without_privacy=4e-3, max_grad_norm=3.0)

    def trainable(self, model: Any, tuning: TuningSpec) -> set[str]:
        """The head's parameters."""
        return head_parameters(model)


MODE = LastLayer()
