"""Every export format, in every mode: the run's logits from the folder alone, or a refusal and no trace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpft.errors import ExportError, UsageError
from dpft.export import ExportReport
from dpft.export.adapters import AdapterFolder
from dpft.export.plain import PlainFolder, statement_in
from dpft.export.source import open_run, restore_run
from dpft.runs.files import sha256_file
from dpft.runs.manifest import manifest_sha256
from dpft.runs.onnx_file import read_onnx
from dpft.tables import EXPORT_FORMATS, MODES
from dpft.tuning.files import adapter_sha256
from tests.unit.export import workshop
from tests.unit.export.workshop import MERGEABLE, SEED, MadeRun

ALWAYS = {
    "README.md", "files.json", "privacy.json", "requirements.txt", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
GRAPH = {"config.json", "model.onnx"}
WHOLE = {"config.json", "model.safetensors"}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
CASES = [
    (format_name, mode)
    for format_name in EXPORT_FORMATS.names()
    for mode in MODES.names()
    if format_name != "merged" or mode in MERGEABLE
]
if find_spec("onnxruntime") is None or find_spec("onnx") is None:  # an extra
    CASES = [case for case in CASES if case[0] != "onnx"]


class Runs:
    """One run per mode, and one export per format of it, made when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base = workshop.make_base(root / "tiny-base")
        self.place = root / "exports"
        self._made: dict[str, MadeRun] = {}
        self._exported: dict[tuple[str, str], ExportReport] = {}

    def __getitem__(self, mode: str) -> MadeRun:
        if mode not in self._made:
            spec = workshop.make_spec(self.base, mode)
            self._made[mode] = workshop.make_run(self.root / "home", spec)
        return self._made[mode]

    def exported(self, format_name: str, mode: str) -> ExportReport:
        key = (format_name, mode)
        if key not in self._exported:
            self._exported[key] = self[mode].export(self.place / f"{format_name}-{mode}", format_name)
        return self._exported[key]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("exports"))


def expected_files(format_name: str, mode: str) -> set[str]:
    parts = MODES.get(mode).parts
    if format_name == "onnx":
        return ALWAYS | GRAPH
    if format_name == "merged" or not parts:
        return ALWAYS | WHOLE
    return ALWAYS | {f"{part}/{name}" if part else name for part in parts for name in ADAPTER}


@pytest.mark.parametrize(("format_name", "mode"), CASES)
def test_export_holds_what_it_should_and_nothing_else(format_name: str, mode: str, runs: Runs) -> None:
    run, report, output = runs[mode], runs.exported(format_name, mode), runs.place / f"{format_name}-{mode}"

    assert (report.run_id, report.format, report.path) == (run.record.run_id, format_name, output)
    assert not [path.name for path in runs.place.iterdir() if path.name.startswith(".")]
    assert set(workshop.names_in(output)) == expected_files(format_name, mode)
    assert [entry.name for entry in report.files] == workshop.names_in(output)
    for entry in report.files:
        assert entry.sha256 == sha256_file(output / entry.name)
        assert entry.size == (output / entry.name).stat().st_size
    exact = format_name == "peft" or (format_name == "merged" and not MODES.get(mode).parts)
    scale = max(1.0, float(workshop.logits_of(run.model, workshop.a_batch()).abs().max()))
    assert 0 <= report.max_logit_difference <= (1e-5 if exact else 1e-4 * scale)

    assert (output / "privacy.json").read_bytes() == (run.record.run_dir / "privacy.json").read_bytes()
    assert (
        json.loads((output / "privacy.json").read_bytes())["statement"] in (output / "README.md").read_text()
    )
    manifest = json.loads((output / "privacy.json").read_bytes())
    header = {
        "run_id": run.record.run_id,
        "private": False,
        "manifest_sha256": manifest_sha256(manifest),
    }
    assert (output / "requirements.txt").read_text().split() == list(report.requires)
    if format_name == "onnx":
        file = read_onnx(output / "model.onnx")
        export = {"format": "onnx", "model_sha256": file.sha256}
        assert json.loads(file.metadata["dpft"]) == {**header, "export": export}
        assert report.opset == 17
    elif "model.safetensors" in expected_files(format_name, mode):
        header["export"] = {"format": format_name, "tensors_sha256": adapter_sha256(output)}
    else:
        assert manifest["evidence"]["tensors_sha256"] == adapter_sha256(output)
    for path in output.rglob("*.safetensors"):
        assert json.loads(statement_in(path) or "") == header
    listed = json.loads((output / "files.json").read_bytes())["files"]
    assert listed == [entry.to_json() for entry in report.files if entry.name != "files.json"]


@pytest.mark.parametrize(("format_name", "mode"), CASES)
def test_no_file_names_this_machine_a_seed_or_the_users_notes(
    format_name: str, mode: str, runs: Runs
) -> None:
    output = runs.exported(format_name, mode).path
    forbidden = [str(runs.root), "private-data", str(SEED), "secret-tag", "secret-note"]
    for path in filter(Path.is_file, output.rglob("*")):
        content = path.read_bytes()
        for text in forbidden:
            assert text.encode() not in content, (path.name, text)
    for path in output.rglob("*.json"):
        found = json.loads(path.read_text())
        for key in ("_name_or_path", "name_or_path", "is_local", "local_files_only"):
            assert key not in found, (path.name, key)
        assert found.get("base_model_name_or_path", "tiny-base") == "tiny-base"


