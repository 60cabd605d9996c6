"""The weights: their hash, their shapes, and what their header says."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpft.export.proof.report import OWN_HEADER_ONLY, Check, outcome
from dpft.export.proof.subject import Subject
from dpft.runs.confine import open_regular, parse_json, shown
from dpft.runs.manifest import Manifest, safetensors_header
from dpft.runs.tensors import Header
from dpft.tables import EXPORT_FORMATS

__all__ = ["tensors_sha256_of_files", "weights_checks"]

_CHUNK = 1 << 22
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_CONTAINERS = {"base_model", "model", "default", "modules_to_save"}
_PLAIN = "trained_parameters.safetensors"  # what an adapter of a mode without a PEFT form is hashed under


def tensors_sha256_of_files(
    folder: Path, headers: Mapping[str, Header], named: Mapping[tuple[str, str], str] | None = None
) -> str:
    """The hash that ``tuning.files.adapter_sha256`` makes of the same files, without loading a tensor.

    Args:
        folder: of the files.
        headers: by file name.
        named: (file, tensor) pairs to take, and the names to hash them under; None for all, under
            ``file:tensor``.

    Raises:
        UntrustedError: a file that cannot be read.
    """
    if named is None:
        named = {(file, tensor): f"{file}:{tensor}" for file in headers for tensor in headers[file].tensors}
    digest = hashlib.sha256()
    for (file, tensor), name in sorted(named.items(), key=lambda item: item[1]):
        entry = headers[file].tensors[tensor]
        digest.update(f"{name}\ntorch.{_DTYPES[entry.dtype]}\n{list(entry.shape)}\n".encode())
        with open_regular(folder / file) as stream:
            stream.seek(headers[file].data_start + entry.begin)
            left = entry.end - entry.begin
            while left and (piece := stream.read(min(left, _CHUNK))):
                digest.update(piece)
                left -= len(piece)
        digest.update(b"\n")
    return digest.hexdigest()


def weights_checks(subject: Subject) -> Iterator[Check]:
    """Tensors against the manifest, and every header against it."""
    manifest = subject.manifest
    assert manifest is not None
    if not manifest.evidence.tensors_sha256 and not subject.weights_names:
        yield Check("tensors", True, "none were released")
        return
    yield outcome("header", "the weights carry the manifest's own digest and numbers", _headers(subject))
    if _is_whole(subject):
        good = OWN_HEADER_ONLY
        if _trained_in(subject.headers, manifest):
            good = f"the trained ones are those whose hash the manifest has; all others are {good}"
        yield outcome("tensors", good, _whole_model(subject, manifest))
        yield outcome(
            "shapes", "no trained parameter has another shape than the manifest lists", _shapes(subject)
        )
        return
    yield outcome("tensors", "the tensors are those whose hash the manifest has", _adapter(subject, manifest))
    yield outcome("shapes", "they are the trained parameters that the manifest lists", _shapes(subject))


def _is_whole(subject: Subject) -> bool:
    return subject.kind == "model"


def _adapter(subject: Subject, manifest: Manifest) -> Iterator[str]:
    headers, stated = subject.headers, manifest.evidence.tensors_sha256
    if subject.graphs:
        yield f"an adapter has no {shown(sorted(subject.graphs))}"
    if not headers:
        yield "there is no safetensors file"
    elif stated is None:
        yield "the manifest has no hash of the tensors that are here"
    else:
        found = tensors_sha256_of_files(subject.weights_folder, headers)
        if found != stated:
            yield f"the tensors hash to {found[:12]}…, the manifest has {stated[:12]}…"


def _whole_model(subject: Subject, manifest: Manifest) -> Iterator[str]:
    headers, folder = subject.headers, subject.weights_folder
    stated = manifest.evidence.tensors_sha256
    if subject.graphs:
        yield from _graphs(subject)
        return
    if not headers:
        yield "there is no safetensors file"
    elif stated is None:
        yield "the manifest has no hash of the tensors that this was made from"
    else:
        told = (_export_of(subject) or {}).get("tensors_sha256")
        found = tensors_sha256_of_files(folder, headers)
        if found != told:
            yield f"the tensors hash to {found[:12]}…, their header has {shown(told)}"
        trained = _trained_in(headers, manifest)
        if trained and tensors_sha256_of_files(folder, headers, trained) != stated:
            yield "the trained tensors in this model are not those whose hash the manifest has"


def _graphs(subject: Subject) -> Iterator[str]:
    """An ONNX file's digest, all but its statement, is the one that stands in the statement."""
    if len(subject.graphs) != 1 or subject.headers:
        yield f"there are several models: {shown(sorted([*subject.graphs, *subject.headers]))}"
    if subject.manifest is not None and subject.manifest.evidence.tensors_sha256 is None:
        yield "the manifest has no hash of the tensors that this was made from"
    for name, graph in subject.graphs.items():
        export = _parsed(graph.metadata).get("export")
        told = export.get("model_sha256") if isinstance(export, dict) else None
        if graph.sha256 != told:
            yield f"{name} hashes to {graph.sha256[:12]}…, its statement has {shown(told)}"


