"""Where an export may go."""

from __future__ import annotations

from pathlib import Path

from dpft.errors import UsageError
from dpft.export.source import Source

__all__ = ["check_place"]


def check_place(output: Path, source: Source, *, overwrite: bool) -> None:
    """Refuse a place where publishing would lose something.

    Only an earlier export is ever replaced: a folder is replaced as a whole, and whatever else is in it
    would be gone.

    Args:
        output: absolute, links resolved.
        source: the run; its store and its base model must stay as they are.
        overwrite: whether an earlier export may be replaced.

    Raises:
        UsageError: a name with control characters, a file, a folder with content that may not be replaced, or
            a place in or around the store or the base model.
    """
    if not output.name.isprintable():
        raise UsageError(
            f"cannot export to {str(output)!r}: its name holds control characters",
            hint="choose another --output",
        )
    home = source.store_home.resolve()
    if output.is_relative_to(home) or home.is_relative_to(output):
        raise UsageError(
            f"cannot export to {output}: the store of runs is at {home}",
            hint="choose an --output outside of the store",
        )
    if source.base.local and Path(source.base.source).resolve().is_relative_to(output):
        raise UsageError(
            f"cannot export to {output}: the run's base model is there",
            hint="choose another --output",
        )
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"cannot export to {output}: it is a file", hint="choose another --output")
    if not any(output.iterdir()):
        return
    if not (output / "privacy.json").is_file():
        raise UsageError(
            f"{output} is not empty, and no earlier export",
            hint="choose another --output; --overwrite replaces earlier exports only",
        )
    if not overwrite:
        raise UsageError(
            f"{output} holds an earlier export",
            hint="choose another --output, or replace it with --overwrite",
        )
