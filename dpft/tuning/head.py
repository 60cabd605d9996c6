"""The classification head: everything between the encoder's hidden states and the logits.

That is the classifier with whatever feeds it (a pooler inside the backbone, RoBERTa's and ELECTRA's dense
layer, DistilBERT's ``pre_classifier``). It is new for every task, so every mode trains it and saves it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["head_modules", "head_parameters"]


def head_modules(model: Any) -> list[str]:
    """Qualified names of the head's modules, in the model's order.

    Args:
        model: a plain ``transformers`` sequence-classification model.
    """
    prefix = model.base_model_prefix
    names = []
    backbone = getattr(model, prefix)
    if any(True for _ in getattr(getattr(backbone, "pooler", None), "parameters", list)()):
        names.append(f"{prefix}.pooler")
    for name, child in model.named_children():
        if name != prefix and any(True for _ in child.parameters()):
            names.append(name)
    return names


def head_parameters(model: Any) -> set[str]:
    """Qualified names of the head's parameters."""
    modules = head_modules(model)
    return {
        name
        for name, _ in model.named_parameters()
        if any(name.startswith(f"{module}.") for module in modules)
    }
