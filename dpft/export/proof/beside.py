"""What stands beside the weights and says the same things again: configuration, card, record, copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from dpft.errors import NotFoundError
from dpft.export.proof.bounds import bounds_in, without_the_manifests_own
from dpft.export.proof.report import Check, outcome
from dpft.export.proof.subject import Subject
from dpft.runs.confine import read_bounded, read_json, shown
from dpft.runs.manifest import Manifest
from dpft.runs.record import RunRecord
from dpft.runs.seal import MANIFEST
from dpft.runs.statement import round_up_delta, round_up_epsilon

__all__ = ["beside_checks", "registry_check"]

_CONFIG = "adapter_config.json"
_CARD = "README.md"
_KINDS: Mapping[str, str] = MappingProxyType(
    {"lora": "LORA", "ia3": "IA3", "prefix": "PREFIX_TUNING", "soft-prompt": "PROMPT_TUNING"}
)
_SIZES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "LORA": ("r", "lora_A"),
        "PREFIX_TUNING": ("num_virtual_tokens", "prompt_embeddings"),
        "PROMPT_TUNING": ("num_virtual_tokens", "prompt_embeddings"),
    }
)
"""A field of the configuration, and tensors whose first dimension it must be."""


def beside_checks(subject: Subject) -> Iterator[Check]:
    """Everything but manifest, weights and digests that repeats what they say."""
    manifest = subject.manifest
    assert manifest is not None
    if subject.weights_names:
        yield outcome(
            "configuration", "it is of the manifest's base model, mode and sizes", _config(subject, manifest)
        )
        yield outcome(
            "card", "it has the manifest's statement, and no other ε or δ", _card(subject, manifest)
        )
    if subject.is_run:
        yield outcome("copies", "the adapter carries the run's own manifest", _copies(subject))
        yield outcome("record", "run.json says what the manifest says", _record(subject, manifest))


def registry_check(record: RunRecord, subject: Subject) -> Check:
    """The row that led here, against the manifest."""
    manifest = subject.manifest
    assert manifest is not None
    return outcome(
        "registry",
        "its row says what the manifest says",
        _disagreements(record.model_dump(mode="json"), manifest, "the registry"),
    )


def _config(subject: Subject, manifest: Manifest) -> Iterator[str]:
    parts = manifest.mechanism.finetune_mode.split("+")
    places = sorted(name for name in subject.weights_names if name.rpartition("/")[2] == _CONFIG)
    if subject.kind == "model" or not all(part in _KINDS for part in parts):
        for name in places:
            yield f"{name} stands beside weights of the mode {manifest.mechanism.finetune_mode}"
        return
    kinds = []
    for name in places:
        config = read_json(subject.weights_folder / name)
        if not isinstance(config, dict):
            yield f"{name} is no JSON object"
            continue
        kinds.append(str(config.get("peft_type")))
        base = config.get("base_model_name_or_path")
        if base != manifest.base_model.checkpoint:
            yield f"{name} is for {shown(base)}, the manifest for {shown(manifest.base_model.checkpoint)}"
        yield from _sizes(subject, name, config)
    wanted = sorted(_KINDS[part] for part in parts)
    if sorted(kinds) != wanted:
        yield f"the configurations are of {shown(sorted(kinds))}, the mode needs {shown(wanted)}"


def _sizes(subject: Subject, name: str, config: Mapping[str, Any]) -> Iterator[str]:
    field, pattern = _SIZES.get(str(config.get("peft_type")), ("", ""))
    header = subject.headers.get(name.removesuffix(_CONFIG) + "adapter_model.safetensors")
    if not field or header is None:
        return
    sizes = {entry.shape[0] for tensor, entry in header.tensors.items() if pattern in tensor and entry.shape}
    if sizes != {config.get(field)}:
        yield f"{name} has {field} {shown(config.get(field))}, the tensors {shown(sorted(sizes))}"


def _card(subject: Subject, manifest: Manifest) -> Iterator[str]:
    try:
        text = subject.text(_CARD)
    except NotFoundError:
        yield f"there is no {_CARD}"
        return
    claimed = manifest.guarantee
    if manifest.statement not in text:
        yield f"{_CARD} does not have the manifest's statement"
    rest = without_the_manifests_own(text, {**(subject.document or {}), "statement": manifest.sentence()})
    if claimed is None and "≤" in rest:
        yield f"{_CARD} has a bound, where nothing is claimed"
    for what, right in (
        ("ε", round_up_epsilon(claimed.epsilon) if claimed else None),
        ("δ", round_up_delta(claimed.delta) if claimed else None),
    ):
        for told, value in bounds_in(rest, what):
            if right is None or value != float(right):
                yield f"{_CARD} speaks of {what} {shown(told)}, the manifest of {right or 'none'}"


def _copies(subject: Subject) -> Iterator[str]:
    if not subject.weights_names:
        return
    if MANIFEST not in subject.weights_names:
        yield f"the adapter has no {MANIFEST}"
    elif subject.text(MANIFEST) != read_bounded(subject.folder / MANIFEST, 1 << 26).decode(
        "utf-8", "replace"
    ):
        yield f"the adapter's {MANIFEST} is not the run's"


def _record(subject: Subject, manifest: Manifest) -> Iterator[str]:
    record = read_json(subject.folder / "run.json")
    if not isinstance(record, dict):
        yield "run.json is no JSON object"
        return
    yield from _disagreements(record, manifest, "run.json")


def _disagreements(record: Mapping[str, Any], manifest: Manifest, where: str) -> Iterator[str]:
    right = manifest.record_fields() | {
        "dataset": manifest.data.dataset,
        "finetune_mode": manifest.mechanism.finetune_mode,
    }
    if not manifest.private:
        right |= {"epsilon": None, "delta": None}
    for name, value in right.items():
        if record.get(name) != value:
            yield f"{where} has {name} {shown(record.get(name))}, the manifest {shown(value)}"
