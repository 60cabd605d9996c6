"""What a fine-tune mode is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpft.errors import UsageError
from dpft.spec import TuningSpec

__all__ = ["Mode", "ModeDefaults", "mark_trainable"]


@dataclass(frozen=True)
class ModeDefaults:
    """Settings that make a mode learn without tuning; chosen by the runs in the README.

    Attributes:
        learning_rate: of AdamW under privacy.
        learning_rate_without_privacy: of AdamW with ``--no-dp``.
        max_grad_norm: clipping norm C.
        num_prepend_tokens: virtual tokens; None where the mode has none.
    """

    learning_rate: float
    learning_rate_without_privacy: float
    max_grad_norm: float
    num_prepend_tokens: int | None = None


class Mode(ABC):
    """One way to fine-tune.

    Attributes:
        name: its name in ``tables.MODES``.
        description: one line for help texts and model cards.
        defaults: settings that learn.
        parts: folders below ``adapter/`` in the order plain PEFT loads them; ``("",)`` for the folder itself,
            empty where the mode has no PEFT form.
        peft_types: PEFT's name of each part's kind, by which an adapter folder is recognised.
    """

    name: str
    description: str
    defaults: ModeDefaults
    parts: tuple[str, ...]
    peft_types: tuple[str, ...] = ()

    @abstractmethod
    def apply(self, model: Any, tuning: TuningSpec) -> Any:
        """Return the model with its trainable parameters marked by ``requires_grad``, all others frozen.

        Args:
            model: a ``transformers`` sequence-classification model; it is changed in place.
            tuning: ranks, prompt lengths.

        Raises:
            ModelError: the architecture has no such mode.
        """

    @abstractmethod
    def save(self, model: Any, directory: Path) -> None:
        """Write what was trained into ``directory``, which exists."""

    @abstractmethod
    def load(self, model: Any, directory: Path) -> Any:
        """Put what :meth:`save` wrote on top of a fresh base model, for inference."""

    def merge(self, model: Any) -> Any:
        """A plain ``transformers`` model that computes the same.

        Raises:
            UsageError: the mode adds computation that a plain model does not have.
        """
        raise UsageError(
            f"{self.name} cannot be merged: its virtual tokens are not weights of the base model",
            hint="export it with --format peft or onnx",
        )


def mark_trainable(model: Any, names: set[str]) -> None:
    """Set ``requires_grad`` on exactly the parameters called ``names``."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
