"""IA³: learnt scales on keys, values and feed-forward activations (Liu et al. 2022, arXiv 2205.05638)."""

from __future__ import annotations

from typing import Any

import peft
from peft.utils import ModulesToSaveWrapper

from dpft.spec import TuningSpec
from dpft.tuning.head import head_modules
from dpft.tuning.mode import ModeDefaults
from dpft.tuning.single import SingleAdapter
from dpft.tuning.targets import ia3_targets, last_components, stores_transposed

__all__ = ["IA3", "MODE"]


class IA3(SingleAdapter):
    """Scales, initialised to one."""

    name = "ia3"
    description = "learnt scales of keys, values and feed-forward activations, and the head"
    peft_types = ("IA3",)
    defaults = ModeDefaults(learning_rate=1e-2, learning_rate_without_privacy=5e-3, max_grad_norm=3.0)

    def config(self, model: Any, tuning: TuningSpec) -> Any:
        """Keys, values and feed-forward activations, with the head saved beside them."""
        return peft.IA3Config(
            task_type=peft.TaskType.SEQ_CLS,
            fan_in_fan_out=stores_transposed(model),
            modules_to_save=last_components(head_modules(model)),
            **ia3_targets(model),
        )

    def merge(self, model: Any) -> Any:
        """Multiply each scale into its weight."""
        _unwrap_head(model.get_base_model())
        return model.merge_and_unload()


def _unwrap_head(model: Any) -> None:
    """Put the trained head in its place; PEFT's IA³ does so for single layers only, and fails on a pooler."""
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, child = name.rpartition(".")
            trained = module.unload_and_optionally_merge_module(
                merge=True, safe_merge=False, adapter_names=None
            )
            setattr(model.get_submodule(parent), child, trained)


MODE = IA3()
