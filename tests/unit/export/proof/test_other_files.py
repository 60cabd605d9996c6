"""What an attacker, or a careless owner, puts beside honest files: each is planted, and must fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpft.errors import UntrustedError
from dpft.export.proof import verify
from dpft.export.proof.bounds import bounds_in
from dpft.runs.layout import is_run, stray_weights
from dpft.runs.tensors import read_header
from dpft.tables import EXPORT_FORMATS
from dpft.training.folder import open_folder
from dpft.tuning.files import adapter_sha256

from .conftest import Trained, list_anew, verified

pytestmark = pytest.mark.slow


def exchange_tensors(folder: Path, name: str, form: str) -> None:
    """Any tensors of the same shapes, their hash in their own header, and the files listed anew."""
    path = folder / name
    statement = json.loads(read_header(path).metadata["dpft"])
    tensors = {key: torch.randn_like(value) * 42 for key, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt", "dpft": "{}"})
    statement["export"] = {"format": form, "tensors_sha256": adapter_sha256(folder)}
    save_file(tensors, path, metadata={"format": "pt", "dpft": json.dumps(statement)})
    list_anew(folder)


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_an_adapter_cannot_name_its_own_hash(form: str, adapter: Path) -> None:
    manifest = (adapter / "privacy.json").read_bytes()
    exchange_tensors(adapter, "adapter_model.safetensors", form)
    assert (adapter / "privacy.json").read_bytes() == manifest
    assert verified(adapter) == ["header", "tensors"]
    (adapter / "config.json").write_text("{}")  # nor does it become a whole model by one more file
    list_anew(adapter)
    assert verify(adapter).kind == "adapter"
    assert verified(adapter) == ["header", "tensors", "files"]


def test_of_a_merged_model_no_more_is_said_than_is_known(run: Trained, tmp_path: Path) -> None:
    folder = EXPORT_FORMATS.get("merged")(run.record, run.spec, tmp_path / "merged").path
    honest = verify(folder)
    exchange_tensors(folder, "model.safetensors", "merged")
    forged = verify(folder)
    assert honest.ok
    assert forged.ok, "nothing in the folder contradicts it; should something do, say so in README"
    for found in (honest, forged):
        [detail] = [check.detail for check in found.checks if check.name == "tensors"]
        assert detail.startswith("bound to their own header only")
        assert "rewrote a whole model's tensors" in found.to_json()["limits"]
    assert "whole model" not in verify(run.record.run_dir).limits


def test_a_whole_model_of_trained_parameters_is_held_against_the_manifest(
    trains: Callable[..., Trained], tmp_path: Path
) -> None:
    run = trains("last-layer")
    folder = EXPORT_FORMATS.get("peft")(run.record, run.spec, tmp_path / "whole").path
    [detail] = [check.detail for check in verify(folder).checks if check.name == "tensors"]
    assert detail.startswith("the trained ones are those whose hash the manifest has; all others are bound")
    exchange_tensors(folder, "model.safetensors", "peft")
    assert verified(folder) == ["tensors"]


def test_a_decoy_does_not_lead_away_from_what_libraries_load(run: Trained, tmp_path: Path) -> None:
    """The victim's PEFT loads the root; a record and an honest ``adapter/`` stand beside it."""
    decoy = Path(shutil.copytree(run.record.run_dir / "adapter", tmp_path / "decoy"))
    shutil.copytree(run.record.run_dir / "adapter", decoy / "adapter")
    shutil.copy(run.record.run_dir / "run.json", decoy)
    tensors = {key: value * 42 for key, value in load_file(decoy / "adapter_model.safetensors").items()}
    save_file(tensors, decoy / "adapter_model.safetensors", metadata={"format": "pt"})
    list_anew(decoy)
    assert "files" in verified(decoy)
    with pytest.raises(UntrustedError, match="where no run has it"):
        open_folder(decoy)


@pytest.mark.parametrize(
    "name",
    ["adapter_config.json", "config.json", "model.safetensors", "more/adapter_model.safetensors", "a.ONNX"],
)
def test_weights_of_a_run_are_in_their_place(name: str, run_copy: Path) -> None:
    (run_copy / name).parent.mkdir(exist_ok=True)
    (run_copy / name).write_bytes(b"{}")
    list_anew(run_copy)
    assert "files" in verified(run_copy)
    with pytest.raises(UntrustedError, match="where no run has it"):
        open_folder(run_copy)


