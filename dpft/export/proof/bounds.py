"""Every ε and δ that a text gives, however it is put."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["bounds_in", "without_the_manifests_own"]

_NUMBER = r"(?<![\w.])([0-9]+(?:[.,][0-9]+)*(?:[eE][-+]?[0-9]+)?|\.[0-9]+)"
_EPSILON = r"[εϵ]|\bepsilon\b|\beps\b"
_DELTA = r"δ|\bdelta\b"
_PRIVATE = r"(?:DP\b(?!-SGD)|(?:\w+\s+)?differential)"
_BETWEEN = r"(?:(?!%s)(?:[^0-9.]|\.(?![0-9]))){0,60}?"
"""No number, nor the other letter: what may stand between a letter and its value."""

_PATTERNS: Mapping[str, tuple[re.Pattern[str], ...]] = MappingProxyType(
    {
        "ε": (
            re.compile(rf"(?:{_EPSILON}){_BETWEEN % _DELTA}{_NUMBER}", re.IGNORECASE),
            re.compile(rf"\(\s*{_NUMBER}\s*,[^()]*\)[^\w(]{{0,4}}{_PRIVATE}", re.IGNORECASE),
            re.compile(rf"{_NUMBER}[ \t]*[^\w\s,.;:()|]?[ \t]*{_PRIVATE}", re.IGNORECASE),
        ),
        "δ": (
            re.compile(rf"(?:{_DELTA}){_BETWEEN % _EPSILON}{_NUMBER}", re.IGNORECASE),
            re.compile(rf"\([^(),]*,\s*{_NUMBER}\s*\)[^\w(]{{0,4}}{_PRIVATE}", re.IGNORECASE),
        ),
    }
)


def bounds_in(text: str, what: str) -> Iterator[tuple[str, float | None]]:
    """The values that ``text`` gives of ``what``, after its name or before "-DP".

    Args:
        text: prose.
        what: "ε" or "δ".

    Yields:
        Each as it is spelt, and its value; None for what is no number after all, as "1.2.3".
    """
    for pattern in _PATTERNS[what]:
        for told in pattern.findall(text):
            try:
                yield told, float(told)
            except ValueError:
                yield told, None


def without_the_manifests_own(text: str, document: Any) -> str:
    """A text without the sentences that it quotes from the manifest, which other checks judge."""
    for told in sorted(set(_sentences(document)), key=len, reverse=True):
        text = text.replace(told, " ")
    return text


def _sentences(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        if " " in node:
            yield from (node, node.rstrip("."))
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _sentences(value)
    elif isinstance(node, list):
        for value in node:
            yield from _sentences(value)
