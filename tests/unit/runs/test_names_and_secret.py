from __future__ import annotations

import hashlib
import hmac
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dpft.errors import EntropyError, StoreError, UsageError
from dpft.runs import names, secret
from dpft.runs.store import Store
from tests.unit.runs.builders import make_spec


def test_there_are_words_enough_and_every_pair_is_a_valid_name() -> None:
    assert len(set(names.ADJECTIVES)) == len(names.ADJECTIVES) >= 60
    assert len(set(names.NOUNS)) == len(names.NOUNS) >= 60
    for adjective in names.ADJECTIVES:
        for noun in names.NOUNS:
            names.check_name(f"{adjective}-{noun}")


def test_a_taken_pair_gets_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "ADJECTIVES", ("calm",))
    monkeypatch.setattr(names, "NOUNS", ("otter",))
    assert names.invent_name([]) == "calm-otter"
    assert names.invent_name(["Calm-Otter", "calm-otter-2"]) == "calm-otter-3"


@pytest.mark.parametrize("name", ["a-run", "2026-01.lora", "soft-prompt+lora", "Z", "com10", "x" * 64])
def test_good_names(name: str) -> None:
    assert names.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "a/b",
            "a\\b",
            "..",
            "a..b",
            "@latest",
            "-q",
            ".hidden",
            "end.",
            "x" * 65,
        ),  # not a safe file name
        *("spaced name", "colon:", "line\n", "ünïcode", "star*"),
        *("con", "NUL.txt", "lpt1"),  # Windows devices
        *("deadbeef", "FACE", "12345678"),  # read as run ids
    ],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError):
        names.check_name(name)


@pytest.mark.parametrize("tag", ["baseline", "lr=1e-3", "ünï 2", "v1.2+b", "a@b", "x" * 64])
def test_good_tags(tag: str) -> None:
    assert names.check_tag(tag) == tag


@pytest.mark.parametrize(
    "tag",
    ["", " a", "a ", "a/b", "a\\b", "a,b", "../a", "-a", "a\n", "\x1b[2J", "a\x00", "a\u202eb", "x" * 65],
)
def test_bad_tags(tag: str) -> None:
    with pytest.raises(UsageError):
        names.check_tag(tag)


def test_notes_are_text() -> None:
    assert names.check_note("two lines,\n\tand é → ε") == "two lines,\n\tand é → ε"
    for note in ("\x1b[2J", "a\rb", "a\x07", "a\u202eb"):
        with pytest.raises(UsageError):
            names.check_note(note)


def test_a_run_with_a_bad_tag_or_note_is_not_made(tmp_path: Path) -> None:
    for fields in ({"tags": ("ok", "../x")}, {"note": "\x1b[2J"}):
        with pytest.raises(UsageError):
            Store(tmp_path / "home").create(make_spec(**fields))
    assert Store(tmp_path / "home").list() == []


def test_the_key_is_made_once_for_the_owner_only(home: Path) -> None:
    key = secret.local_key()
    assert len(key) == 32
    assert secret.local_key() == key
    if os.name != "nt":
        assert stat.S_IMODE((home / "secret.key").stat().st_mode) == 0o600


def test_processes_that_race_get_one_key(home: Path) -> None:
    program = "from dpft.runs.secret import local_key; print(local_key().hex())"
    racers = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    keys = {racer.communicate()[0].strip() for racer in racers}
    assert keys == {secret.local_key().hex()}


def test_the_loser_of_a_race_takes_the_winners_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winner = secret.local_key()
    read, looks = secret._read, []

    def look(path: Path) -> bytes | None:
        looks.append(path)
        return read(path) if len(looks) > 1 else None  # not there yet at the first look

    monkeypatch.setattr(secret, "_read", look)
    assert secret.local_key() == winner


def test_fingerprints_depend_on_content_key_and_purpose(home: Path, tmp_path: Path) -> None:
    digest = bytes(range(32))
    fingerprint = secret.keyed_fingerprint(digest)
    assert len(fingerprint) == 64
    assert fingerprint == secret.keyed_fingerprint(digest)
    assert fingerprint != secret.keyed_fingerprint(digest[::-1])
    assert fingerprint != secret.keyed_fingerprint(digest, home=tmp_path / "another")
    assert fingerprint != hmac.new(secret.local_key(), digest, hashlib.sha256).hexdigest()


def test_a_damaged_key_is_never_replaced(home: Path) -> None:
    secret.local_key()
    (home / "secret.key").write_bytes(b"short")
    with pytest.raises(StoreError, match="5 bytes"):
        secret.keyed_fingerprint(bytes(32))
    assert (home / "secret.key").read_bytes() == b"short"


def test_a_digest_too_short_is_refused(home: Path) -> None:
    with pytest.raises(StoreError, match="3 bytes"):
        secret.keyed_fingerprint(b"abc")


def test_no_entropy_fails_closed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> bytes:
        raise NotImplementedError

    monkeypatch.setattr(os, "urandom", refuse)
    with pytest.raises(EntropyError):
        secret.local_key()
    assert not (home / "secret.key").exists()
