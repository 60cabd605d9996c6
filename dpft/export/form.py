"""What a folder of some format is: how it is written, loaded afresh, and described."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor

from dpft.export.source import RestoredRun

__all__ = ["EXACT", "MERGED", "Form"]

EXACT = 1e-5
"""Largest absolute logit difference where an export holds the very tensors of the run."""

MERGED = 1e-4
"""The same for merged weights, times the largest absolute logit of the run (at least 1): float32 rounds
``(W + ΔW) x`` and ``W x + ΔW x`` differently."""


class Form(ABC):
    """One way to lay out an export.

    Attributes:
        format: the name in ``tables.EXPORT_FORMATS`` it is made under.
        what: its content, in a noun phrase.
        remark: what is to be known about loading it.
    """

    format: str
    what: str
    remark: str = ""

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
