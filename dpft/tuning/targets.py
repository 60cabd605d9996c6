"""Which layers of a model an adapter goes to: found by what they are and where they stand, not by a list."""

from __future__ import annotations

import re
from typing import Any

from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from dpft.errors import ModelError
from dpft.tuning.head import head_modules

__all__ = ["encoder_linears", "endings", "ia3_targets", "last_components", "stores_transposed"]

_KEY_OR_VALUE = re.compile(r"(k|v|key|value)(_?(proj|lin|linear|layer))?")
_ALL_IN_ONE = re.compile(r"query_key_value|c_attn|qkv(_proj)?|Wqkv|in_proj")


def last_components(names: list[str]) -> list[str]:
    """``bert.pooler`` → ``pooler``: PEFT matches modules by the end of their name."""
    return [name.rpartition(".")[2] for name in names]


def encoder_linears(model: Any) -> list[str]:
    """Shortest name endings that match every linear layer of the encoder and none of the head."""
    return endings(model, set(_linears(model)))


def stores_transposed(model: Any) -> bool:
    """Whether the encoder's linear layers keep (inputs, outputs): PEFT wants to be told."""
    return any(isinstance(module, Conv1D) for module in _linears(model).values())


def ia3_targets(model: Any) -> dict[str, list[str]]:
    """What IA³ scales: keys, values and what enters the second feed-forward layer (arXiv 2205.05638, §3.3).

    Where PEFT has a choice of its own for the architecture, that is taken: nothing is returned. A layer that
    gives queries, keys and values at once is scaled as a whole, as PEFT does.

    Returns:
        ``target_modules`` and ``feedforward_modules`` for PEFT, or nothing.

    Raises:
        ModelError: no keys and values are found.
    """
    if model.config.model_type in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        return {}
    linears = _linears(model)
    attention = {
        name
        for name in linears
        if _KEY_OR_VALUE.fullmatch(last := name.rpartition(".")[2]) or _ALL_IN_ONE.fullmatch(last)
    }
    if not attention:
        raise ModelError(
            f"no keys and values are found in {type(model).__name__} for IA³ to scale",
            hint="choose another --finetune-mode",
        )
    hidden = model.config.hidden_size
    feedforward = {
        name
        for name, module in linears.items()
        if re.search(r"\.\d+\.", name) and "att" not in name.lower()
        if _sizes(module)[0] != hidden == _sizes(module)[1]
    }
    targets = endings(model, attention | feedforward)
    return {"target_modules": targets, "feedforward_modules": endings(model, feedforward)}


def endings(model: Any, wanted: set[str]) -> list[str]:
    """Shortest name endings that match every module in ``wanted`` and no other, sorted."""
    others = {name for name, _ in model.named_modules()} - wanted
    found: set[str] = set()
    for name in wanted:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            ending = ".".join(parts[-length:])
            if not any(other == ending or other.endswith(f".{ending}") for other in others):
                found.add(ending)
                break
    return sorted(found)


def _linears(model: Any) -> dict[str, nn.Module]:
    """The linear layers outside the head, by name."""
    heads = tuple(f"{name}." for name in head_modules(model))
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not f"{name}.".startswith(heads)
    }


def _sizes(module: Any) -> tuple[int, int]:
    """Inputs and outputs."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return module.in_features, module.out_features
