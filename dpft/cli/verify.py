"""``dpft verify``: recompute what a run, an adapter or an export claims, from its files alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpft.cli import options
from dpft.cli.complete import run_references
from dpft.errors import AmbiguousError, NotFoundError, PrivacyError, UsageError

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord

__all__ = ["EXAMPLE", "verify"]

EXAMPLE = "Examples: [cyan]dpft verify ./my-adapter[/cyan], [cyan]dpft verify @latest --json[/cyan]"

Target = Annotated[
    str,
    typer.Argument(
        metavar="PATH|RUN",
        help="A folder with a privacy.json in it (an adapter, an export, a run's directory), or a run.",
        show_default=False,
        autocompletion=run_references,
    ),
]


ExpectSha256 = Annotated[
    str | None,
    typer.Option(
        "--expect-sha256",
        metavar="DIGEST",
        help="SHA-256 of the manifest, as its publisher tells it elsewhere; any other fails.",
        show_default=False,
    ),
]


def verify(
    target: Target,
    expect_sha256: ExpectSha256 = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Recompute ε from the recorded events, and check that manifest, weights and card belong together.

    A folder is verified offline, without the store. Exit code 4 says that something does not hold. It proves
    arithmetic and integrity, not that training was honest, nor who wrote the manifest: for that, compare its
    SHA-256 with one published elsewhere (--expect-sha256).
    """
    from dpft.cli import render

    folder, record = _find(target)
    from dpft.cli.views import verify as view
    from dpft.export.proof import verify as check

    found = check(folder, record, expect_sha256=_digest(expect_sha256))
    if as_json:
        render.document(found.to_json())
    elif quiet:
        render.ids([found.run_id] if found.run_id and found.ok else [])
    else:
        view.verification(found, record.name if record else "")
    if not found.ok:
        raise typer.Exit(PrivacyError.exit_code)


def _digest(given: str | None) -> str | None:
    """A digest, as hex.

    Raises:
        UsageError: it is none.
    """
    digest = None if given is None else given.strip().lower()
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
        raise UsageError(
            f"--expect-sha256 {given!r} is no SHA-256",
            hint="give the 64 hex characters that 'dpft verify' prints of the honest manifest",
        )
    return digest


def _find(target: str) -> tuple[Path, RunRecord | None]:
    """What is named: by a path, a folder; else a run, and a folder where there is no such run.

    Raises:
        NotFoundError: neither.
        AmbiguousError: several runs are meant.
    """
    from dpft.runs.store import Store

    folder = Path(target).expanduser()
    if target.startswith((".", "~")) or len(folder.parts) != 1:
        if not folder.is_dir():
            raise NotFoundError(f"no folder {target!r}", hint="give a folder with a privacy.json in it")
        return folder.resolve(), None
    try:
        record = Store().resolve(target)
    except AmbiguousError:
        raise
    except NotFoundError:
        if not folder.is_dir():
            raise
        return folder.resolve(), None
    return record.run_dir, record
