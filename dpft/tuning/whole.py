"""Whole models from anywhere, as ``full`` and merged exports are: looked at before ``transformers`` is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from dpft.errors import UntrustedError
from dpft.runs.confine import list_folder, read_json, shown
from dpft.runs.tensors import TensorEntry, check_finite, read_header
from dpft.tuning.checkpoint import check_checkpoint

__all__ = ["MODEL_CONFIG", "check_whole_model"]

MODEL_CONFIG = "config.json"

_SETTINGS = (MODEL_CONFIG, "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
_CODE = ("auto_map", "custom_pipelines", "quantization_config", "trust_remote_code")
_IMPLEMENTATIONS = (None, "eager", "sdpa")
_LARGEST_NUMBER = 1 << 27  # of tokens in a vocabulary, of units in a layer
_MOST_LAYERS = 1000
_HINT = "fetch it again from where it came from; nothing of it was loaded"


def check_whole_model(folder: Path) -> tuple[str, ...]:
    """Refuse a folder that is more, or less, than a classifier's configuration and its tensors.

    Unlike a base model, which the user chose, this folder may come from anybody: no links, no pickles, no
    code, no sizes beyond its own tensors, and none of them missing.

    Returns:
        Its label names, in order.

    Raises:
        UntrustedError: naming what is wrong.
        NotFoundError: there is no ``config.json``.
    """
    names = list_folder(folder)
    for name in _SETTINGS:
        if name in names:
            _check_settings(read_json(folder / name), folder / name)
    check_checkpoint(folder)
    files = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if not files:
        raise UntrustedError(
            f"{folder} has no model.safetensors", hint="dpft loads whole models from safetensors only"
        )
    found: dict[str, TensorEntry] = {}
    for name in files:
        header = read_header(folder / name)
        check_finite(folder / name, header)
        found |= header.tensors
    model = _describe(folder)
    _check_complete(model, found, folder)
    return tuple(str(label) for _, label in sorted(model.config.id2label.items()))


def _check_settings(document: Any, path: Path) -> None:
    def refuse(problem: str) -> NoReturn:
        raise UntrustedError(f"{path} {problem}", hint=_HINT)

    if not isinstance(document, dict):
        refuse("is no JSON object")
    for key, value in _members(document):
        if key in _CODE and value not in (None, False, {}):
            refuse(f"sets {key}, which names code to run")
        if key.endswith("_implementation") and value not in _IMPLEMENTATIONS:
            refuse(f"sets {shown(key)} to {shown(value)}, which may be fetched and run")
        if isinstance(value, int) and abs(value) > _LARGEST_NUMBER and path.name == MODEL_CONFIG:
            refuse(f"sets {shown(key)} to {value}")
        if key.endswith(("layers", "n_layer")) and isinstance(value, int) and value > _MOST_LAYERS:
            refuse(f"sets {shown(key)} to {value}, more than {_MOST_LAYERS}")


def _members(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values, those of nested objects too; the depth was bounded on reading."""
    for key, value in document.items():
        yield key, value
        if isinstance(value, dict):
            yield from _members(value)


def _describe(folder: Path) -> Any:
    """The model that the configuration describes; nothing is allocated for it."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UntrustedError(
            f"{folder} is no classifier that transformers knows: {shown(reason)}", hint=_HINT
        ) from error


def _check_complete(model: Any, found: dict[str, TensorEntry], folder: Path) -> None:
    """Nothing is drawn at random, and nothing left out; a tied parameter is saved under one of its names."""
    known = {name for name, _ in model.named_buffers()}
    groups: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append((name, tuple(parameter.shape)))
        known.add(name)
    for group in groups.values():
        present = [(name, shape) for name, shape in group if name in found]
        if not present:
            raise UntrustedError(
                f"{folder} has no tensor {group[0][0]}, which its config.json speaks of", hint=_HINT
            )
        for name, shape in present:
            if found[name].shape != shape:
                raise UntrustedError(
                    f"{folder} has tensor {name} in the shape {list(found[name].shape)}, its config.json "
                    f"says {list(shape)}",
                    hint=_HINT,
                )
    unknown = sorted(found.keys() - known)
    if unknown:
        raise UntrustedError(f"{folder} has tensor {shown(unknown[0])}, which the model has not", hint=_HINT)
