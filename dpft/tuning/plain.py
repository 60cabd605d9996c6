"""Modes that train a model's own parameters: saved as plain tensors, merged by definition."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from dpft.runs.confine import list_folder
from dpft.spec import TuningSpec
from dpft.tuning.mode import Mode, mark_trainable
from dpft.tuning.untrusted import check_fit, read_weights

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
        (directory / TRAINED_TENSORS).chmod(0o600)

    def load(self, model: Any, directory: Path) -> Any:
        """Copy the trained tensors over the base model's.

        Raises:
            UntrustedError: they are not safetensors, or not exactly the parameters that the mode trains.
        """
        list_folder(directory)
        path = directory / TRAINED_TENSORS
        header = read_weights(path)
        parameters = dict(model.named_parameters())
        trained = self.trainable(model, TuningSpec(mode=self.name))
        check_fit({name: value for name, value in parameters.items() if name in trained}, header, path)
        for name, value in load_file(path).items():
            parameters[name].data.copy_(value)
        return model

    def merge(self, model: Any) -> Any:
        """Already plain."""
        return model
