"""``files.json``: every file is there as it was written, and nothing beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from dpft.export.proof.known import unknown_files
from dpft.export.proof.report import Check, outcome
from dpft.export.proof.subject import Subject
from dpft.runs.confine import check_relative_name, read_json, shown
from dpft.runs.files import CHECKPOINTS, LOCAL_ONLY, sha256_file
from dpft.runs.layout import PICKLED, WEIGHTS, stray_weights
from dpft.runs.seal import DIGESTS

__all__ = ["listing_checks"]


def listing_checks(subject: Subject) -> Iterator[Check]:
    """The digests of the folder, and in a run those of its adapter too."""
    if not subject.is_run:
        yield _check(subject, "files", subject.folder, subject.names, sealed=True)
        return
    yield _check(subject, "files", subject.folder, subject.names, sealed=False)
    if subject.weights_names:
        yield _check(subject, "adapter files", subject.weights_folder, subject.weights_names, sealed=True)


def _check(subject: Subject, name: str, folder: Path, names: Collection[str], *, sealed: bool) -> Check:
    if DIGESTS not in names:
        return Check(name, False, f"there is no {DIGESTS} to hold the files against")
    good = f"every file that {DIGESTS} lists is as it was written"
    good += ", and there is no other" if sealed else ", and no weights lie elsewhere"
    return outcome(name, good, _problems(subject, folder, names, sealed=sealed))


def _problems(subject: Subject, folder: Path, names: Collection[str], *, sealed: bool) -> Iterator[str]:
    document = read_json(folder / DIGESTS)
    entries = document.get("files") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        yield f"{DIGESTS} is no list of names, digests and sizes"
        return
    listed = {check_relative_name(entry["name"], DIGESTS): entry for entry in entries}
    if len(listed) != len(entries):
        yield f"{DIGESTS} lists a file twice"
    for name, entry in listed.items():
        if name not in names:
            yield f"{shown(name)} is missing"
        elif (folder / name).stat().st_size != entry["size"] or sha256_file(folder / name) != entry["sha256"]:
            yield f"{shown(name)} is not as it was written"
        if name.endswith(PICKLED):
            yield f"{shown(name)} may run code when it is loaded"
    if sealed:
        yield from unknown_files(folder, names, listed, whole_model=subject.kind == "model")
    else:
        for name in stray_weights(names):
            yield f"{shown(name)} is not where a run has weights, and is what a library might load"
        for name in names:
            apart = {LOCAL_ONLY, CHECKPOINTS} & set(name.split("/")[:-1])
            if name not in listed and name.endswith(WEIGHTS) and not apart and not name.startswith("."):
                yield f"{shown(name)} holds weights that nobody speaks for"
    if not listed and any(name.endswith(WEIGHTS) for name in names):
        yield f"{DIGESTS} lists nothing"


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"name", "sha256", "size"}
        and isinstance(entry["name"], str)
        and isinstance(entry["sha256"], str)
        and type(entry["size"]) is int
    )
