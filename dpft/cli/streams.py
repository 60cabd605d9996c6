"""Output streams that lack letters: ``ε`` becomes ``eps`` there, and no run ends for want of one."""

from __future__ import annotations

import codecs
import contextlib
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import IO

__all__ = ["spell_out", "spelled"]

_HANDLER = "dpft.spell_out"
_SPELLED: Mapping[str, str] = MappingProxyType(
    {
        "ε": "eps", "δ": "delta", "σ": "sigma", "α": "alpha", "γ": "gamma", "≤": "<=", "≥": ">=", "·": "-",
        "×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "±": "+-", "∞": "inf", "³": "3", "✓": "ok",
        "•": "*", "→": "->", "≈": "~", "²": "2",
    }
)  # fmt: skip


def spelled(text: str) -> str:
    """Text in ASCII: known signs by name, accents left off, anything else as a question mark.

    >>> spelled("ε ≤ 3 — größer, 予")
    'eps <= 3 - gro?er, ?'
    """
    return "".join(_one(character) for character in text)


def spell_out(stream: IO[str]) -> None:
    """Let a stream write what its encoding lacks as :func:`spelled` has it; one that cannot is left alone."""
    codecs.register_error(_HANDLER, _handle)
    with contextlib.suppress(AttributeError):
        stream.reconfigure(errors=_HANDLER)  # type: ignore[attr-defined]


def _handle(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return spelled(error.object[error.start : error.end]), error.end


def _one(character: str) -> str:
    if character.isascii():
        return character
    if character in _SPELLED:
        return _SPELLED[character]
    base = unicodedata.normalize("NFKD", character)[:1]
    return base if base.isascii() else "?"