IN_A_FRESH_PROCESS = """
import re, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file

batch, found = load_file("batch.safetensors"), {}
for folder in sys.argv[1:]:
    blocks = re.findall(r"```python\\n(.*?)```", Path(folder, "README.md").read_text(), re.DOTALL)
    load, use, *others = (block.replace('folder = "."', f"folder = {folder!r}") for block in blocks)
    for number, block in enumerate((load, *others)):
        names = {}
        exec(block, names)
        with torch.no_grad():
            if "session" in names:
                arrays = {entry.name: batch[entry.name].numpy() for entry in names["session"].get_inputs()}
                found[folder] = torch.from_numpy(names["session"].run(["logits"], arrays)[0])
            else:
                found[folder + "!" * number] = names["model"](**batch).logits
        exec(use, names)
        assert names["label"] in ("entailment", "neutral", "contradiction"), names["label"]
assert not any(name.partition(".")[0] == "dpft" for name in sys.modules)
save_file(found, "logits.safetensors")
"""


def test_the_cards_own_code_gives_the_models_logits_in_a_process_without_dpft(runs: Runs) -> None:
    """The base model is found by its public name: it lies in the working folder."""
    batch, root = workshop.a_batch(), runs.root
    save_file(batch, root / "batch.safetensors")
    expected = {}
    for format_name, mode in CASES:
        folder = runs.exported(format_name, mode).path.relative_to(root).as_posix()
        expected[folder] = workshop.logits_of(runs[mode].model, batch)
    done = subprocess.run(
        [sys.executable, "-I", "-c", IN_A_FRESH_PROCESS, *expected],
        cwd=root,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = load_file(root / "logits.safetensors")
    single = {f"exports/peft-{mode}" for mode in MODES.names() if len(MODES.get(mode).parts) == 1}
    assert found.keys() == expected.keys() | {f"{folder}!" for folder in single}  # AutoPeft finds these too
    for folder, logits in found.items():
        right, rounded = expected[folder.rstrip("!")], folder.startswith(("exports/merged", "exports/onnx"))
        tolerance = 1e-4 * max(1.0, float(right.abs().max())) if rounded else 1e-5
        difference = float((logits - right).abs().max())
        print(f"{folder.removeprefix('exports/'):24} {difference:.2g}")  # seen with -s
        assert difference <= tolerance, folder


@pytest.mark.parametrize("mode", [mode for mode in MODES.names() if mode not in MERGEABLE])
def test_virtual_tokens_cannot_be_merged(mode: str, runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be merged") as caught:
        runs[mode].export(tmp_path / "new" / "export", "merged")
    assert "--format peft" in caught.value.hint
    assert "onnx" in caught.value.hint
    assert not list(tmp_path.iterdir())


CORRUPTIONS = [
    ("peft", "full", "model.safetensors", "layer.0.attention.self.query.weight"),
    ("peft", "last-layer", "model.safetensors", "classifier.bias"),
    ("peft", "lora", "adapter_model.safetensors", "lora_B"),
    ("peft", "ia3", "adapter_model.safetensors", "ia3_l"),
    ("peft", "prefix", "adapter_model.safetensors", "prompt_embeddings"),
    ("peft", "soft-prompt", "adapter_model.safetensors", "prompt_embeddings"),
    ("peft", "soft-prompt+lora", "lora/adapter_model.safetensors", "lora_A"),
    ("peft", "soft-prompt+lora", "prompt/adapter_model.safetensors", "pooler"),
    ("peft", "prefix+lora", "lora/adapter_model.safetensors", "lora_B"),
    ("peft", "prefix+lora", "prompt/adapter_model.safetensors", "classifier"),
    ("merged", "lora", "model.safetensors", "pooler"),
    ("merged", "ia3", "model.safetensors", "layer.1.output.dense.weight"),
]


@pytest.mark.parametrize(("format_name", "mode", "file", "tensor"), CORRUPTIONS)
def test_an_export_that_computes_something_else_is_never_published(
    format_name: str,
    mode: str,
    file: str,
    tensor: str,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for form in (AdapterFolder, PlainFolder):

        def write(self: Any, run: Any, folder: Path, original: Any = form.write) -> None:
            original(self, run, folder)
            workshop.corrupt(folder / file, tensor)

        monkeypatch.setattr(form, "write", write)
    with pytest.raises(ExportError, match="does not reproduce the run"):
        runs[mode].export(tmp_path / "export", format_name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["soft-prompt+lora", "prefix+lora"])
def test_combined_modes_keep_every_part_when_plain_peft_loads_them(
    mode: str, runs: Runs, tmp_path: Path
) -> None:
    """LoRA, virtual tokens and head: each is saved once, loaded, and counts."""
    run, folder = runs[mode], tmp_path / "export"
    shutil.copytree(runs.exported("peft", mode).path, folder)
    form, restored = AdapterFolder(MODES.get(mode)), restore_run(open_run(run.record, run.spec))
    batch = workshop.a_batch()
    expected = workshop.logits_of(run.model, batch)
    assert torch.allclose(workshop.logits_of(form.load(restored, folder), batch), expected, rtol=0, atol=1e-5)
    kinds = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found = {".".join(name.split(".")[-2:]): name for name in load_file(path)}  # of each kind, the last
        assert not found.keys() & kinds.keys()
        kinds |= found
        content = path.read_bytes()
        for tensor in found.values():
            workshop.corrupt(path, tensor)
            changed = workshop.logits_of(form.load(restored, folder), batch)
            assert float((changed - expected).abs().max()) > 1e-3, tensor
            path.write_bytes(content)
    head = {"dense.weight", "dense.bias", "classifier.weight", "classifier.bias"}
    assert kinds.keys() == {"lora_A.weight", "lora_B.weight", "prompt_embeddings", *head}
