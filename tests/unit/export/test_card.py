"""What the README promises, and what the report says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpft.export import ExportReport
from dpft.export.plain import statement_in
from dpft.runs.files import FileEntry
from dpft.runs.statement import NOTHING_CLAIMED
from tests.unit.export import workshop
from tests.unit.export.workshop import MadeRun
from tests.unit.runs import builders


def text_of(folder: Path) -> str:
    return " ".join((folder / "README.md").read_text(encoding="utf-8").split())


@pytest.fixture
def make(root: Path, tmp_path: Path) -> Callable[..., MadeRun]:
    def make_run(mode: str, parts: Any = None, **options: Any) -> MadeRun:
        spec = workshop.make_spec(root / "tiny-base", mode, private=parts is not None, **options)
        return workshop.make_run(tmp_path / "home", spec, parts)

    return make_run


def test_a_private_runs_promise_goes_with_every_file(make: Callable[..., MadeRun], tmp_path: Path) -> None:
    run = make("lora", builders.private_parts, dataset="sst2")
    for format_name in ("peft", "merged"):
        folder = run.export(tmp_path / format_name, format_name).path
        statement = json.loads((folder / "privacy.json").read_text())["statement"]
        assert "ε ≤ 3.7697 and δ ≤ 1.00e-06" in statement
        assert statement in text_of(folder)
        [weights] = folder.glob("*.safetensors")
        header = json.loads(statement_in(weights) or "")
        assert (header.pop("export", {}).get("format", "peft"), len(header.pop("manifest_sha256"))) == (
            format_name,
            64,
        )
        assert header == {
            "run_id": run.record.run_id,
            "private": True,
            "epsilon": 3.76968,
            "delta": 1e-6,
            "unit": "example",
            "adjacency": "add-or-remove-one",
        }


def test_a_run_that_may_claim_nothing_says_so(make: Callable[..., MadeRun], tmp_path: Path) -> None:
    run = make("last-layer", builders.unclaimed_parts)
    folder = run.export(tmp_path / "export").path
    card = text_of(folder)
    assert f"{NOTHING_CLAIMED} (batches were not Poisson)" in card
    assert "treat it as a model trained without differential privacy" in card
    assert "≤" not in card
    [weights] = folder.glob("*.safetensors")
    assert json.loads(statement_in(weights) or "")["statement"] == NOTHING_CLAIMED


def test_card_names_base_model_dataset_labels_and_how_to_load(lora: MadeRun, tmp_path: Path) -> None:
    card = text_of(lora.export(tmp_path / "export").path)
    assert "# tiny-base, fine-tuned on mnli (lora)" in card
    assert "without differential privacy: nothing is promised" in card
    assert '"tiny-base", # a local folder of that name' in card
    assert 'id2label={0: "entailment", 1: "neutral", 2: "contradiction"}' in card
    assert "PeftModel.from_pretrained(model, folder)" in card
    assert "| 2 | contradiction |" in card
    assert '["a text"], ["its second text"]' in card
    assert "max_length=24" in card


def test_card_of_a_combined_mode_tells_the_order(make: Callable[..., MadeRun], tmp_path: Path) -> None:
    card = text_of(make("soft-prompt+lora", dataset="sst2").export(tmp_path / "export").path)
    assert "`lora`, then `prompt` on top of it, which carries the classification head" in card
    assert card.index("/lora") < card.index("/prompt")
    assert 'tokenizer(["a text"], truncation' in card


def test_card_of_a_whole_model_needs_no_base_model(lora: MadeRun, tmp_path: Path) -> None:
    card = text_of(lora.export(tmp_path / "export", "merged").path)
    assert "AutoModelForSequenceClassification.from_pretrained(folder)" in card
    assert "PeftModel" not in card


def test_report_is_the_json_contract() -> None:
    entry = FileEntry("a.txt", "ab" * 32, 7)
    report = ExportReport("0123456789abcdef", "peft", Path("out"), (entry,), 1.5e-6, ("peft>=1",))
    assert json.loads(json.dumps(report.to_json())) == {
        "run_id": "0123456789abcdef",
        "format": "peft",
        "path": "out",
        "files": [{"name": "a.txt", "sha256": "ab" * 32, "size": 7}],
        "max_logit_difference": 1.5e-6,
        "requires": ["peft>=1"],
    }
    assert ExportReport("0123456789abcdef", "onnx", Path("out"), (), 0.0, opset=17).to_json()["opset"] == 17


def test_the_report_costs_no_heavy_import() -> None:
    code = (
        "import sys, dpft.export; print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
