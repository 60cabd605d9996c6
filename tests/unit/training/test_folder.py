"""Folders with adapters in them: recognised, put together exactly, believed as far as they prove it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpft.errors import DpftError, ModelError, NotFoundError, UntrustedError, UsageError
from dpft.spec import ModelSpec
from dpft.tables import MODES, TASKS
from dpft.training.folder import open_folder, restore_folder
from tests.unit.export import workshop
from tests.unit.export.workshop import MadeRun

pytestmark = pytest.mark.slow

LABELS = tuple(TASKS.get("mnli").labels)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    workshop.make_base(folder / "tiny-base")
    return folder


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, MadeRun]:
    return {
        mode: workshop.make_run(root / f"home-{mode}", workshop.make_spec(root / "tiny-base", mode))
        for mode in MODES.names()
    }


@pytest.fixture
def base(root: Path) -> ModelSpec:
    return ModelSpec(checkpoint=str(root / "tiny-base"))


@pytest.fixture
def copy(runs: dict[str, MadeRun], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run's directory, to be changed."""

    def made(mode: str) -> Path:
        return Path(shutil.copytree(runs[mode].record.run_dir, tmp_path / "copy"))

    return made


def scores_the_same(folder: Path, run: MadeRun, base: ModelSpec | None) -> None:
    model, tokenizer, _ = restore_folder(open_folder(folder), base, LABELS)
    batch = workshop.a_batch()
    difference = workshop.logits_of(model, batch) - workshop.logits_of(run.model, batch)
    assert difference.abs().max() <= 1e-5
    assert tokenizer.pad_token_id == 0


@pytest.mark.parametrize("mode", MODES.names())
def test_a_runs_directory_its_adapter_and_its_export(
    mode: str, runs: dict[str, MadeRun], base: ModelSpec, tmp_path: Path
) -> None:
    run = runs[mode]
    directory = run.record.run_dir
    found = open_folder(directory)
    assert (found.mode and found.mode.name, found.run_id) == (mode, run.record.run_id)
    assert (found.dataset, found.virtual_tokens) == ("sst2", run.spec.tuning.num_prepend_tokens or 0)
    scores_the_same(directory, run, base)

    run.export(tmp_path / "export")
    whole = not MODES.get(mode).parts
    exported = open_folder(tmp_path / "export")
    assert (exported.mode is None, exported.run_id) == (whole, run.record.run_id)
    scores_the_same(tmp_path / "export", run, None if whole else base)

    if not whole:  # what plain tensors are, only the manifest says
        assert open_folder(directory / "adapter").run_id == run.record.run_id
        scores_the_same(directory / "adapter", run, base)


def test_tensors_alone_do_not_say_what_they_are(runs: dict[str, MadeRun]) -> None:
    with pytest.raises(UntrustedError, match="says which parameters"):
        open_folder(runs["full"].record.run_dir / "adapter")


