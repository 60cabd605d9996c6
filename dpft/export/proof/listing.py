"""``files.json``: every file is there as it was written, and no weights beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from dpft.export.proof.report import Check, outcome
from dpft.export.proof.subject import Subject
from dpft.runs.confine import check_relative_name, read_json, shown
from dpft.runs.files import CHECKPOINTS, LOCAL_ONLY, sha256_file
from dpft.runs.seal import DIGESTS

__all__ = ["listing_checks"]

_WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".onnx", ".h5",
    ".msgpack", ".gguf", ".joblib",
)  # fmt: skip
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")


def listing_checks(subject: Subject) -> Iterator[Check]:
    """The digests of the folder, and in a run those of its adapter too."""
    yield _check("files", subject.folder, subject.names)
    if subject.is_run and subject.weights_names:
        yield _check("adapter files", subject.weights_folder, subject.weights_names)


def _check(name: str, folder: Path, names: Collection[str]) -> Check:
    if DIGESTS not in names:
        return Check(name, False, f"there is no {DIGESTS} to hold the files against")
    return outcome(name, f"every file that {DIGESTS} lists is as it was written", _problems(folder, names))


def _problems(folder: Path, names: Collection[str]) -> Iterator[str]:
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
        if name.endswith(_PICKLED):
            yield f"{shown(name)} may run code when it is loaded"
    for name in names:
        apart = {LOCAL_ONLY, CHECKPOINTS} & set(name.split("/")[:-1])
        if name not in listed and name.endswith(_WEIGHTS) and not apart:
            yield f"{shown(name)} holds weights that nobody speaks for"
    if not listed and any(name.endswith(_WEIGHTS) for name in names):
        yield f"{DIGESTS} lists nothing"


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"name", "sha256", "size"}
        and isinstance(entry["name"], str)
        and isinstance(entry["sha256"], str)
        and type(entry["size"]) is int
    )
