"""A folder with a trained adapter in it, from anywhere: what it is, and its model put together.

It may be a run's directory, the ``adapter`` in it, an export, or an adapter that plain PEFT saved. What it
says of itself is a claim: tensors must be those its manifest speaks of, the base model the one it names, and
nothing in it may run code or reach out of it (see ``runs.confine`` and ``tuning.untrusted``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpft.errors import DpftError, ModelError, UntrustedError, UsageError
from dpft.runs.confine import list_folder, parse_json, read_json, shown
from dpft.runs.layout import ADAPTER, is_run, stray_weights
from dpft.runs.manifest import Manifest
from dpft.runs.tensors import read_header
from dpft.spec import ModelSpec, TuningSpec
from dpft.tables import BUILTIN_MODELS, MODES
from dpft.tuning.base import restore
from dpft.tuning.files import adapter_sha256
from dpft.tuning.mode import Mode
from dpft.tuning.plain import TRAINED_TENSORS
from dpft.tuning.untrusted import ADAPTER_CONFIG
from dpft.tuning.whole import MODEL_CONFIG, check_whole_model

__all__ = ["AdapterFolder", "open_folder", "restore_folder"]

_MANIFEST = "privacy.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_GIVE_BASE = "give the base model with -m: a hub id, a folder, or builtin:minilm"


@dataclass(frozen=True)
class AdapterFolder:
    """What a folder says of itself.

    Attributes:
        path: as given.
        adapter: the folder with the tensors.
        mode: the fine-tune mode whose files it holds; None for a whole model.
        tuning: the mode with the sizes in the folder; None for a whole model.
        manifest: its ``privacy.json``, if it has one.
        run_id: of the run it says it is from, if it says so.
        base: the base model it names, if it names one.
    """

    path: Path
    adapter: Path
    mode: Mode | None
    tuning: TuningSpec | None
    manifest: Manifest | None
    run_id: str | None
    base: str | None

    @property
    def name(self) -> str:
        """What to call it."""
        return self.path.resolve().name

    @property
    def virtual_tokens(self) -> int:
        """Positions that the mode takes for itself."""
        return (self.tuning.num_prepend_tokens or 0) if self.tuning is not None else 0

    @property
    def dataset(self) -> str | None:
        """What it was trained on, if it says so."""
        return self.manifest.data.dataset if self.manifest is not None else None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Label names, where it was trained on files of somebody's own and says so."""
        return self.manifest.data.labels if self.manifest is not None else None

    @property
    def max_length(self) -> int | None:
        """Tokens per example in training, if it says so."""
        return self.manifest.data.max_length if self.manifest is not None else None


def open_folder(path: Path) -> AdapterFolder:
    """Look at a folder; no tensor is loaded.

    Args:
        path: a run's directory, its ``adapter``, an export, or a PEFT adapter.

    Raises:
        NotFoundError: there is no such folder.
        UntrustedError: it holds something that no adapter has, or nothing that is one, or one in two places;
            a manifest that is damaged, or speaks of other tensors.
    """
    adapter = path / ADAPTER if _is_run(path) else path
    names = list_folder(adapter)
    manifest = _manifest(path / _MANIFEST)
    mode, configs = _recognise(adapter, names, manifest)
    if mode is not None and manifest is not None:
        _check_manifest(manifest, mode, adapter)
    return AdapterFolder(
        path=path,
        adapter=adapter,
        mode=mode,
        tuning=_tuning(mode, configs),
        manifest=manifest,
        run_id=manifest.identity.run_id if manifest is not None else _run_id(adapter, names),
        base=_base(manifest, configs),
    )


def _is_run(path: Path) -> bool:
    """Whether the adapter is in ``adapter/``; whatever else could be taken for it is refused.

    Raises:
        NotFoundError, UntrustedError: as :func:`open_folder`.
    """
    names = list_folder(path)
    if not is_run(names):
        return False
    stray = stray_weights(names)
    if stray:
        raise UntrustedError(
            f"{path} is a run's directory, and has {shown(stray[0])} where no run has it",
            hint="take it out, or give the adapter's folder itself",
        )
    return True


def restore_folder(
    folder: AdapterFolder, given: ModelSpec | None, labels: Sequence[str]
) -> tuple[Any, Any, ModelSpec]:
    """The folder's model, and its tokenizer.

    Args:
        folder: from :func:`open_folder`.
        given: the base model that the user names; None to take the one that the folder names.
        labels: label names in order.

    Returns:
        Model in eval mode, tokenizer, and the base model that it was put on.

    Raises:
        UsageError: the folder names no base model that can be looked for, or has other labels.
        ModelError: the base model is not the one that was trained on.
        HubError: it is out of reach.
        UntrustedError: the files do not fit it.
    """
    if folder.mode is None or folder.tuning is None:
        return _restore_whole(folder, given, labels)
    spec = given if given is not None else _find_base(folder)
    stated = folder.manifest.base_model.sha256 if folder.manifest is not None else None
    model, tokenizer = restore(spec, folder.tuning, labels, folder.adapter, base_sha256=stated)
    return model, tokenizer, spec