def test_one_rule_says_what_a_run_is(run_copy: Path, adapter: Path) -> None:
    assert open_folder(run_copy).adapter == run_copy / "adapter"
    assert open_folder(adapter).adapter == adapter
    names = ["run.json", "adapter/adapter_model.safetensors", "checkpoints/step-000001/weights.safetensors"]
    assert is_run(names)
    assert not is_run(names[1:])
    assert not stray_weights([*names, ".adapter/adapter_model.safetensors", "local-only/training.jsonl"])


@pytest.mark.parametrize("where", ["", "adapter"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.tsv", b"sentence\tlabel\na private text\t1\n"),
        ("training.csv", b"step,loss,median_norm,batch_size\n1,0.69312,1.23,19\n"),
        ("noise.key", bytes(range(32))),
        ("notes/README.md", b"what I saw in the data"),
        ("lora/train.tsv", b"a private text"),
        (".gitattributes", b"a private text\n"),
    ],
)
def test_no_file_that_nobody_knows(
    name: str, content: bytes, where: str, adapter: Path, run_copy: Path
) -> None:
    """Listed or not, alone or in a run's adapter."""
    folder = run_copy / where if where else adapter
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    check = "adapter files" if where else "files"
    subject = run_copy if where else adapter
    assert check in verified(subject)
    list_anew(folder)
    assert check in verified(subject)


def test_a_known_name_must_be_listed(adapter: Path) -> None:
    (adapter / "vocab.txt").write_text("a private text\n")
    assert verified(adapter) == ["files"]


def test_what_a_hub_adds_by_itself_is_let_be(adapter: Path) -> None:
    (adapter / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    fetched = adapter / ".cache" / "huggingface" / "download"
    fetched.mkdir(parents=True)
    (fetched / "README.md.metadata").write_text("0123\n")
    (fetched.parent / ".gitignore").write_text("*")
    assert verified(adapter) == []
    (fetched / "train.tsv").write_text("a private text")
    assert verified(adapter) == ["files"]


LIES: dict[str, tuple[str, str]] = {
    "is": ("ε", "epsilon is only 0.1"),
    "about": ("ε", "ε ≈ 0.1"),
    "table": ("ε", "| ε | `0.1` |"),
    "words": ("ε", "an Epsilon, all told, of merely 0.1"),
    "short": ("ε", "eps=.1"),
    "pair": ("ε", "this model is (0.1, 1e-9)-differentially private"),
    "pair of DP": ("ε", "it is (0.1, 1e-9)-DP"),
    "one": ("ε", "a 0.1-differentially private model"),
    "delta": ("δ", "with a delta that is no more than 1e-12"),
    "delta of a pair": ("δ", "(small, 1e-12)-differentially private"),
    "versions": ("ε", "ε 1.2.3"),
}


@pytest.mark.parametrize("lie", LIES)
def test_the_card_gives_no_other_bound_in_any_words(lie: str, adapter: Path) -> None:
    what, text = LIES[lie]
    card = adapter / "README.md"
    genuine = card.read_text()
    card.write_text(f"{genuine}\nIn short: {text}.\n")
    list_anew(adapter)
    failed = verify(adapter).failed
    assert [check.name for check in failed] == ["card"]
    assert what in failed[0].detail


@pytest.mark.parametrize(
    "text",
    ["trained by DP-SGD 0.2", "- ia3\n- differential-privacy", "ε and δ are in privacy.json", "bert-2, DP"],
)
def test_other_numbers_are_no_bounds(text: str) -> None:
    assert [*bounds_in(text, "ε"), *bounds_in(text, "δ")] == []


def test_a_published_digest_tells_a_rewritten_manifest(adapter: Path) -> None:
    found: Any = verify(adapter)
    assert verify(adapter, expect_sha256=found.manifest_sha256).ok
    failed = verify(adapter, expect_sha256="0" * 64).failed
    assert [check.name for check in failed] == ["published digest"]
