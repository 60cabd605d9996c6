"""What must not stand in anything that leaves: seeds, generators' states, local paths, private numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from dpft.errors import DpftError
from dpft.export.proof.known import VOCABULARIES
from dpft.export.proof.report import Check, outcome
from dpft.export.proof.subject import TEXT_BYTES, Subject
from dpft.runs.active import is_public_metric
from dpft.runs.confine import parse_json, read_bounded, shown
from dpft.runs.files import CHECKPOINTS, LOCAL_ONLY
from dpft.runs.seal import MANIFEST

__all__ = ["content_check"]

_SECRET_KEY = re.compile(
    r"(^|_)(seeds?|rng|prng|rngs|entropy)(_|$)|random_state|generator_state|rng_state|philox|mt19937|secret|"
    r"(^|_)(private_)?key(_bytes|_hex)?$",
    re.IGNORECASE,
)
_PRIVATE_KEY = re.compile(
    r"(\w+_)?loss(es)?|((grad|gradient|median|mean)_)?norms?|clip(ped)?_fractions?|(realised|actual)_batch_sizes?"
)
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/])(/(home|Users|root|tmp|var|mnt|media|opt|srv|private|workspace|scratch|data|Volumes)/[\w.~-]+"
    r"|~/[\w.-]+|[A-Za-z]:\\{1,2}[\w.~-]+|file:/)"
)
_RAW_TEXT = 400  # characters: no field of a manifest but its statement has as many
_TEXTS = (".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".toml", ".cfg")
_LOCAL_IN_RUN = {"run.json", "config.yaml", "audit.json"}


def content_check(subject: Subject) -> Check:
    """Look through everything that may be shared for what may not."""
    return outcome(
        "forbidden content",
        "no seed, generator state, local path, private number or raw text in what may be shared",
        _found(subject),
    )


def _found(subject: Subject) -> Iterator[str]:
    if subject.document is not None:
        yield from _raw_texts(subject.document)
    for name in subject.names:
        if LOCAL_ONLY in name.split("/") or CHECKPOINTS in name.split("/"):
            if not subject.is_run:
                yield f"{shown(name)} is for the machine that trained only"
        elif name in _LOCAL_IN_RUN and subject.is_run:
            continue
        elif name.endswith(_TEXTS) and name.rpartition("/")[2] not in VOCABULARIES:
            yield from _in_file(subject, name)
    for name, metadata in subject.statements.items():
        for value in metadata.values():
            yield from _in_text(value, f"the header of {name}")
            yield from _keys(_parsed(value), f"the header of {name}")


def _in_file(subject: Subject, name: str) -> Iterator[str]:
    text = read_bounded(subject.folder / name, TEXT_BYTES).decode("utf-8", errors="replace")
    yield from _in_text(text, name)
    if name.endswith(".json"):
        yield from _keys(_parsed(text), name)
    if name.endswith(".jsonl"):
        for line in text.splitlines():
            row = _parsed(line)
            for key in row if isinstance(row, dict) else ():
                if not is_public_metric(key):
                    yield f"{name} has the key {shown(key)}, which is for this machine only"


def _in_text(text: str, where: str) -> Iterator[str]:
    found = _LOCAL_PATH.search(text)
    if found:
        yield f"{where} names the local path {shown(found.group())}"


def _parsed(text: str) -> Any:
    """JSON values; None for a text that is none, which other checks report."""
    try:
        return parse_json(text.encode("utf-8", errors="replace"), "")
    except DpftError:
        return None


def _keys(document: Any, where: str) -> Iterator[str]:
    """Keys that name a secret or a private number and have a value."""
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            for key, value in node.items():
                if value not in (None, False, "") and (
                    _SECRET_KEY.search(key) or _PRIVATE_KEY.fullmatch(key)
                ):
                    yield f"{where} has the key {shown(key)}"
            waiting += [value for key, value in node.items() if not _is_label_map(key, value)]
        elif isinstance(node, list):
            waiting += node


def _is_label_map(key: str, value: Any) -> bool:
    """Whether these are names of labels, of which any may be "secret"; a secret would be no small count."""
    return key == "label2id" and isinstance(value, dict) and [*value.values()] == [*range(len(value))]


def _raw_texts(document: Any) -> Iterator[str]:
    """Texts in a manifest that are longer than any of its fields, or of several lines."""
    waiting = [(key, value) for key, value in document.items() if key != "statement"]
    while waiting:
        where, node = waiting.pop()
        if isinstance(node, dict):
            waiting += [(f"{where}.{key}", value) for key, value in node.items()]
        elif isinstance(node, list):
            waiting += [(where, value) for value in node]
        elif isinstance(node, str):
            if len(node) > _RAW_TEXT or not node.isprintable():
                yield f"{MANIFEST}: {where} is a text that no manifest has: {shown(node)}"
            elif node.startswith(("/", "~", "\\")):
                yield f"{MANIFEST}: {where} is a local path: {shown(node)}"