def _export_of(subject: Subject) -> Mapping[str, Any] | None:
    """What the statement of a whole model says of its making; None for an adapter."""
    for metadata in subject.statements.values():
        export = _parsed(metadata).get("export")
        if export is not None:
            return export if isinstance(export, dict) else {}
    return None


def _trained_in(headers: Mapping[str, Header], manifest: Manifest) -> dict[tuple[str, str], str]:
    """Where a whole model holds the trained tensors as they are; empty where they were merged."""
    place = {tensor: file for file in headers for tensor in headers[file].tensors}
    names = [parameter.name for parameter in manifest.mechanism.trainable_parameters]
    if not all(name in place for name in names):
        return {}
    return {(place[name], name): f"{_PLAIN}:{name}" for name in names}


def _headers(subject: Subject) -> Iterator[str]:
    manifest, document = subject.manifest, subject.document
    assert manifest is not None
    assert document is not None
    expected = json.loads(safetensors_header(manifest, document))
    for name, metadata in subject.statements.items():
        graph = name in subject.graphs
        beside = {key: value for key, value in metadata.items() if key != "dpft"}
        if "dpft" not in metadata or beside != ({} if graph else {"format": "pt"}):
            yield f"{name} has other metadata than format and dpft: {shown(sorted(metadata))}"
            continue
        found = dict(_parsed(metadata))
        export = found.pop("export", None)
        if export is not None and not _is_whole(subject):
            yield f"the header of {name} is of a whole model, which this is not: {shown(export)}"
        elif _is_whole(subject) and not _is_export(export, graph=graph):
            yield f"the header of {name} says of its export: {shown(export)}"
        for key in sorted(expected.keys() | found.keys()):
            if key not in found or key not in expected or not _same(found[key], expected[key]):
                told, right = shown(found.get(key)), shown(expected.get(key))
                yield f"the header of {name} has {shown(key)} {told}, the manifest makes it {right}"


def _is_export(found: Any, *, graph: bool) -> bool:
    if not isinstance(found, dict):
        return False
    if graph:
        return found.keys() == {"format", "model_sha256"} and found["format"] == "onnx"
    return found.keys() == {"format", "tensors_sha256"} and found["format"] in EXPORT_FORMATS.names()


def _same(one: Any, other: Any) -> bool:
    """Equal, and of one type: 1, 1.0 and true are three things."""
    return type(one) is type(other) and bool(one == other)


def _parsed(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """The header's statement.

    Raises:
        UntrustedError: it is no strict JSON.
    """
    found = parse_json(metadata.get("dpft", "{}").encode(), "the dpft key of a header")
    return found if isinstance(found, dict) else {}


def _saved_as(name: str) -> str:
    """What a parameter and its tensor have in common: PEFT leaves out its own containers when it saves."""
    if name.endswith("prompt_embeddings") or "prompt_encoder." in name:
        return "prompt"
    return ".".join(part for part in name.split(".") if part not in _CONTAINERS)


def _shapes(subject: Subject) -> Iterator[str]:
    manifest = subject.manifest
    assert manifest is not None
    parameters = manifest.mechanism.trainable_parameters
    if not _is_whole(subject):
        wanted = Counter((_saved_as(parameter.name), parameter.shape) for parameter in parameters)
        found = Counter(
            (_saved_as(name), entry.shape)
            for header in subject.headers.values()
            for name, entry in header.tensors.items()
        )
        for name, shape in sorted((wanted - found) + (found - wanted)):
            where = "only the manifest lists" if (name, shape) in wanted else "only the files hold"
            yield f"{where} {shown(name)} {list(shape)}"
        return
    for parameter in parameters:
        for header in subject.headers.values():
            entry = header.tensors.get(parameter.name)
            if entry is not None and entry.shape != parameter.shape:
                here, there = list(entry.shape), list(parameter.shape)
                yield f"{parameter.name} is {here} here and {there} in the manifest"
