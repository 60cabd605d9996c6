"""The story of a verification, top to bottom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dpft.export.proof.beside import beside_checks, registry_check
from dpft.export.proof.claims import claim_checks
from dpft.export.proof.content import content_check
from dpft.export.proof.listing import listing_checks
from dpft.export.proof.report import Check, Verification
from dpft.export.proof.subject import Subject, open_subject
from dpft.export.proof.weights import weights_checks
from dpft.runs.record import RunRecord

__all__ = ["verify"]

_UNREAD = "not looked at, for the manifest cannot be read"


def verify(folder: Path, record: RunRecord | None = None) -> Verification:
    """Check a run's folder, an adapter, or an export, from its files alone.

    Nothing is loaded as a model, no network is used, and no store: only ``record`` comes from one.

    Args:
        folder: with ``privacy.json`` in it.
        record: the registry's row of the run, where it was reached by one.

    Returns:
        Every check, in order. A folder whose manifest cannot be read has fewer, and fails.

    Raises:
        NotFoundError: no such folder, or no manifest in it.
        UntrustedError: a folder with links, devices, or very many files.
    """
    subject = open_subject(folder)
    checks = tuple(_checks(subject, record))
    manifest = subject.manifest
    return Verification(
        path=folder,
        kind=subject.kind,
        run_id=manifest.identity.run_id if manifest else None,
        statement=manifest.statement if manifest else None,
        checks=checks,
    )


def _checks(subject: Subject, record: RunRecord | None) -> Iterator[Check]:
    yield from claim_checks(subject)
    if subject.manifest is None:
        yield Check("weights", False, _UNREAD)
    else:
        yield from weights_checks(subject)
        yield from beside_checks(subject)
        if record is not None:
            yield registry_check(record, subject)
    yield from listing_checks(subject)
    yield content_check(subject)