def _restore_whole(
    folder: AdapterFolder, given: ModelSpec | None, labels: Sequence[str]
) -> tuple[Any, Any, ModelSpec]:
    from dpft.tuning.base import load_model, load_tokenizer

    if given is not None:
        raise UsageError(f"{folder.path} is a whole model: it has no base", hint="leave out -m")
    found = check_whole_model(folder.adapter)
    if found != tuple(labels):
        raise UsageError(
            f"the model answers {shown('/'.join(found))}, the dataset asks for {'/'.join(labels)}",
            hint="score it on the dataset it was trained on (-d)",
        )
    spec = ModelSpec(checkpoint=str(folder.adapter.absolute()))
    tokenizer = load_tokenizer(spec)
    return load_model(spec, labels, tokenizer.pad_token_id), tokenizer, spec


def _manifest(path: Path) -> Manifest | None:
    if not path.is_file() and not path.is_symlink():
        return None
    document = read_json(path)
    try:
        return Manifest.model_validate(document)
    except (ValidationError, DpftError) as error:
        raise UntrustedError(
            f"{path} is no manifest that this dpft can read", hint="restore it, or take it out of the folder"
        ) from error


def _recognise(
    adapter: Path, names: Sequence[str], manifest: Manifest | None
) -> tuple[Mode | None, list[dict[str, Any]]]:
    """The mode whose files are there, and their configurations in the order of its parts."""
    modes: list[Mode] = [MODES.get(name) for name in MODES]
    for mode in modes:
        files = [f"{part}/{ADAPTER_CONFIG}".removeprefix("/") for part in mode.parts]
        if not files or not set(files) <= set(names):
            continue
        configs = [read_json(adapter / file) for file in files]
        kinds = tuple(config.get("peft_type") if isinstance(config, dict) else None for config in configs)
        if kinds == mode.peft_types:
            return mode, configs
    if TRAINED_TENSORS in names:
        plain = [mode.name for mode in modes if not mode.parts]
        stated = manifest.mechanism.finetune_mode if manifest is not None else None
        if stated not in plain:
            raise UntrustedError(
                f"nothing in {adapter} says which parameters {TRAINED_TENSORS} holds",
                hint="give the run's directory, with its privacy.json, or an export of the run",
            )
        return MODES.get(stated), []
    if MODEL_CONFIG in names:
        return None, []
    known = ", ".join(sorted({kind for mode in modes for kind in mode.peft_types}))
    raise UntrustedError(
        f"{adapter} holds no adapter of a mode of dpft ({known}), and no whole model",
        hint="give a run's directory, its adapter folder, or an export",
    )


def _tuning(mode: Mode | None, configs: Sequence[dict[str, Any]]) -> TuningSpec | None:
    if mode is None:
        return None
    given = [config.get("num_virtual_tokens") for config in configs]
    tokens = [count for count in given if count is not None]
    try:
        return TuningSpec(mode=mode.name, num_prepend_tokens=tokens[0] if tokens else None)
    except ValidationError as error:
        raise UntrustedError(
            f"{ADAPTER_CONFIG} sets num_virtual_tokens to {shown(tokens[0])}", hint="fetch the adapter again"
        ) from error


def _check_manifest(manifest: Manifest, mode: Mode, adapter: Path) -> None:
    stated = manifest.mechanism.finetune_mode
    if stated != mode.name:
        raise UntrustedError(
            f"the manifest is of {shown(stated)}, the files are of {mode.name}",
            hint="they are not from the same run; fetch both again",
        )
    digest = manifest.evidence.tensors_sha256
    found = adapter_sha256(adapter)
    if digest is not None and digest != found:
        raise UntrustedError(
            f"the adapter is not the one its manifest speaks of: its tensors are {found[:12]}…, the manifest "
            f"says {digest[:12]}…",
            hint="they are not from the same run, or were changed; fetch both again",
        )


def _run_id(adapter: Path, names: Sequence[str]) -> str | None:
    """As the header of the weights has it."""
    for name in names:
        if name.endswith(".safetensors"):
            statement = read_header(adapter / name).metadata.get("dpft")
            document = parse_json(statement.encode(), f"the statement in {name}") if statement else None
            run_id = document.get("run_id") if isinstance(document, dict) else None
            if isinstance(run_id, str) and re.fullmatch("[0-9a-f]{16}", run_id):
                return run_id
    return None


def _base(manifest: Manifest | None, configs: Sequence[dict[str, Any]]) -> str | None:
    if manifest is not None:
        return manifest.base_model.checkpoint
    named = [config.get("base_model_name_or_path") for config in configs]
    return next((name for name in named if isinstance(name, str) and name), None)


def _find_base(folder: AdapterFolder) -> ModelSpec:
    """The base model that the folder names: on the hub, or in a package, but never a path of its choice.

    Raises:
        UsageError: it names none, or one that is not a hub id.
    """
    name = folder.base
    if name is None:
        raise UsageError(f"nothing in {folder.path} names its base model", hint=_GIVE_BASE)
    if not _HUB_ID.fullmatch(name) or ".." in name or Path(name).exists():
        raise UsageError(f"{folder.path} names its base model {shown(name)}, a path", hint=_GIVE_BASE)
    for builtin in BUILTIN_MODELS:
        try:
            _, public_id = BUILTIN_MODELS.get(builtin)()
        except ModelError:  # its package is not installed
            continue
        if public_id == name:
            return ModelSpec(checkpoint=f"builtin:{builtin}")
    revision = folder.manifest.base_model.revision if folder.manifest is not None else None
    return ModelSpec(checkpoint=name, revision=revision)
