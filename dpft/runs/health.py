"""Whether the store is in order: places, registry, ledgers. Nothing is mended but torn ends of ledgers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dpft.errors import DpftError, LockedError, PrivacyError, StoreError
from dpft.runs import paths
from dpft.runs.ledger import Ledger
from dpft.runs.record import load_record
from dpft.runs.registry import Registry

__all__ = ["Check", "attempt", "check_store"]

_REINDEX = "'dpft doctor --reindex' writes the registry anew from the run folders"
_LITTLE = 1 << 30  # bytes on the disk: a run with checkpoints of a small model


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: a word.
        ok: None where it could not be tried.
        detail: what was found, in one line.
        hint: the remedy, where it is not in order.
        private: whether a guarantee could not be given if this fails.
    """

    name: str
    ok: bool | None
    detail: str
    hint: str = ""
    private: bool = False


def attempt(name: str, look: Callable[[], str], *, private: bool = False) -> Check:
    """Look, and turn a refusal into a finding.

    Args:
        name: the check's.
        look: says what it found, or raises an error of ours.
        private: see :class:`Check`.
    """
    try:
        return Check(name, True, look(), private=private)
    except LockedError as error:
        return Check(name, None, error.message, error.hint, private)
    except DpftError as error:
        return Check(name, False, error.message, error.hint, private or isinstance(error, PrivacyError))


def check_store(home: Path) -> list[Check]:
    """Look at the places, the registry and the ledgers of ``home``."""
    return [
        attempt("places", lambda: _places(home)),
        attempt("registry", lambda: _registry(home)),
        attempt("ledger", lambda: _ledgers(home), private=True),
    ]


def _places(home: Path) -> str:
    for name, folder in (("DPFT_HOME", home), ("DPFT_CACHE", paths.cache())):
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"dpft")
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise StoreError(
                f"{name} cannot be written: {folder}: {error.strerror}",
                hint=f"check its owner and permissions, or set {name} to another folder",
            ) from error
        if free < _LITTLE:
            raise StoreError(
                f"{name} has {free >> 20} MiB left on its disk", hint=f"make room, or move {name}"
            )
    return f"DPFT_HOME and DPFT_CACHE can be written; {free >> 30} GiB free"


def _registry(home: Path) -> str:
    registry = Registry(home)
    damage = registry.damage()
    if damage is not None:
        raise StoreError(f"the registry is {damage}", hint=_REINDEX)
    indexed = {record.run_id for record in registry.records()}
    folders = {path.parent.name: path.parent for path in (home / "runs").glob("*/run.json")}
    for folder in folders.values():
        load_record(folder)
    missing, lost = sorted(folders.keys() - indexed), sorted(indexed - folders.keys())
    if missing or lost:
        unknown = f"{len(missing)} run folders are not in it" if missing else ""
        gone = f"{len(lost)} of its runs have no folder" if lost else ""
        raise StoreError(
            f"the registry is stale: {' and '.join(filter(None, (unknown, gone)))}", hint=_REINDEX
        )
    return f"{len(indexed)} runs, each with its folder"


def _ledgers(home: Path) -> str:
    torn: list[str] = []
    ledger = Ledger(home, warn=torn.append, lock_timeout=1.0)
    charges = [entry for fingerprint in ledger.fingerprints() for entry in ledger.entries(fingerprint)]
    told = f"; {torn[0]}" if torn else ""
    return f"{len(ledger.fingerprints())} datasets, {len(charges)} charges, chains whole{told}"
