"""Run names: which are allowed, and ones to invent."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection

from dpft.errors import UsageError

__all__ = ["ADJECTIVES", "NOUNS", "check_name", "check_note", "check_tag", "invent_name"]

_ADJECTIVES = """
agile amber ample arctic azure balmy bold brave breezy bright brisk calm candid cheery clear clever
cosy crisp curious dapper daring deft dewy eager earnest fabled fair fleet fond frosty gentle gilded
glad golden hardy hazel honest humble ivory jaunty jolly keen kind lively loyal lucid lunar mellow
merry mild mossy nimble noble patient placid plucky polite proud quaint quiet rapid rosy royal
rustic serene shy silver sleek snug solar spry steady sunny swift tender tidy tranquil trusty upbeat
vivid warm wise witty zesty
"""

_NOUNS = """
acorn alder anchor apricot aspen badger basil beacon birch bison brook canyon cedar cherry clover
comet coral cove crane cypress daisy dolphin eagle elm ember falcon fern finch fjord fox
garnet glacier grove harbor hawk heron hill iris island ivy jasper juniper kestrel lagoon lake
lantern larch lark linden lotus lynx maple marten meadow moon moss nectar oak ocean opal orchid
osprey otter owl pebble pine planet plum poppy prairie quail quartz raven reef river robin saffron
sage sparrow spruce summit swan thicket thistle tulip valley violet walnut willow wren
"""

ADJECTIVES = tuple(_ADJECTIVES.split())
NOUNS = tuple(_NOUNS.split())

_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_TAG = re.compile(r"\w[\w .+:=@-]{0,63}")
_HEX = re.compile(r"[0-9a-fA-F]+")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def check_name(name: str) -> str:
    """Return ``name`` if it can name a run, a folder on any system, and nothing else.

    Raises:
        UsageError: other characters than letters, digits and ``. _ + -``, more than 64 of them, ``..`` in it,
            a dot at its end, the name of a Windows device, or only hexadecimal digits (it would read as a run
            id).
    """
    if not _ALLOWED.fullmatch(name) or ".." in name or name.endswith(".") or _DEVICES.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a run",
            hint="use 1 to 64 letters, digits, '.', '_', '+' or '-', beginning with a letter or digit",
        )
    if _HEX.fullmatch(name):
        raise UsageError(
            f"{name!r} reads as a run id", hint="add a character that is not a hexadecimal digit"
        )
    return name


def check_tag(tag: str) -> str:
    """Return ``tag`` if it is one word or a few: no separators of paths or lists, nothing that is not shown.

    Raises:
        UsageError: other characters than letters, digits, spaces and ``_ . + : = @ -``, or more than 64.
    """
    if not _TAG.fullmatch(tag) or not tag.isprintable() or tag != tag.strip():
        raise UsageError(
            f"{tag!r} cannot be a tag",
            hint="use 1 to 64 letters, digits, spaces or any of '_.+:=@-', beginning with a letter or digit",
        )
    return tag


def check_note(note: str) -> str:
    """Return ``note`` if a terminal shows it as it is: lines of text, no control characters.

    Raises:
        UsageError: it has others than line feeds and tabs.
    """
    if not note.replace("\n", "").replace("\t", "").isprintable():
        raise UsageError(f"the note {note!r} holds control characters", hint="leave them out")
    return note


def invent_name(taken: Collection[str]) -> str:
    """An adjective-noun pair, with a number added where every pair drawn is taken.

    Args:
        taken: names in use, compared without regard to case.
    """
    used = {name.casefold() for name in taken}
    pair = f"{secrets.choice(ADJECTIVES)}-{secrets.choice(NOUNS)}"
    name, number = pair, 1
    while name in used:
        number += 1
        name = f"{pair}-{number}"
    return name
