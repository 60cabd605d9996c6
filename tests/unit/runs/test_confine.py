"""Folders and documents from anywhere: what is read of them, and what is refused."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from dpft.errors import NotFoundError, UntrustedError
from dpft.runs.confine import (
    JSON_DEPTH,
    MOST_FILES,
    check_relative_name,
    list_folder,
    open_regular,
    parse_json,
    read_bounded,
    read_json,
    shown,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    (made / "lora").mkdir(parents=True)
    (made / "adapter_config.json").write_text('{"r": 8}')
    (made / "lora" / "weights").write_text("w")
    return made


def test_a_folder_is_listed_whole(folder: Path, tmp_path: Path) -> None:
    assert list_folder(folder) == ("adapter_config.json", "lora/weights")
    (tmp_path / "by-link").symlink_to(folder)  # the user named it
    assert list_folder(tmp_path / "by-link") == ("adapter_config.json", "lora/weights")


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.key").write_text("s")
    for name, target in (
        ("file", outside / "secret.key"),
        ("dir", outside),
        ("dangling", "nowhere"),
        ("in", "lora"),
    ):
        link = folder / "lora" / name
        link.symlink_to(target)
        with pytest.raises(UntrustedError, match="is a symbolic link"):
            list_folder(folder)
        with pytest.raises(UntrustedError, match="is a symbolic link"):
            open_regular(link)
        link.unlink()
    assert list_folder(folder)


def test_only_regular_files_are_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe")  # reading it would wait for ever
    with pytest.raises(UntrustedError, match="a pipe"):
        list_folder(folder)
    with pytest.raises(UntrustedError, match="a pipe"):
        open_regular(folder / "pipe")
    (folder / "pipe").unlink()
    with pytest.raises(UntrustedError, match="a device"):
        open_regular(Path("/dev/zero"))
    with pytest.raises(UntrustedError, match="a folder"):
        open_regular(folder / "lora")
    with pytest.raises(NotFoundError):
        open_regular(folder / "absent")


def test_a_socket_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        with pytest.raises(UntrustedError, match="a socket"):
            list_folder(folder)


def test_names_that_would_write_to_the_terminal_are_refused(folder: Path) -> None:
    (folder / "\x1b[2Jweights").touch()
    with pytest.raises(UntrustedError, match="unusual name") as caught:
        list_folder(folder)
    assert "\x1b" not in caught.value.message


def test_a_crowded_folder_is_refused(tmp_path: Path) -> None:
    for number in range(MOST_FILES):
        (tmp_path / str(number)).touch()
    assert len(list_folder(tmp_path)) == MOST_FILES
    (tmp_path / "one-more").touch()
    with pytest.raises(UntrustedError, match="more than"):
        list_folder(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        list_folder(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError):
        list_folder(tmp_path / "file")


def test_a_file_is_read_up_to_its_bound(folder: Path) -> None:
    (folder / "large").write_bytes(b"x" * 11)
    assert read_bounded(folder / "large", 11) == b"x" * 11
    with pytest.raises(UntrustedError, match="more than 10 bytes"):
        read_bounded(folder / "large", 10)


def test_ordinary_json_is_read(folder: Path) -> None:
    document = {"a": [1, -2.5e3, True, None, "é\u2028"], "b": {"c": {}}}
    (folder / "x.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    assert read_json(folder / "x.json") == document
    assert parse_json(("[" * JSON_DEPTH + "]" * JSON_DEPTH).encode(), "x")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"r": 8, "r": 9}', "'r' twice"),
        (b'[{"a": {"b": 1, "b": 1}}]', "'b' twice"),
        (b'{"r": NaN}', "not finite"),
        (b'{"r": -Infinity}', "not finite"),
        (b'{"r": 1e999}', "not finite"),
        (b'{"r": 8', "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"r": 8} trailing', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"9" * 5000, "not valid JSON"),
        (b'{"r": "\xff"}', "not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b'{"a": "\\ud800"}', "not valid Unicode"),
        (b'{"\\udc00": 1}', "not valid Unicode"),
        (b"[" * (JSON_DEPTH + 1) + b"]" * (JSON_DEPTH + 1), "deeper"),
        (b"[" * 200_000 + b"]" * 200_000, "deeper"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "deeper"),
    ],
)
def test_other_json_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(UntrustedError, match=problem) as caught:
        parse_json(data, "x.json")
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors", "lora/a.b", "..a"])
def test_plain_names_are_inside(name: str) -> None:
    assert check_relative_name(name, "index") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a//b",
        "./a",
        "a/",
        "C:x",
        "C:\\x",
        "..\\x",
        "a\x00",
        "a\nb",
        7,
        None,
    ],
)
def test_other_names_are_refused(name: object) -> None:
    with pytest.raises(UntrustedError, match="not plainly inside"):
        check_relative_name(name, "index")


def test_what_is_shown_is_short_and_inert() -> None:
    assert shown("a\x1b[31m\u202e") == r"'a\x1b[31m\u202e'"
    assert len(shown("x" * 10_000)) < 100
