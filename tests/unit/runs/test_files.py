from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpft.errors import StoreError
from dpft.runs import files


def fail_with(number: int) -> Any:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(("content", "expected"), [("ε\n", "ε\n".encode()), (b"\x00\xff", b"\x00\xff")])
def test_text_and_bytes_are_written(tmp_path: Path, content: str | bytes, expected: bytes) -> None:
    files.write_atomic(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == expected


@pytest.mark.skipif(os.name == "nt", reason="POSIX permission bits")
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_is_as_asked(tmp_path: Path, mode: int) -> None:
    files.write_atomic(tmp_path / "file", "", mode)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    old=st.none() | st.binary(max_size=200),
    new=st.binary(max_size=200),
    step=st.sampled_from(["fsync", "replace"]),
)
def test_a_failure_before_the_rename_leaves_the_old_content_and_no_litter(
    tmp_path_factory: pytest.TempPathFactory, old: bytes | None, new: bytes, step: str
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    path = folder / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, step, fail_with(errno.EIO))
        with pytest.raises(StoreError):
            files.write_atomic(path, new)
    assert [entry.name for entry in folder.iterdir()] == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


def test_an_interrupt_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(StoreError, match="No space left") as caught:
        files.write_atomic(tmp_path / "file", "new")
    assert "free some space" in caught.value.hint


def test_a_line_that_does_not_fit_is_cut_off_again(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    path = tmp_path / "metrics.jsonl"
    files.append_line(path, "first")
    old_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, old_limits[1]))
        with pytest.raises(StoreError):
            files.append_line(path, "second line, longer than what is left")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limits)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert path.read_text() == "first\n"


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json_atomic(tmp_path / "file", {"epsilon": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_the_table_leaves_out_what_must_not_be_listed(tmp_path: Path) -> None:
    listed = {"adapter/adapter_model.safetensors": b"abc", "config.yaml": b""}
    unlisted = [
        ".lock",
        "registry.lock",
        "local-only/training.jsonl",
        "adapter/local-only/x",
        ".a.x1.tmp",
        "run.json",
    ]
    for name in [*listed, *unlisted]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(listed.get(name, b"unlisted"))
    assert files.file_table(tmp_path, exclude={"run.json"}) == [
        files.FileEntry(name, hashlib.sha256(content).hexdigest(), len(content))
        for name, content in sorted(listed.items())
    ]


def test_a_folder_is_published_whole(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_text("content")
    (tmp_path / "final").mkdir()  # empty: may be replaced
    files.publish_dir(tmp_path / "new", tmp_path / "final")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert (tmp_path / "final" / "file").read_text() == "content"


def test_publishing_overwrites_only_when_told(tmp_path: Path) -> None:
    for name in ("new", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    with pytest.raises(StoreError, match="not empty"):
        files.publish_dir(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "new" / "new").exists()
    files.publish_dir(tmp_path / "new", tmp_path / "final", overwrite=True)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "final",
        "final/new",
    ]


def test_a_failed_exchange_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("new", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    rename = Path.rename

    def refuse_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(StoreError, match="cross-device") as caught:
        files.publish_dir(tmp_path / "new", tmp_path / "final", overwrite=True)
    assert "file systems" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "new"]
    assert (tmp_path / "final" / "final").exists()


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "final").write_text("")
    with pytest.raises(StoreError, match="not a folder"):
        files.publish_dir(tmp_path / "new", tmp_path / "final", overwrite=True)
