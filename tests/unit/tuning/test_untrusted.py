"""Hostile adapter folders: each is a good one with one thing changed, refused in one line, nothing run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from dpft.errors import DpftError, NotFoundError, UntrustedError
from dpft.tables import MODES
from dpft.tuning.files import adapter_sha256
from dpft.tuning.untrusted import read_adapter_config, read_weights
from tests import models

Change = Callable[[Path], None]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An honest adapter folder of each mode."""
    folders = {}
    for mode in MODES.names():
        folders[mode] = tmp_path_factory.mktemp("adapter")
        MODES.get(mode).save(models.tuned(mode)[0], folders[mode])
    return folders


@pytest.fixture
def hostile(saved: dict[str, Path], tmp_path: Path) -> Iterator[Callable[[str, Change], Path]]:
    """Make a copy of a mode's folder and change it; whatever it holds, nothing of it may run."""
    witness = tmp_path / "it-ran"

    def make(mode: str, change: Change) -> Path:
        folder = tmp_path / "hostile"
        shutil.copytree(saved[mode], folder)
        change(folder)
        return folder

    yield make
    assert not witness.exists()


def load(mode: str, folder: Path) -> Any:
    torch.manual_seed(0)
    return MODES.get(mode).load(models.tiny_bert(), folder)


def refused(mode: str, folder: Path, problem: str) -> None:
    with pytest.raises(DpftError, match=problem) as caught:
        load(mode, folder)
    assert isinstance(caught.value, UntrustedError | NotFoundError), caught.value
    assert caught.value.exit_code in (1, 3)
    assert caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    assert caught.value.message.isprintable()


