"""Base model folders: old ones are read with care, code in them is never run, indices stay inside."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dpft.errors import DpftError, ModelError, UntrustedError
from dpft.spec import ModelSpec
from dpft.tuning.base import load_model, load_tokenizer
from dpft.tuning.checkpoint import check_checkpoint

LABELS = ("negative", "positive")


class Payload:
    """Makes a file when it is unpickled without care."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.witness}",)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "base"
    shutil.copytree(tiny_model, copy)
    return copy


def pickled(folder: Path, content: Any) -> None:
    torch.save(content, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_an_old_checkpoint_is_read(folder: Path) -> None:
    torch.manual_seed(0)
    expected = load_model(ModelSpec(checkpoint=str(folder)), LABELS).state_dict()
    pickled(folder, load_file(folder / "model.safetensors"))
    torch.manual_seed(0)
    found = load_model(ModelSpec(checkpoint=str(folder)), LABELS).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_pickle_that_runs_code_does_not(folder: Path, tmp_path: Path) -> None:
    witness = tmp_path / "it-ran"
    pickled(folder, {"bert.pooler.dense.bias": Payload(witness)})
    with pytest.raises(ModelError, match="hold more than tensors") as caught:
        load_model(ModelSpec(checkpoint=str(folder)), LABELS)
    assert "safetensors" in caught.value.hint
    assert not witness.exists()
    torch.serialization.load(folder / "pytorch_model.bin", weights_only=False)  # and it would have run
    assert witness.exists()


def test_code_in_a_checkpoint_is_not_run_and_nobody_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = tmp_path / "it-ran"
    (folder / "evil.py").write_text(f"open({str(witness)!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.T", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "n")
    with pytest.raises(ModelError, match="contains custom code"):
        load_model(ModelSpec(checkpoint=str(folder)), LABELS)
    with pytest.raises(ModelError, match="contains custom code"):
        load_tokenizer(ModelSpec(checkpoint=str(folder)))
    assert questions == []
    assert not witness.exists()


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ({"weight_map": {"w": "../../secret.safetensors"}}, "not plainly inside"),
        ({"weight_map": {"w": "/etc/passwd"}}, "not plainly inside"),
        ({"weight_map": {"w": "absent.safetensors"}}, "not there"),
        ({"weight_map": ["model.safetensors"]}, "no weight_map"),
        ([], "no weight_map"),
    ],
)
def test_an_index_stays_in_its_folder(index: Any, problem: str, folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(UntrustedError, match=problem):
        load_model(ModelSpec(checkpoint=str(folder)), LABELS)


def test_an_honest_index_is_followed(folder: Path) -> None:
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(names, "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert load_model(ModelSpec(checkpoint=str(folder)), LABELS)


def test_the_links_of_the_hubs_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in list(folder.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    check_checkpoint(folder)
    assert load_model(ModelSpec(checkpoint=str(folder)), LABELS)


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 999), lambda path: path.write_bytes(b"x")])
def test_a_damaged_file_is_one_clear_line(damage: Callable[[Path], object], folder: Path) -> None:
    damage(folder / "model.safetensors")
    with pytest.raises(DpftError, match=r"model\.safetensors"):
        load_model(ModelSpec(checkpoint=str(folder)), LABELS)
