"""Lines of Python that load an export, for its card and for the project's README: made in one place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["adapter_lines", "auto_lines", "label_lines", "onnx_label_lines", "onnx_lines", "whole_lines"]

_IN_FOLDER = 'folder = "{}"  # where this README is'
_TOLD = ("num_labels", "id2label", "label2id", "pad_token_id")  # what no adapter's configuration has


def adapter_lines(
    base: str, options: Mapping[str, Any], parts: Sequence[str], *, folder: str = ".", remark: str = ""
) -> list[str]:
    """Lines that end with ``model``: the base model, and an adapter for each of ``parts`` on top.

    Args:
        base: hub id of the base model, or a folder's name.
        options: keyword arguments for its ``from_pretrained``.
        parts: folders below the export, innermost first; ``("",)`` for the export itself.
        folder: where the export is.
        remark: on the base model, as a comment beside it.
    """
    *inner, outer = (f'f"{{folder}}/{part}"' if part else "folder" for part in parts)
    return [
        "from peft import PeftModel",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        _where(folder),
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoModelForSequenceClassification.from_pretrained(",
        f'    "{base}",{f"  # {remark}" if remark else ""}',
        *(f"    {name}={_spelt(value)}," for name, value in options.items()),
        ")",
        *(f"model = PeftModel.from_pretrained(model, {path}).get_base_model()" for path in inner),
        f"model = PeftModel.from_pretrained(model, {outer}).eval()",
    ]


def auto_lines(options: Mapping[str, Any], *, folder: str = ".") -> list[str]:
    """Lines that let PEFT find the base model by itself; its labels must be told, or it has two.

    Args:
        options: as in :func:`adapter_lines`; the commit is in the adapter's own configuration.
        folder: where the export is.
    """
    given = {name: options[name] for name in _TOLD if name in options}
    return [
        "from peft import AutoPeftModelForSequenceClassification",
        "from transformers import AutoTokenizer",
        "",
        _where(folder),
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoPeftModelForSequenceClassification.from_pretrained(",
        "    folder,",
        *(f"    {name}={_spelt(value)}," for name, value in given.items()),
        "    ignore_mismatched_sizes=True,",
        ").eval()",
    ]


def whole_lines(*, folder: str = ".") -> list[str]:
    """Lines that end with ``model``, from the folder alone."""
    return [
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        _where(folder),
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoModelForSequenceClassification.from_pretrained(folder).eval()",
    ]


def onnx_lines(*, folder: str = ".") -> list[str]:
    """Lines that end with ``session``, without torch."""
    return [
        "from onnxruntime import InferenceSession",
        "from transformers import AutoConfig, AutoTokenizer",
        "",
        _where(folder),
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "config = AutoConfig.from_pretrained(folder)",
        'session = InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])',
    ]


def label_lines(*, is_pair: bool, max_length: int) -> list[str]:
    """Lines that ask ``model`` for a ``label``."""
    return [
        _texts(is_pair, max_length, "pt"),
        "label = model.config.id2label[model(**texts).logits.argmax(-1)[0].item()]",
    ]


def onnx_label_lines(*, is_pair: bool, max_length: int) -> list[str]:
    """Lines that ask ``session`` for a ``label``."""
    return [
        _texts(is_pair, max_length, "np"),
        'inputs = {entry.name: texts[entry.name].astype("int64") for entry in session.get_inputs()}',
        '[logits] = session.run(["logits"], inputs)',
        "label = config.id2label[int(logits[0].argmax())]",
    ]


def _spelt(value: Any) -> str:
    """As Python, with the quotes that formatters put."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_spelt(key)}: {_spelt(item)}' for key, item in value.items())}}}"
    return repr(value)


def _where(folder: str) -> str:
    return _IN_FOLDER.format(folder) if folder == "." else f'folder = "{folder}"'


def _texts(is_pair: bool, max_length: int, tensors: str) -> str:
    example = '["a text"], ["its second text"]' if is_pair else '["a text"]'
    return (
        f"texts = tokenizer({example}, truncation=True, max_length={max_length}, padding=True, "
        f'return_tensors="{tensors}")'
    )
