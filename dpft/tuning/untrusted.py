"""Adapter files from anywhere: what PEFT and ``transformers`` are given of them, and what is refused.

Both libraries are generous: a configuration may name modules to import, tokenizers to fetch, patterns to
match and sizes to allocate; tensors that are unknown are left out, and missing ones drawn at random. Here a
configuration may set only what dpft's modes set, weights are safetensors and nothing else, and tensors fit
the model by name and shape, or nothing is scored. Every mode loads through this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
from torch import Tensor

from dpft.errors import UntrustedError
from dpft.runs.confine import list_folder, read_json, shown
from dpft.runs.tensors import Header, check_finite, read_header

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_TENSORS",
    "LARGEST_RANK",
    "MOST_VIRTUAL_TOKENS",
    "check_fit",
    "check_sizes",
    "read_adapter_config",
    "read_weights",
]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_TENSORS = "adapter_model.safetensors"
LARGEST_RANK = 4096
MOST_VIRTUAL_TOKENS = 4096

_DTYPES = {"F32", "F16", "BF16"}
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_MOST_MODULES = 1000
_LARGEST_FACTOR = 1e6
_LIBRARY = re.compile(r"transformers\.models(\.[A-Za-z0-9_]+)+")
_FETCH = (
    "fetch it again from where it came from, or have its maker export it with 'dpft export --format peft'"
)


def _count(most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 1 <= value <= most


def _number(most: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and 0 <= value <= most


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.isprintable())


def _modules(value: Any) -> bool:
    """A list of module names: a single text would be a pattern, matched against every name of the model."""
    return (
        isinstance(value, list)
        and len(value) <= _MOST_MODULES
        and all(isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.]{1,200}", name) for name in value)
    )


def _some_modules(value: Any) -> bool:
    return value is None or _modules(value)


def _class_name(value: Any) -> bool:
    """What PEFT notes of a model without a task type; it is not used, and may not name other code."""
    return value is None or (
        isinstance(value, dict)
        and value.keys() <= {"base_model_class", "parent_library"}
        and _LIBRARY.fullmatch(str(value.get("parent_library"))) is not None
        and str(value.get("base_model_class")).isidentifier()
    )


def _any_size(value: Any) -> bool:
    return value is None or _count(1 << 31)(value)


_Checks = Mapping[str, Callable[[Any], bool]]
_USED: Mapping[str, _Checks] = {
    "LORA": {
        "r": _count(LARGEST_RANK),
        "lora_alpha": _number(_LARGEST_FACTOR),
        "lora_dropout": _number(1),
        "target_modules": _modules,
        "fan_in_fan_out": _flag,
        "use_rslora": _flag,
    },
    "IA3": {"target_modules": _modules, "feedforward_modules": _some_modules, "fan_in_fan_out": _flag},
    "PREFIX_TUNING": {"num_virtual_tokens": _count(MOST_VIRTUAL_TOKENS)},
    "PROMPT_TUNING": {"num_virtual_tokens": _count(MOST_VIRTUAL_TOKENS)},
}
"""What a configuration of each kind may set, and to what."""

_UNUSED: _Checks = {
    "peft_type": _text,
    "task_type": lambda value: value in (None, "SEQ_CLS"),
    "peft_version": _text,
    "base_model_name_or_path": _text,
    "revision": _text,
    "inference_mode": _flag,
    "auto_mapping": _class_name,
    "modules_to_save": _some_modules,
    "init_lora_weights": _flag,
    "init_ia3_weights": _flag,
    "token_dim": _any_size,
    "num_transformer_submodules": _any_size,
    "num_attention_heads": _any_size,
    "num_layers": _any_size,
    "encoder_hidden_size": _any_size,
}
"""What any may say besides; sizes are taken from the base model, never from here."""


def read_adapter_config(directory: Path) -> peft.PeftConfig:
    """The configuration in ``directory``, with nothing in it but what dpft's modes set.

    Raises:
        NotFoundError: there is none.
        UntrustedError: it is damaged, of another kind of adapter, sets something else (code to import, a
            tokenizer to fetch, patterns), or something absurd (a rank of a billion).
    """
    path = directory / ADAPTER_CONFIG
    document = read_json(path)
    if not isinstance(document, dict):
        raise _refusal(path, "is no JSON object")
    kind = document.get("peft_type")
    if not isinstance(kind, str) or kind not in _USED:
        raise _refusal(path, f"is of the kind {shown(kind)}; known are {', '.join(_USED)}")
    make = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
    used = _USED[kind]
    defaults = make().to_dict()
    for key, value in document.items():
        check = used.get(key) or _UNUSED.get(key)
        if check is None:
            harmless = value in (None, False, "none") or value in ([], {})
            if not harmless and (key not in defaults or value != defaults[key]):
                raise _refusal(path, f"sets {shown(key)} to {shown(value)}, which no mode of dpft does")
        elif not check(value):
            raise _refusal(path, f"sets {shown(key)} to {shown(value)}")
    missing = sorted(key for key in used if key not in document and defaults.get(key) is None)
    if missing:
        raise _refusal(path, f"does not set {', '.join(missing)}")
    return make(
        task_type=document.get("task_type"),
        modules_to_save=list(dict.fromkeys(document.get("modules_to_save") or ())) or None,
        inference_mode=True,
        **{key: document[key] for key in used if key in document},
    )


def read_weights(path: Path) -> Header:
    """The header of a weights file, after every number in the file was looked at.

    Raises:
        UntrustedError: there is none (a pickled file beside it is named), it lies about its sizes, or holds
            other than floating-point numbers, NaN or infinity.
    """
    if not path.is_file() and not path.is_symlink():
        beside = [name for name in list_folder(path.parent) if name.endswith(_PICKLED)]
        if beside:
            raise UntrustedError(
                f"{path.parent} has its weights in {shown(beside[0])}, a pickle, which can run code",
                hint=f"dpft loads safetensors only: have its maker save it anew, as {path.name}",
            )
        raise UntrustedError(f"{path.parent} has no {path.name}", hint=_FETCH)
    header = read_header(path)
    if not header.tensors:
        raise _refusal(path, "holds no tensor")
    for name, entry in header.tensors.items():
        if entry.dtype not in _DTYPES:
            raise _refusal(path, f"holds tensor {shown(name)} as {entry.dtype}")
    check_finite(path, header)
    return header


def check_sizes(config: peft.PeftConfig, header: Header, where: Path) -> None:
    """The sizes a configuration asks for are those of its tensors: no more is allocated than is there.

    Raises:
        UntrustedError: they are not.
    """
    wanted = config.num_virtual_tokens if config.is_prompt_learning else getattr(config, "r", None)
    if wanted is None:
        return
    ending = "prompt_embeddings" if config.is_prompt_learning else ".lora_A.weight"
    found = {entry.shape[:1] for name, entry in header.tensors.items() if name.endswith(ending)}
    if found != {(wanted,)}:
        sizes = ", ".join(str(shape[0]) for shape in sorted(found) if shape) or "none"
        what = "num_virtual_tokens" if config.is_prompt_learning else "r"
        raise _refusal(where, f"sets {what} to {wanted}; its tensors have {sizes}")


def check_fit(expected: Mapping[str, Tensor], header: Header, where: Path) -> None:
    """Tensors are exactly those of the model, by name and shape.

    Args:
        expected: what the model would save.
        header: of the file.
        where: the file.

    Raises:
        UntrustedError: one is missing, unknown, or of another shape.
    """
    hint = "it was made for another base model or mode: give the one it names with -m, or " + _FETCH
    for name, value in expected.items():
        entry = header.tensors.get(name)
        if entry is None:
            raise UntrustedError(f"{where} has no tensor {name}, which the model needs", hint=hint)
        if entry.shape != tuple(value.shape):
            raise UntrustedError(
                f"{where} has tensor {name} in the shape {list(entry.shape)}, the model {list(value.shape)}",
                hint=hint,
            )
    unknown = sorted(header.tensors.keys() - expected.keys())
    if unknown:
        raise UntrustedError(f"{where} has tensor {shown(unknown[0])}, which the model has not", hint=hint)


def _refusal(path: Path, problem: str) -> UntrustedError:
    return UntrustedError(f"{path} {problem}", hint=_FETCH)
