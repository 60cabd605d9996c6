"""Which files an adapter or an export has: any other may be anything, a table of private texts too."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from dpft.errors import DpftError
from dpft.runs.confine import read_bounded, shown
from dpft.runs.seal import DIGESTS, MANIFEST

__all__ = ["TOKENIZER", "VOCABULARIES", "unknown_files"]

VOCABULARIES = frozenset(
    {
        "added_tokens.json", "bpe.codes", "dict.txt", "entity_vocab.json", "merges.txt", "normalizer.json",
        "special_tokens_map.json", "tokenizer.json", "vocab.json", "vocab.txt",
    }
)  # fmt: skip
"""Their keys and lines are the base model's words, of which any may be "seed"."""

TOKENIZER = VOCABULARIES | {
    "chat_template.jinja", "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "spiece.model",
    "spm.model", "spm_char.model", "target.spm", "tokenizer.model", "tokenizer_config.json",
}  # fmt: skip
_COMMON = TOKENIZER | {MANIFEST, DIGESTS, "README.md", "requirements.txt"}
_PART = re.compile(r"(?:(?:lora|prompt)/)?adapter_(?:model\.safetensors|config\.json)")
_PLAIN = "trained_parameters.safetensors"
_MODEL = re.compile(
    r"config\.json|model(?:-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|model\.onnx|"
    r"generation_config\.json"
)
_GIT_LFS = re.compile(rb"(?:[\w.*/\[\]-]+ filter=lfs diff=lfs merge=lfs -text\r?\n?)*")
_FETCHED = re.compile(r"\.cache/huggingface/(?:[\w./-]+\.(?:metadata|lock)|\.gitignore|CACHEDIR\.TAG)")
_MOST = 4096  # bytes of what a hub adds by itself


def unknown_files(
    folder: Path, names: Collection[str], listed: Collection[str], *, whole_model: bool
) -> Iterator[str]:
    """What is wrong with the files that are there: one of no known name, or one that is not listed.

    Args:
        folder: an adapter's or an export's.
        names: of all files below it.
        listed: those that ``files.json`` lists.
        whole_model: whether it is a whole model, not an adapter.
    """
    for name in names:
        if _of_a_hub(folder, name):
            continue
        of_weights = _MODEL.fullmatch(name) if whole_model else (_PART.fullmatch(name) or name == _PLAIN)
        if name not in _COMMON and not of_weights:
            kind = "a whole model" if whole_model else "an adapter"
            yield f"{shown(name)} is no file that {kind} has"
        elif name not in listed and name != DIGESTS:
            yield f"{shown(name)} is not listed in {DIGESTS}"


def _of_a_hub(folder: Path, name: str) -> bool:
    """Whether a hub, or the client that fetched the folder from it, has put this there."""
    if name != ".gitattributes" and not _FETCHED.fullmatch(name):
        return False
    try:
        text = read_bounded(folder / name, _MOST)
    except DpftError:
        return False
    return name != ".gitattributes" or _GIT_LFS.fullmatch(text) is not None
