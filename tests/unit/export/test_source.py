"""Only a run whose files are what its manifest says is exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpft.errors import DataError, ExportError, NotFoundError, StoreError, UntrustedError
from dpft.export import build as story
from dpft.export.form import Form
from dpft.export.plain import PlainFolder, statement_in
from dpft.export.source import RestoredRun
from dpft.runs.manifest import Manifest
from dpft.runs.store import Store
from tests.unit.export import workshop
from tests.unit.export.workshop import MadeRun
from tests.unit.runs import builders


@pytest.fixture
def run(root: Path, tmp_path: Path) -> MadeRun:
    """A run of its own, to be damaged."""
    base = shutil.copytree(root / "tiny-base", tmp_path / "tiny-base")
    return workshop.make_run(tmp_path / "home", workshop.make_spec(base, "lora"))


def refused(run: MadeRun, error: type[Exception], match: str) -> None:
    output = run.record.run_dir.parents[2] / "export"
    with pytest.raises(error, match=match):
        run.export(output)
    assert not output.exists()


def test_a_failed_run_has_nothing_to_export(root: Path, tmp_path: Path) -> None:
    spec = workshop.make_spec(root / "tiny-base", "lora")
    store = Store(tmp_path / "home")
    with pytest.raises(DataError), store.create(spec) as active:
        raise DataError("a bad row")
    record = store.resolve(active.record.run_id)
    refused(MadeRun(record, spec, None), NotFoundError, "no adapter to export: it is failed")


def test_a_crashed_run_has_nothing_to_export(root: Path, tmp_path: Path) -> None:
    """Not even if its adapter was saved: nothing says what it cost."""
    spec = workshop.make_spec(root / "tiny-base", "lora")
    store = Store(tmp_path / "home")
    active = store.create(spec)
    active.adapter_dir.mkdir()
    active.close()
    record = store.resolve(active.record.run_id)
    refused(MadeRun(record, spec, None), NotFoundError, "no adapter to export: it is crashed")


def test_a_run_that_is_being_trained_has_nothing_to_export(root: Path, tmp_path: Path) -> None:
    spec = workshop.make_spec(root / "tiny-base", "lora")
    with Store(tmp_path / "home").create(spec) as active:
        refused(MadeRun(active.record, spec, None), NotFoundError, "no adapter to export: it is running")
        active.finish("failed", manifest=None)


def test_a_run_stopped_before_its_first_step_has_nothing_to_export(root: Path, tmp_path: Path) -> None:
    spec = workshop.make_spec(root / "tiny-base", "lora", private=True)
    with Store(tmp_path / "home").create(spec) as active:
        manifest = Manifest(**builders.stopped_parts(active.record.run_id))
        record = active.finish("interrupted", manifest=manifest.to_dict())
    refused(MadeRun(record, spec, None), NotFoundError, "it is interrupted, after 0 steps")


def test_changed_adapter_tensors_are_refused(run: MadeRun) -> None:
    workshop.corrupt(run.record.run_dir / "adapter" / "adapter_model.safetensors", "lora_A")
    refused(run, ExportError, "is not the one its manifest speaks of")


def test_a_changed_base_model_is_refused(run: MadeRun) -> None:
    """Run and export would agree with each other, and with nothing that was trained."""
    path = Path(run.spec.model.checkpoint) / "model.safetensors"
    tensors = load_file(path)
    tensors["bert.embeddings.LayerNorm.weight"] += 0.01
    save_file(tensors, path, metadata={"format": "pt"})
    refused(run, ExportError, "base model tiny-base has changed")


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_weights_without_the_runs_statement_are_refused(mode: str, root: Path, tmp_path: Path) -> None:
    spec = workshop.make_spec(root / "tiny-base", mode)
    run = workshop.make_run(tmp_path / "home", spec)
    path = next((run.record.run_dir / "adapter").glob("*.safetensors"))
    save_file(load_file(path), path, metadata={"format": "pt"})
    refused(run, ExportError, "statement")
    save_file(load_file(path), path, metadata={"format": "pt", "dpft": '{"run_id":"fedcba9876543210"}'})
    refused(run, ExportError, "it is of fedcba9876543210")


def test_a_manifest_of_another_run_is_refused(run: MadeRun) -> None:
    path = run.record.run_dir / "privacy.json"
    manifest = json.loads(path.read_text())
    workshop.change_json(path, identity={**manifest["identity"], "run_id": "fedcba9876543210"})
    refused(run, ExportError, "is of run fedcba9876543210")


def test_a_damaged_manifest_is_refused(run: MadeRun) -> None:
    (run.record.run_dir / "privacy.json").write_text("{")
    refused(run, StoreError, "cannot be read")


def test_weights_that_are_not_finite_are_refused(root: Path, tmp_path: Path) -> None:
    spec = workshop.make_spec(root / "tiny-base", "lora")
    run = workshop.make_run(tmp_path / "home", spec, scale=float("inf"))
    refused(run, UntrustedError, "holds NaN or infinity")


def test_a_base_model_named_by_a_path_is_named_in_public(run: MadeRun, tmp_path: Path) -> None:
    config = run.record.run_dir / "adapter" / "adapter_config.json"
    workshop.change_json(config, base_model_name_or_path=run.spec.model.checkpoint)
    run.export(tmp_path / "export")
    found = json.loads((tmp_path / "export" / "adapter_config.json").read_text())
    assert found["base_model_name_or_path"] == "tiny-base"


@pytest.mark.parametrize("path", ["home/runs/x", "tiny-base", "private-data/train.tsv", "export"])
def test_a_local_path_in_any_text_is_refused(path: str, run: MadeRun, tmp_path: Path) -> None:
    workshop.change_json(
        run.record.run_dir / "adapter" / "adapter_config.json", peft_version=str(tmp_path / path)
    )
    refused(run, ExportError, "adapter_config.json would name the local path")


def test_a_local_path_in_the_tokenizers_settings_is_refused(run: MadeRun) -> None:
    base = Path(run.spec.model.checkpoint)
    workshop.change_json(base / "tokenizer_config.json", trained_on=str(base / "corpus"))
    refused(run, ExportError, "tokenizer_config.json would name the local path")


def test_a_tokenizer_that_cuts_otherwise_is_refused(run: MadeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    original = story._write

    def write(form: Form, restored: RestoredRun, folder: Path, tolerance: float, warning: str) -> None:
        original(form, restored, folder, tolerance, warning)
        workshop.change_json(folder / "tokenizer_config.json", pad_token="[UNK]")

    monkeypatch.setattr(story, "_write", write)
    refused(run, ExportError, "tokenizer cuts texts differently")


@pytest.mark.parametrize("mode", ["lora", "ia3", "prefix+lora"])
def test_other_architectures(mode: str, tmp_path: Path) -> None:
    """RoBERTa: no pooler, one token type, positions that begin at two."""
    base = workshop.make_base(tmp_path / "tiny-roberta", "roberta")
    run = workshop.make_run(tmp_path / "home", workshop.make_spec(base, mode))
    assert run.export(tmp_path / "adapter").max_logit_difference <= 1e-5
    if mode in workshop.MERGEABLE:
        assert run.export(tmp_path / "merged", "merged").max_logit_difference <= 1e-3


def test_build_is_for_one_form_and_any_run(lora: MadeRun, tmp_path: Path) -> None:
    """A new format is a form: how to write, how to load afresh, how to say so."""
    form = PlainFolder("another", exact=False)
    report = story.build(form, lora.record, lora.spec, tmp_path / "export")
    assert report.format == "another"
    assert torch.isfinite(load_file(tmp_path / "export" / "model.safetensors")["classifier.weight"]).all()
    assert json.loads(statement_in(tmp_path / "export" / "model.safetensors") or "")["private"] is False
