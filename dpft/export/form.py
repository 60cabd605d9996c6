"""What a folder of some format is: how it is written, loaded afresh, and described."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor

from dpft.export import snippets
from dpft.export.source import RestoredRun
from dpft.export.verify import SHAPE

__all__ = ["EXACT", "MERGED", "PEFT", "TRANSFORMERS", "Form"]

EXACT = 1e-5
"""Largest absolute logit difference where an export holds the very tensors of the run."""

MERGED = 1e-4
"""The same for merged weights, times the largest absolute logit of the run (at least 1): float32 rounds
``(W + ΔW) x`` and ``W x + ΔW x`` differently."""

PEFT, TRANSFORMERS = "peft>=0.18", "transformers>=5.0"
"""The oldest versions that load what is exported, as pip's requirements."""


class Form(ABC):
    """One way to lay out an export.

    Attributes:
        format: the name in ``tables.EXPORT_FORMATS`` it is made under.
        what: its content, in a noun phrase.
        library: the hub's name of the library that loads it; None where it has none.
        tags: of the card, besides those of every export.
        relation: to the base model, as the hub calls it.
        requires: what loading it needs, as pip's requirements.
        shapes: (rows, tokens) of the batches on which it is compared with the run.
        ends_texts: whether it finds where texts end behind a soft prompt, as the run's own model does.
        remark: what is to be known about loading it.
        opset: of an ONNX file.
    """

    format: str
    what: str
    library: str | None = "transformers"
    tags: tuple[str, ...] = ()
    relation: str = "finetune"
    requires: tuple[str, ...] = ("torch", TRANSFORMERS)
    shapes: tuple[tuple[int, int], ...] = (SHAPE,)
    ends_texts: bool = False
    remark: str = ""
    opset: int | None = None

    @abstractmethod
    def tolerance(self, logits: Tensor) -> float:
        """Largest absolute difference from ``logits``, the run's, that rounding explains."""

    @abstractmethod
    def write(self, run: RestoredRun, folder: Path) -> None:
        """Write model files into ``folder``, which is empty; ``run.model`` is used up."""

    @abstractmethod
    def load(self, run: RestoredRun, folder: Path) -> Any:
        """Load ``folder`` as :meth:`loading` says, with plain libraries; ``run.model`` has no part in it."""

    @abstractmethod
    def loading(self, run: RestoredRun) -> list[str]:
        """Lines of Python that load tokenizer and model; ``folder`` is "." there."""

    def shorter(self, run: RestoredRun) -> list[str]:
        """Other lines that do the same; empty if there are none."""
        return []

    def using(self, run: RestoredRun) -> list[str]:
        """Lines of Python that ask what :meth:`loading` made for a ``label``."""
        source = run.source
        return snippets.label_lines(is_pair=source.is_pair, max_length=source.spec.data.max_length)

    def check(self) -> None:  # noqa: B027  # most forms need nothing more
        """Raise where the form cannot be made here; before anything is loaded.

        Raises:
            UsageError: a package is missing.
        """
