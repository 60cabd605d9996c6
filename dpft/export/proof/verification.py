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
from dpft.runs.confine import shown
from dpft.runs.manifest import manifest_sha256
from dpft.runs.record import RunRecord

__all__ = ["verify"]

_UNREAD = "not looked at, for the manifest cannot be read"


def verify(
    folder: Path, record: RunRecord | None = None, *, expect_sha256: str | None = None
) -> Verification:
    """Check a run's folder, an adapter, or an export, from its files alone.

    Nothing is loaded as a model, no network is used, and no store: only ``record`` comes from one.

    Args:
        folder: with ``privacy.json`` in it.
        record: the registry's row of the run, where it was reached by one.
        expect_sha256: the manifest's digest as whoever published it tells it, by another way. Without one, a
            manifest that was rewritten with all that rests on it cannot be told from an honest one.

    Returns:
        Every check, in order. A folder whose manifest cannot be read has fewer, and fails.

    Raises:
        NotFoundError: no such folder, or no manifest in it.
        UntrustedError: a folder with links, devices, or very many files.
    """
    subject = open_subject(folder)
    checks = tuple(_checks(subject, record))
    manifest = subject.manifest
    digest = manifest_sha256(subject.document) if manifest and subject.document else None
    if expect_sha256 is not None:
        checks = (_published(digest, expect_sha256), *checks)
    return Verification(
        path=folder,
        kind=subject.kind,
        run_id=manifest.identity.run_id if manifest else None,
        statement=manifest.statement if manifest else None,
        checks=checks,
        manifest_sha256=digest,
    )


def _published(found: str | None, expected: str) -> Check:
    if found is not None and found == expected.strip().lower():
        return Check("published digest", True, "the manifest is the one that was expected")
    return Check("published digest", False, f"the manifest's SHA-256 is {found}, not {shown(expected)}")


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
