"""The tables a newcomer adds a line to: a name, and where its implementation lives.

A table knows its names without importing anything, so that ``--help``, completion and error texts are cheap;
an entry is imported when it is asked for. The contract suites in ``tests/contract`` run over every name.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from dpft.errors import UsageError

__all__ = [
    "ACCOUNTANTS",
    "BUILTIN_MODELS",
    "CLIPPERS",
    "ENGINES",
    "EXPORT_FORMATS",
    "MODES",
    "REPORT_FORMATS",
    "RULES",
    "TASKS",
    "Table",
]

T = TypeVar("T")


class Table(Generic[T]):
    """Names to lazily imported values.

    Args:
        kind: what an entry is, for error texts ("fine-tune mode").
        entries: name to ``"module:attribute"``.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def names(self) -> tuple[str, ...]:
        """All names, in the table's order."""
        return tuple(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def check(self, name: str) -> str:
        """Return ``name`` if it is in the table.

        Raises:
            UsageError: it is not; the hint lists the names, nearest first.
        """
        if name in self._entries:
            return name
        nearest = difflib.get_close_matches(name, self._entries, n=1)
        question = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise UsageError(
            f"unknown {self.kind} {name!r}", hint=f"{question}choose one of: {', '.join(self._entries)}"
        )

    def get(self, name: str) -> T:
        """Import and return the entry called ``name``.

        Raises:
            UsageError: there is no such entry.
        """
        module, _, attribute = self._entries[self.check(name)].partition(":")
        value: T = getattr(importlib.import_module(module), attribute)
        return value


TASKS: Table[Any] = Table(
    "dataset",
    {
        "sst2": "dpft.data.tasks.sst2:TASK",
        "qnli": "dpft.data.tasks.qnli:TASK",
        "qqp": "dpft.data.tasks.qqp:TASK",
        "mnli": "dpft.data.tasks.mnli:TASK",
        "demo": "dpft.data.tasks.demo:TASK",
    },
)

MODES: Table[Any] = Table(
    "fine-tune mode",
    {
        "full": "dpft.tuning.full:MODE",
        "last-layer": "dpft.tuning.last_layer:MODE",
        "lora": "dpft.tuning.lora:MODE",
        "ia3": "dpft.tuning.ia3:MODE",
        "prefix": "dpft.tuning.prefix:MODE",
        "soft-prompt": "dpft.tuning.soft_prompt:MODE",
        "soft-prompt+lora": "dpft.tuning.soft_prompt_lora:MODE",
        "prefix+lora": "dpft.tuning.prefix_lora:MODE",
    },
)

BUILTIN_MODELS: Table[Any] = Table("built-in model", {"minilm": "dpft.tuning.builtin:minilm"})

ENGINES: Table[Any] = Table(
    "engine",
    {
        "dpft": "dpft.engines.bookkeeping:ENGINE",
        "opacus": "dpft.engines.opacus:ENGINE",
        "private-transformers": "dpft.engines.private_transformers:ENGINE",
    },
)

RULES: Table[Any] = Table(
    "layer rule",
    {
        "linear": "dpft.privacy.rules.linear:RULE",
        "embedding": "dpft.privacy.rules.embedding:RULE",
        "lookup": "dpft.privacy.rules.lookup:RULE",
        "conv1d": "dpft.privacy.rules.conv1d:RULE",
        "layer-norm": "dpft.privacy.rules.norm:RULE",
        "rms-norm": "dpft.privacy.rules.rms_norm:RULE",
        "ia3-scale": "dpft.privacy.rules.scale:RULE",
        "re-execution": "dpft.privacy.rules.reexecution:RULE",  # last: of what no other rule knows
    },
)

CLIPPERS: Table[Any] = Table(
    "clipping",
    {
        "flat": "dpft.privacy.clipping.flat:FlatClipper",
        "automatic": "dpft.privacy.clipping.automatic:AutomaticClipper",
        "per-layer": "dpft.privacy.clipping.per_layer:PerLayerClipper",
    },
)

ACCOUNTANTS: Table[Any] = Table(
    "accountant", {"pld": "dpft.accounting.pld:PLD", "rdp": "dpft.accounting.rdp:RDP"}
)

EXPORT_FORMATS: Table[Any] = Table(
    "export format",
    {
        "peft": "dpft.export.peft:export",
        "merged": "dpft.export.merged:export",
        "onnx": "dpft.export.onnx:export",
    },
)

REPORT_FORMATS: Table[Any] = Table(
    "report format", {"html": "dpft.report.html:render", "md": "dpft.report.markdown:render"}
)
