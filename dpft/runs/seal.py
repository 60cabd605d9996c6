"""What makes a folder of weights speak for itself: its manifest, and the digests of its files."""

from __future__ import annotations

from pathlib import Path

from dpft.runs.files import file_table, write_atomic, write_json_atomic
from dpft.runs.schema import SCHEMA_VERSION

__all__ = ["DIGESTS", "MANIFEST", "seal"]

MANIFEST = "privacy.json"
DIGESTS = "files.json"


def seal(folder: Path, manifest: str | bytes) -> None:
    """Put a manifest into a folder that is otherwise finished, and list the digests of all its files.

    An adapter that is copied out of its run, and an export, can then be verified alone. The manifest names
    the tensors' hash, and the header of the weights the manifest's, so that neither can be exchanged alone;
    ``files.json`` covers everything, itself left out.

    Args:
        folder: not published yet.
        manifest: the text of ``privacy.json``, as the run has it.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    write_atomic(folder / MANIFEST, manifest)
    table = [entry.to_json() for entry in file_table(folder, exclude={DIGESTS})]
    write_json_atomic(folder / DIGESTS, {"schema_version": SCHEMA_VERSION, "files": table})
