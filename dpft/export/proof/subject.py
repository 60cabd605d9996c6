"""What is verified: a folder with a manifest in it, read once and without trusting it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpft.errors import DpftError, NotFoundError
from dpft.runs.confine import list_folder, read_bounded, read_json, shown
from dpft.runs.layout import ADAPTER, is_run
from dpft.runs.manifest import UNJUDGED, Manifest
from dpft.runs.onnx_file import OnnxFile, read_onnx
from dpft.runs.schema import MANIFEST_VERSION
from dpft.runs.seal import MANIFEST
from dpft.runs.tensors import Header, read_header

__all__ = ["TEXT_BYTES", "Subject", "open_subject"]

TEXT_BYTES = 64 << 20
"""The largest text file looked into: tokenizers have some megabytes."""

_ADAPTER_FILES = frozenset(
    {"adapter_config.json", "adapter_model.safetensors", "trained_parameters.safetensors"}
)


@dataclass(frozen=True)
class Subject:
    """A folder that claims something.

    Attributes:
        folder: with ``privacy.json`` in it.
        names: of all files below it.
        document: the manifest's JSON values; None where it is no JSON object.
        manifest: the same as a manifest whose parts may contradict each other; None where it is none.
        problem: why it is none; empty where it is one.
    """

    folder: Path
    names: tuple[str, ...]
    document: Mapping[str, Any] | None
    manifest: Manifest | None
    problem: str

    @property
    def is_run(self) -> bool:
        """Whether this is a run's whole folder, of which some files are not to be shared."""
        return is_run(self.names)

    @property
    def kind(self) -> str:
        """``run``, ``adapter`` or ``model``: what libraries would take it for.

        Any file of an adapter makes it one, whatever lies beside it.
        """
        if self.is_run:
            return "run"
        last = {name.rpartition("/")[2] for name in self.names}
        whole = "config.json" in self.names or any(name.endswith(".onnx") for name in self.names)
        return "model" if whole and not last & _ADAPTER_FILES else "adapter"

    @property
    def weights_folder(self) -> Path:
        """Where the weights are."""
        return self.folder / ADAPTER if self.is_run else self.folder

    @property
    def weights_names(self) -> tuple[str, ...]:
        """Files below the weights' folder, relative to it."""
        if not self.is_run:
            return self.names
        prefix = f"{ADAPTER}/"
        return tuple(name.removeprefix(prefix) for name in self.names if name.startswith(prefix))

    @cached_property
    def headers(self) -> dict[str, Header]:
        """Headers of the safetensors files, by name relative to the weights' folder.

        Raises:
            UntrustedError: one of them is damaged.
        """
        return {
            name: read_header(self.weights_folder / name)
            for name in self.weights_names
            if name.endswith(".safetensors")
        }

    @cached_property
    def graphs(self) -> dict[str, OnnxFile]:
        """ONNX files, by name relative to the weights' folder.

        Raises:
            UntrustedError: one of them is damaged.
        """
        names = [name for name in self.weights_names if name.endswith(".onnx")]
        return {name: read_onnx(self.weights_folder / name) for name in names}

    @property
    def statements(self) -> dict[str, dict[str, str]]:
        """What each weights file says in its metadata, by name."""
        graphs = {name: graph.metadata for name, graph in self.graphs.items()}
        return {name: dict(header.metadata) for name, header in self.headers.items()} | graphs

    def text(self, name: str) -> str:
        """A text of the weights' folder.

        Raises:
            NotFoundError: there is none.
            UntrustedError: it is too large, or cannot be read.
        """
        return read_bounded(self.weights_folder / name, TEXT_BYTES).decode("utf-8", errors="replace")


def open_subject(folder: Path) -> Subject:
    """Look at a folder.

    Raises:
        NotFoundError: there is no such folder, or no manifest in it.
        UntrustedError: links, devices, or too many files.
    """
    names = list_folder(folder)
    if MANIFEST not in names:
        raise NotFoundError(
            f"{folder} has no {MANIFEST}",
            hint="give a run that came to an end, its adapter folder, or an export; see 'dpft list'",
        )
    document, manifest, problem = _read(folder / MANIFEST)
    return Subject(folder, names, document, manifest, problem)


def _of_another_version(document: Mapping[str, Any]) -> str:
    identity = document.get("identity")
    version = identity.get("schema_version") if isinstance(identity, dict) else None
    if version == MANIFEST_VERSION:
        return ""
    return f" (it is of schema {shown(version)}, this dpft checks {MANIFEST_VERSION})"


def _read(path: Path) -> tuple[Mapping[str, Any] | None, Manifest | None, str]:
    try:
        document = read_json(path)
    except DpftError as error:
        return None, None, error.message
    if not isinstance(document, dict):
        return None, None, "it is no JSON object"
    try:
        return document, Manifest.model_validate(document, context=UNJUDGED), ""
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return document, None, f"{where}: {first['msg']}{_of_another_version(document)}"
    except DpftError as error:
        return document, None, error.message
