"""Modes that are one PEFT adapter."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from dpft.spec import TuningSpec
from dpft.tuning.adapters import load_peft, save_peft, wrap
from dpft.tuning.mode import Mode

__all__ = ["SingleAdapter"]


class SingleAdapter(Mode):
    """One adapter folder: ``adapter/adapter_model.safetensors`` and its config."""

    parts = ("",)

    @abstractmethod
    def config(self, model: Any, tuning: TuningSpec) -> Any:
        """The PEFT configuration."""

    def apply(self, model: Any, tuning: TuningSpec) -> Any:
        """PEFT marks adapter and head."""
        return wrap(model, self.config(model, tuning))

    def save(self, model: Any, directory: Path) -> None:
        """PEFT's own layout."""
        save_peft(model, directory)

    def load(self, model: Any, directory: Path) -> Any:
        """Plain PEFT."""
        return load_peft(model, directory)
