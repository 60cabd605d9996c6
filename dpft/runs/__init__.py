"""The store of runs: folders, index, references, manifests. Imports no machine learning library.

Names are imported when they are first asked for, so that ``import dpft.runs`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpft.runs.active import ActiveRun as ActiveRun
    from dpft.runs.files import FileEntry as FileEntry
    from dpft.runs.ledger import Ledger as Ledger
    from dpft.runs.manifest import Manifest as Manifest
    from dpft.runs.manifest import safetensors_header as safetensors_header
    from dpft.runs.record import RunRecord as RunRecord
    from dpft.runs.registry import Registry as Registry
    from dpft.runs.secret import keyed_fingerprint as keyed_fingerprint
    from dpft.runs.statement import statement_for as statement_for
    from dpft.runs.store import Store as Store

_HOMES = {
    "ActiveRun": "active",
    "FileEntry": "files",
    "Ledger": "ledger",
    "Manifest": "manifest",
    "Registry": "registry",
    "RunRecord": "record",
    "Store": "store",
    "keyed_fingerprint": "secret",
    "safetensors_header": "manifest",
    "statement_for": "statement",
}

__all__ = [
    "ActiveRun",
    "FileEntry",
    "Ledger",
    "Manifest",
    "Registry",
    "RunRecord",
    "Store",
    "keyed_fingerprint",
    "safetensors_header",
    "statement_for",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