def config(part: str = "", **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / part / CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def without(key: str) -> Change:
    def change(folder: Path) -> None:
        document = json.loads((folder / CONFIG).read_text())
        del document[key]
        (folder / CONFIG).write_text(json.dumps(document))

    return change


def tensors(edit: Callable[[dict[str, torch.Tensor]], Any], name: str = WEIGHTS) -> Change:
    def change(folder: Path) -> None:
        values = load_file(folder / name)
        edit(values)
        save_file(values, folder / name)

    return change


def one(values: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in values if part in name)


def a_pickle(folder: Path) -> bytes:
    """A torch checkpoint that makes a file when it is unpickled without care."""
    witness = folder.parent / "it-ran"
    payload = f"cos\nsystem\n(S'touch {witness}'\ntR.".encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


@pytest.mark.parametrize("mode", MODES.names())
def test_what_a_mode_saves_is_loaded_and_computes_the_same(mode: str, saved: dict[str, Path]) -> None:
    trained, _ = models.tuned(mode)
    inputs = models.batch().inputs
    with torch.no_grad():
        torch.manual_seed(0)
        loaded = MODES.get(mode).load(models.tiny_bert(), saved[mode]).eval()
        assert torch.equal(loaded(**inputs).logits, trained(**inputs).logits)


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin", "weights.pt", "weights.pkl"])
def test_a_folder_that_holds_only_a_pickle_is_refused(name: str, hostile: Any) -> None:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(a_pickle(folder))

    folder = hostile("lora", change)
    refused("lora", folder, re.escape(name) + ".*pickle")
    with zipfile.ZipFile(folder / name) as archive:  # and it would have run
        assert b"touch" in archive.read("archive/data.pkl")


def test_plain_peft_would_have_read_the_pickle(hostile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The danger is real: without the guard, PEFT falls back to torch.load."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / "adapter_model.bin").write_bytes(a_pickle(folder))

    asked = []
    monkeypatch.setattr(
        "peft.utils.save_and_load.torch_load", lambda path, **_: asked.append(Path(path).name) or {}
    )
    folder = hostile("lora", change)
    with contextlib.suppress(KeyError):  # of the tensors that the stand-in does not give
        peft.PeftModel.from_pretrained(models.tiny_bert(), folder)
    assert asked == ["adapter_model.bin"]


def test_a_pickle_under_the_name_of_safetensors_is_refused(hostile: Any) -> None:
    folder = hostile("lora", lambda folder: (folder / WEIGHTS).write_bytes(a_pickle(folder)) and None)
    refused("lora", folder, "announces a header of")


def library(name: str) -> dict[str, str]:
    return {"parent_library": name, "base_model_class": "Model"}


BAD_CONFIGS: list[tuple[str, str, Change, str]] = [
    ("remote code", "lora", config(auto_map={"AutoConfig": "evil.Evil"}), "auto_map"),
    ("an import", "lora", config(auto_mapping=library("os")), "auto_mapping"),
    ("an import below", "lora", config(auto_mapping=library("transformers.models.x;os")), "auto_mapping"),
    ("more in a mapping", "prefix+lora", config("lora", auto_mapping={"code": "x"}), "auto_mapping"),
    ("megatron's import", "lora", config(megatron_config={"a": 1}, megatron_core="evil"), "megatron"),
    ("trust_remote_code", "lora", config(trust_remote_code=True), "trust_remote_code"),
    ("a tokenizer", "soft-prompt", config(prompt_tuning_init="TEXT", tokenizer_name_or_path="a/b"), "TEXT"),
    ("its options", "soft-prompt", config(tokenizer_kwargs={"trust_remote_code": True}), "tokenizer_kwargs"),
    ("an MLP", "prefix", config(prefix_projection=True), "prefix_projection"),
    ("a pattern", "lora", config(target_modules="(a+)+$"), "target_modules"),
    ("patterns", "lora", config(target_modules=["(a+)+$"]), "target_modules"),
    ("too many modules", "lora", config(target_modules=["query"] * 2000), "target_modules"),
    ("a path as module", "lora", config(modules_to_save=["../../x"]), "modules_to_save"),
    ("layers copied", "lora", config(layer_replication=[[0, 10**6]]), "layer_replication"),
    ("ranks by pattern", "lora", config(rank_pattern={"query": 10**6}), "rank_pattern"),
    ("SVD of the base", "lora", config(init_lora_weights="pissa"), "init_lora_weights"),
    ("DoRA", "lora", config(use_dora=True), "use_dora"),
    ("a bias", "lora", config(bias="all"), "bias"),
    ("a billion ranks", "lora", config(r=10**9), "'r' to 1000000000"),
    ("no rank", "lora", config(r=0), "'r' to 0"),
    ("a negative rank", "lora", config(r=-3), "'r' to -3"),
    ("a true rank", "lora", config(r=True), "'r' to True"),
    ("a rank in words", "lora", config(r="8"), "'r' to '8'"),
    ("another rank", "lora", config(r=64), "sets r to 64; its tensors have 3"),
    ("another factor", "lora", config(lora_alpha=-1), "lora_alpha"),
    ("a billion tokens", "soft-prompt", config(num_virtual_tokens=10**9), "num_virtual_tokens"),
    ("other tokens", "soft-prompt", config(num_virtual_tokens=400), "tokens to 400; its tensors have 4"),
    ("other tokens outside", "prefix+lora", config("prompt", num_virtual_tokens=7), "its tensors have 4"),
    ("a size", "prefix", config(token_dim=-1), "token_dim"),
    ("another task", "lora", config(task_type="CAUSAL_LM"), "task_type"),
    ("another kind", "lora", config(peft_type="XLORA"), "XLORA"),
    ("no such kind", "lora", config(peft_type=["LORA"]), "peft_type|kind"),
    ("an escape code", "lora", config(base_model_name_or_path="\x1b[2Jx"), "base_model_name_or_path"),
    ("no kind", "lora", without("peft_type"), "kind None"),
    ("no modules", "lora", without("target_modules"), "does not set target_modules"),
    ("no tokens", "prefix", without("num_virtual_tokens"), "does not set num_virtual_tokens"),
    ("no head", "lora", config(modules_to_save=None), "classifier would be random"),
    ("other modules", "lora", config(target_modules=["query"]), "which the model has not"),
    ("no such modules", "lora", config(target_modules=["q_proj"]), "does not fit"),
    ("a list", "lora", lambda f: (f / CONFIG).write_text("[]") and None, "no JSON object"),
    ("not JSON", "lora", lambda f: (f / CONFIG).write_text("{") and None, "not valid JSON"),
    ("twice", "lora", lambda f: (f / CONFIG).write_text('{"r":8,"r":9}') and None, "'r' twice"),
    ("deep", "lora", lambda f: (f / CONFIG).write_text("[" * 9999 + "]" * 9999) and None, "deeper"),
    ("huge", "lora", lambda f: (f / CONFIG).write_bytes(b" " * (5 << 20)) and None, "more than"),
    ("latin-1", "lora", lambda f: (f / CONFIG).write_bytes(b'{"a":"\xe9"}') and None, "not UTF-8"),
    ("none", "lora", lambda f: (f / CONFIG).unlink(), "adapter_config.json"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "change", "problem"), [row[1:] for row in BAD_CONFIGS], ids=[r[0] for r in BAD_CONFIGS]
)
def test_a_configuration_that_asks_for_more_is_refused(
    mode: str, change: Change, problem: str, hostile: Any
) -> None:
    refused(mode, hostile(mode, change), problem)


def nan(values: dict[str, torch.Tensor]) -> None:
    values[one(values, "lora_B")][0, 0] = float("nan")


def larger(values: dict[str, torch.Tensor]) -> None:
    name = one(values, "lora_B")
    values[name] = torch.zeros(999, 3)


def another_width(values: dict[str, torch.Tensor]) -> None:
    values["prompt_embeddings"] = torch.zeros(4, 31)


def integers(values: dict[str, torch.Tensor]) -> None:
    values[one(values, "lora_B")] = torch.zeros(32, 3, dtype=torch.int64)


def an_encoders(values: dict[str, torch.Tensor]) -> None:
    values["bert.encoder.layer.0.output.dense.bias"] = torch.ones(32)


def a_longer_bias(values: dict[str, torch.Tensor]) -> None:
    values["classifier.bias"] = torch.ones(9)


def infinity(values: dict[str, torch.Tensor]) -> None:
    values["classifier.bias"][0] = float("inf")


TRAINED = "trained_parameters.safetensors"
BAD_TENSORS: list[tuple[str, str, Change, str]] = [
    ("NaN", "lora", tensors(nan), "NaN or infinity"),
    ("another shape", "lora", tensors(larger), "does not fit"),
    ("another width", "soft-prompt", tensors(another_width), "does not fit|shape"),
    ("one missing", "lora", tensors(lambda v: v.pop(one(v, "lora_B"))), "which the model needs"),
    ("no head", "lora", tensors(lambda v: v.pop(one(v, "classifier.weight"))), "fit .*classifier.weight"),
    ("one more", "lora", tensors(lambda v: v.update(x=torch.ones(3))), "'x', which the model has not"),
    ("integers", "lora", tensors(integers), "as I64"),
    ("none at all", "lora", lambda f: save_file({}, f / WEIGHTS), "no tensor"),
    ("no file", "lora", lambda f: (f / WEIGHTS).unlink(), "has no adapter_model"),
    ("cut short", "lora", lambda f: os.truncate(f / WEIGHTS, 5000), "in all|speaks of"),
    ("inner missing", "prefix+lora", lambda f: shutil.rmtree(f / "lora"), "no folder"),
    ("full: one missing", "full", tensors(lambda v: v.pop(one(v, "query")), TRAINED), "needs"),
    ("full: one more", "full", tensors(lambda v: v.update(x=torch.ones(1)), TRAINED), "has not"),
    ("head: an encoder's", "last-layer", tensors(an_encoders, TRAINED), "has not"),
    ("head: another shape", "last-layer", tensors(a_longer_bias, TRAINED), "shape .9., the model .3."),
    ("head: infinity", "last-layer", tensors(infinity, TRAINED), "NaN or infinity"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "change", "problem"), [row[1:] for row in BAD_TENSORS], ids=[r[0] for r in BAD_TENSORS]
)
def test_tensors_that_do_not_fit_are_refused(mode: str, change: Change, problem: str, hostile: Any) -> None:
    refused(mode, hostile(mode, change), problem)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "README.md"])
