"""Modes that train a model's own parameters: saved as plain tensors, merged by definition."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from dpft.errors import ModelError
from dpft.spec import TuningSpec
from dpft.tuning.mode import Mode, mark_trainable

__all__ = ["TRAINED_TENSORS", "PlainMode"]

TRAINED_TENSORS = "trained_parameters.safetensors"


class PlainMode(Mode):
    """Trains a subset of the base model's own parameters."""

    parts = ()

    @abstractmethod
    def trainable(self, model: Any, tuning: TuningSpec) -> set[str]:
        """Names of the parameters that train."""

    def apply(self, model: Any, tuning: TuningSpec) -> Any:
        """Mark them."""
        mark_trainable(model, self.trainable(model, tuning))
        return model

    def save(self, model: Any, directory: Path) -> None:
        """Write the trained tensors only."""
        tensors = {
            name: parameter.detach().contiguous().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        save_file(tensors, directory / TRAINED_TENSORS, metadata={"format": "pt"})

    def load(self, model: Any, directory: Path) -> Any:
        """Copy the trained tensors over the base model's.

        Raises:
            ModelError: a tensor is unknown to the model or has another shape.
        """
        parameters = dict(model.named_parameters())
        for name, value in load_file(directory / TRAINED_TENSORS).items():
            if name not in parameters or parameters[name].shape != value.shape:
                raise ModelError(
                    f"trained tensor {name!r} {tuple(value.shape)} does not fit the base model",
                    hint="load it on the base model named in the run's manifest",
                )
            parameters[name].data.copy_(value)
        return model

    def merge(self, model: Any) -> Any:
        """Already plain."""
        return model
