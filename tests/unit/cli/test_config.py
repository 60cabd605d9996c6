from __future__ import annotations

from pathlib import Path

import pytest

from dpft.cli.config import read_config
from dpft.errors import NotFoundError, UsageError

SETTINGS = {
    "batch_size": "batch_size",
    "epochs": "epochs",
    "tag": "tags",
    "tags": "tags",
    "enable_dp": "enable_dp",
    "labels": "labels",
}


def read(folder: Path, name: str, text: str) -> dict[str, object]:
    (folder / name).write_text(text)
    return read_config(folder / name, SETTINGS)


@pytest.mark.parametrize("name", ["c.toml", "c.yaml", "c.yml"])
@pytest.mark.parametrize("key", ["batch-size", "batch_size"])
def test_toml_and_yaml_in_either_spelling(tmp_path: Path, name: str, key: str) -> None:
    separator = " = " if name == "c.toml" else ": "
    text = f"{key}{separator}12\ntag{separator}[1, 2]\nenable-dp{separator}false\n"
    assert read(tmp_path, name, text) == {"batch_size": "12", "tags": ["1", "2"], "enable_dp": False}


def test_empty_files_and_empty_values_set_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "c.yaml", "") == {}
    assert read(tmp_path, "c.toml", "# nothing\n") == {}
    assert read(tmp_path, "c.yaml", "epochs:\n") == {}


def test_one_value_stands_for_a_list_of_one(tmp_path: Path) -> None:
    assert read(tmp_path, "c.yaml", "tag: only\n") == {"tags": ["only"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", "epochs = ", "not valid TOML"),
        ("c.yaml", "epochs: [", "not valid YAML"),
        ("c.yaml", "- epochs", "not a mapping"),
        ("c.json", "{}", "neither TOML nor YAML"),
        ("c.yaml", "eposch: 3", "unknown key 'eposch'"),
        ("c.yaml", "batch-size: 3\nbatch_size: 4", "given twice"),
        ("c.yaml", "epochs: 3\nepochs: 4", "line 2: 'epochs' is given twice"),
        ("c.toml", "[epochs]\nx = 1", "is a table"),
        ("c.yaml", "privacy:\n  epochs: 1", "unknown key 'privacy'"),
        ("c.yaml", "labels: [no, yes]", "reads as true or false"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(tmp_path, name, text)
    assert "\n" not in caught.value.message


def test_an_unknown_key_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, "c.yaml", "batch_sizes: 3")
    assert "did you mean 'batch-size'" in caught.value.hint


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_config(tmp_path / "none.toml", SETTINGS)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        read_config(tmp_path / "c.toml", SETTINGS)