def test_the_base_model_must_be_the_one_that_was_trained_on(
    copy: Callable[[str], Path], root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other-base"
    shutil.copytree(root / "tiny-base", other)
    values = load_file(other / "model.safetensors")
    values["bert.embeddings.LayerNorm.weight"] += 0.01
    save_file(values, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not the one that this run was trained on"):
        restore_folder(open_folder(copy("lora")), ModelSpec(checkpoint=str(other)), LABELS)


def change(path: Path, edit: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("name", ["/etc", "../tiny-base", "./x", "a/b/c", "~/x", "a\\b", "C:model", "", "-m"])
def test_a_folder_may_not_choose_a_path(name: str, copy: Callable[[str], Path]) -> None:
    folder = copy("lora") / "adapter"
    change(folder / "adapter_config.json", lambda config: config.update(base_model_name_or_path=name))
    with pytest.raises(UsageError, match="names its base model") as caught:
        restore_folder(open_folder(folder), None, LABELS)
    assert "-m" in caught.value.hint


def test_a_name_that_is_a_folder_here_is_not_taken(
    copy: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-base").mkdir()
    with pytest.raises(UsageError, match="a path"):
        restore_folder(open_folder(copy("lora")), None, LABELS)


def test_a_hub_id_is_taken_with_its_commit(
    copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def restore(spec: ModelSpec, *_: Any, **__: Any) -> Any:
        asked.append(spec)
        return None, None

    monkeypatch.setattr("dpft.training.folder.restore", restore)
    folder = copy("lora")
    for name in ("someone/some-model", "sentence-transformers/all-MiniLM-L6-v2"):
        named = {"checkpoint": name, "revision": "abc"}
        change(folder / "privacy.json", lambda manifest, named=named: manifest["base_model"].update(named))
        restore_folder(open_folder(folder), None, LABELS)
    assert asked[0] == ModelSpec(checkpoint="someone/some-model", revision="abc")
    assert asked[1].checkpoint in ("builtin:minilm", "sentence-transformers/all-MiniLM-L6-v2")


WEIGHTS, CONFIG = "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
PROMPT = "adapter/prompt/adapter_config.json"


def trained(mode: str) -> Callable[[Path], object]:
    """A manifest that speaks of another mode."""

    def made(folder: Path) -> None:
        change(folder / "privacy.json", lambda manifest: manifest["mechanism"].update(finetune_mode=mode))

    return made


def claims(**values: Any) -> Callable[[Path], object]:
    return lambda folder: change(folder / "privacy.json", lambda manifest: manifest.update(values))


def configures(**values: Any) -> Callable[[Path], object]:
    return lambda folder: change(folder / CONFIG, lambda config: config.update(values))


BAD: list[tuple[str, str, Callable[[Path], object], str]] = [
    ("tensors", "lora", lambda f: workshop.corrupt(f / WEIGHTS, "lora_A"), "is not the one its manifest"),
    ("mode", "lora", trained("ia3"), "manifest is of 'ia3'"),
    ("schema", "lora", claims(extra=1), "no manifest"),
    ("claim", "lora", claims(private=True), "no manifest"),
    ("link", "lora", lambda f: relink(f / "privacy.json"), "symbolic link"),
    ("adapter link", "lora", lambda f: relink(f / "adapter"), "symbolic link"),
    ("nothing", "lora", lambda f: (f / CONFIG).unlink(), "holds no adapter"),
    ("half", "prefix+lora", lambda f: (f / PROMPT).unlink(), "holds no adapter"),
    ("swapped", "prefix+lora", lambda f: (f / PROMPT).write_text('{"peft_type": "LORA"}'), "no adapter"),
    ("tokens", "prefix", configures(num_virtual_tokens=-1), "num_virtual_tokens"),
    ("plain mode", "full", trained("lora"), "says which parameters"),
    ("other plain mode", "full", trained("last-layer"), "which the model has not"),
]


def relink(path: Path) -> None:
    moved = path.with_name(f"moved-{path.name}")
    path.rename(moved)
    path.symlink_to(moved)


@pytest.mark.parametrize(("mode", "edit", "problem"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_folder_that_contradicts_itself_is_refused(
    mode: str, edit: Callable[[Path], object], problem: str, copy: Callable[[str], Path], base: ModelSpec
) -> None:
    folder = copy(mode)
    edit(folder)
    with pytest.raises(DpftError, match=problem) as caught:
        restore_folder(open_folder(folder), base, LABELS)
    assert isinstance(caught.value, UntrustedError | NotFoundError)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_folder(tmp_path / "absent")
    with pytest.raises(UntrustedError, match="holds no adapter"):
        open_folder(tmp_path)


# -- whole models


@pytest.fixture(scope="module")
def exported(runs: dict[str, MadeRun], root: Path) -> Path:
    runs["full"].export(root / "whole")
    return root / "whole"


@pytest.fixture
def whole(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "whole"))


def settings(name: str = "config.json", **values: Any) -> Callable[[Path], object]:
    return lambda folder: change(folder / name, lambda config: config.update(values))


def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def made(folder: Path) -> None:
        values = load_file(folder / "model.safetensors")
        edit(values)
        save_file(values, folder / "model.safetensors", metadata={"format": "pt"})

    return made


INDEX = "model.safetensors.index.json"
BAD_WHOLE: list[tuple[Callable[[Path], object], str]] = [
    (settings(auto_map={"AutoConfig": "evil.C"}), "auto_map"),
    (settings("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}), "auto_map"),
    (settings(text_config={"auto_map": {"AutoConfig": "evil.C"}}), "auto_map"),
    (settings(attn_implementation="kernels-somebody/attention"), "may be fetched and run"),
    (settings(_attn_implementation="kernels-somebody/attention"), "may be fetched and run"),
    (settings(quantization_config={"quant_method": "evil"}), "quantization_config"),
    (settings(hidden_size=1 << 40), "hidden_size"),
    (settings(num_hidden_layers=10**6), "num_hidden_layers"),
    (settings(num_hidden_layers=3), "has no tensor bert.encoder.layer.2"),
    (settings(num_hidden_layers=1), "which the model has not"),
    (settings(hidden_size=64), "in the shape"),
    (settings(model_type="evil"), "no classifier that transformers knows"),
    (settings(model_type=["bert"]), "no classifier that transformers knows"),
    (settings(id2label={"0": "a", "1": "b", "2": "c"}), "answers 'a/b/c'"),
    (tensors(lambda v: v["classifier.bias"].fill_(float("nan"))), "NaN or infinity"),
    (tensors(lambda v: v.pop("classifier.bias")), "has no tensor classifier.bias"),
    (tensors(lambda v: v.update(extra=torch.ones(1))), "'extra', which the model has not"),
    (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "has no model.safetensors"),
    (lambda f: relink(f / "tokenizer.json"), "symbolic link"),
    (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
    (lambda f: (f / INDEX).write_text('{"weight_map": {"w": "../x"}}'), "not plainly inside"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "problem"), BAD_WHOLE)
def test_a_whole_model_that_is_more_or_less_is_refused(
    edit: Callable[[Path], object], problem: str, whole: Path
) -> None:
    edit(whole)
    with pytest.raises(DpftError, match=problem) as caught:
        restore_folder(open_folder(whole), None, LABELS)
    assert isinstance(caught.value, UntrustedError | UsageError)
    assert caught.value.hint


def test_a_whole_model_has_no_base(whole: Path, base: ModelSpec) -> None:
    with pytest.raises(UsageError, match="is a whole model"):
        restore_folder(open_folder(whole), base, LABELS)
