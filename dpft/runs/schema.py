"""Versions of the store's documents: a newer major is refused, an older one is migrated after a backup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dpft.errors import StoreError
from dpft.runs.files import write_atomic, write_json_atomic

__all__ = [
    "MANIFEST_VERSION",
    "MIGRATIONS",
    "SCHEMA_VERSION",
    "Migration",
    "major",
    "migrate",
    "read_document",
]

SCHEMA_VERSION = "1.0"
"""Of ``run.json``, ``files.json`` and ``registry.json`` as this version writes them."""

MANIFEST_VERSION = "1.3"
"""Of ``privacy.json`` as this version writes it; whatever changes its JSON Schema raises it."""

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: Mapping[str, Migration] = MappingProxyType({})
"""A document's version, and the function that returns it one version later (``schema_version`` too)."""


def major(document: Mapping[str, Any], where: Path) -> int:
    """The major number of a document's ``schema_version``.

    Raises:
        StoreError: it has none, or one that is not ``MAJOR.MINOR``.
    """
    version = document.get("schema_version")
    match = re.fullmatch(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    if match is None:
        raise StoreError(f"{where} has no valid schema_version: {version!r}", hint="restore it from a backup")
    return int(match.group(1))


def migrate(
    document: dict[str, Any], where: Path, migrations: Mapping[str, Migration] = MIGRATIONS
) -> dict[str, Any]:
    """Bring a document to this version's major.

    Args:
        document: as it was read.
        where: its file, for error texts.
        migrations: one step each, keyed by the version they start from.

    Returns:
        ``document`` itself where nothing was to do (a newer minor is read as it is), else the migrated one.

    Raises:
        StoreError: a newer major, or an older one no migration leads on from.
    """
    ours = major({"schema_version": SCHEMA_VERSION}, where)
    while (theirs := major(document, where)) != ours:
        version = document["schema_version"]
        if theirs > ours:
            raise StoreError(
                f"{where} has schema {version}; this dpft reads up to {ours}.x",
                hint="upgrade dpft to open it",
            )
        if version not in migrations:
            raise StoreError(
                f"{where} has schema {version}, which this dpft cannot migrate",
                hint="open it once with the dpft that followed the one that wrote it",
            )
        document = migrations[version](dict(document))
    return document


def read_document(path: Path, migrations: Mapping[str, Migration] = MIGRATIONS) -> dict[str, Any]:
    """Read a versioned JSON document, migrating it in place where it is of an older major.

    The old file is kept beside it as ``<name>.schema-<version>.bak``.

    Raises:
        StoreError: missing, unreadable, or of a version this dpft cannot read.
    """
    try:
        raw = path.read_bytes()
        document = json.loads(raw)
    except OSError as error:
        raise StoreError(f"could not read {path}: {error.strerror}", hint="check that it exists") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not valid JSON", hint="restore it from a backup") from error
    if not isinstance(document, dict):
        raise StoreError(f"{path} does not hold a JSON object", hint="restore it from a backup")
    migrated = migrate(document, path, migrations)
    if migrated is not document:
        backup = path.with_name(f"{path.name}.schema-{document['schema_version']}.bak")
        if not backup.exists():
            write_atomic(backup, raw)
        write_json_atomic(path, migrated)
    return migrated
