"""Modes that inject LoRA into the base model and put virtual tokens on top.

PEFT saves only the outer adapter of a nested model, so the two are saved apart: ``adapter/lora`` and
``adapter/prompt`` (which carries the head). Plain PEFT loads them in that order::

    model = PeftModel.from_pretrained(base, "adapter/lora").get_base_model()
    model = PeftModel.from_pretrained(model, "adapter/prompt")
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import peft
from safetensors.torch import load_file, save_file

from dpft.runs.confine import list_folder
from dpft.spec import TuningSpec
from dpft.tuning.adapters import load_peft, lora_config, save_peft, wrap
from dpft.tuning.mode import Mode

__all__ = ["CombinedAdapters"]


class CombinedAdapters(Mode):
    """LoRA inside, virtual tokens outside."""

    parts = ("lora", "prompt")

    @abstractmethod
    def outer_config(self, model: Any, tuning: TuningSpec) -> Any:
        """The PEFT configuration of the virtual tokens."""

    def apply(self, model: Any, tuning: TuningSpec) -> Any:
        """Inject LoRA, add the virtual tokens, and let both train."""
        outer_config = self.outer_config(model, tuning)
        inner = peft.get_peft_model(model, lora_config(model, tuning, with_head=False))
        outer = wrap(inner.get_base_model(), outer_config)
        for name, parameter in outer.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:  # frozen by the outer wrapper, like all it found
                parameter.requires_grad_(True)
        # Not a submodule: it wraps the very modules that ``outer`` already holds.
        object.__setattr__(outer, "dpft_inner", inner)
        return outer

    def save(self, model: Any, directory: Path) -> None:
        """Two adapter folders; the head is in the outer one alone."""
        for part, adapter in zip(self.parts, (model.dpft_inner, model), strict=True):
            (directory / part).mkdir(mode=0o700, exist_ok=True)
            save_peft(adapter, directory / part)
        _keep_lora(directory / self.parts[0] / "adapter_model.safetensors")

    def load(self, model: Any, directory: Path) -> Any:
        """Plain PEFT, in the order of ``parts``."""
        list_folder(directory)
        inner, outer = self.parts
        within = load_peft(model, directory / inner, with_head=False).get_base_model()
        return load_peft(within, directory / outer)


def _keep_lora(path: Path) -> None:
    """Leave out the head, which PEFT finds in the modules that both adapters share, and saves with both."""
    tensors = {name: value for name, value in load_file(path).items() if ".lora_" in name}
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o600)