def test_a_link_is_refused_wherever_it_is(name: str, hostile: Any, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        outside = tmp_path / "outside"
        if (folder / name).exists():
            shutil.move(folder / name, outside)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside)

    folder = hostile("lora", change)
    refused("lora", folder, "symbolic link")
    with pytest.raises(UntrustedError, match="symbolic link"):
        adapter_sha256(folder)


def test_a_linked_folder_is_refused(hostile: Any, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        shutil.move(folder / "prompt", tmp_path / "outside")
        (folder / "prompt").symlink_to(tmp_path / "outside")

    folder = hostile("prefix+lora", change)
    refused("prefix+lora", folder, "symbolic link")
    with pytest.raises(UntrustedError, match="symbolic link"):
        adapter_sha256(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "other"])
def test_a_pipe_is_refused_and_not_waited_for(name: str, hostile: Any) -> None:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    refused("lora", hostile("lora", change), "a pipe")


def test_a_newer_pefts_settings_are_fine_where_they_are_off(hostile: Any) -> None:
    folder = hostile("lora", config(use_new_trick=False, new_trick_config=None, new_list=[]))
    assert load("lora", folder)
    assert read_adapter_config(folder).r == 3
    assert len(read_weights(folder / WEIGHTS).tensors) == 28


def test_half_precision_is_read(hostile: Any) -> None:
    def halve(values: dict[str, torch.Tensor]) -> None:
        values.update({name: value.to(torch.bfloat16) for name, value in values.items()})

    assert load("lora", hostile("lora", tensors(halve)))
