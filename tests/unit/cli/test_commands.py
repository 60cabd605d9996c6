"""Commands with everything behind them, on a tiny model, in this process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from dpft.runs.store import Store
from tests.unit.runs.builders import make_spec

from .conftest import Command

RUN_KEYS = {
    "run_id",
    "name",
    "dataset",
    "finetune_mode",
    "status",
    "private",
    "noise_multiplier",
    "sample_rate",
    "delta",
    "epsilon",
    "steps",
    "trainable_parameters",
    "metrics",
    "seconds",
    "run_dir",
}
PRIVATE_KEYS = {"epsilon", "delta", "noise_multiplier", "sample_rate", "target_epsilon"}


@pytest.fixture
def settings(tiny_model: Path, glue_dir: Path) -> list[object]:
    return ["-m", tiny_model, "--data-dir", glue_dir, "--max-length", 32]


@pytest.fixture
def tiny(settings: list[object]) -> list[object]:
    return [*settings, "--batch-size", 12, "--epochs", 1]


def test_prepare_says_what_is_new_and_what_is_cached(dpft: Command, settings: list[object]) -> None:
    first = dpft("prepare", "sst2", "qnli", *settings, "--json").json
    assert set(first) == {"datasets"}
    for dataset in first["datasets"]:
        assert set(dataset) == {"dataset", "cache_key", "cached", "max_length", "splits"}
        assert dataset["splits"] == {
            "train": {"rows": 60, "truncated": 0},
            "validation": {"rows": 20, "truncated": 0},
        }
    assert [dataset["cached"] for dataset in first["datasets"]] == [False, False]
    again = dpft("prepare", "-d", "sst2,qnli", *settings)
    assert again.out.count("found in the cache") == 2
    assert "train         60          0" in again.out
    keys = [dataset["cache_key"] for dataset in first["datasets"]]
    assert dpft("prepare", "sst2", "qnli", *settings, "-q").out.split() == keys
    cut = dpft("prepare", "sst2", *settings[:-1], 8, "--json").json
    assert cut["datasets"][0]["splits"]["train"]["truncated"] > 0


def test_a_plan_trains_nothing(dpft: Command, tiny: list[object]) -> None:
    (plan,) = dpft("train", "sst2", *tiny, "--plan", "--json").json["runs"]
    unknown = {"run_id", "name", "metrics", "seconds", "run_dir"}
    estimated = {"estimated_seconds", "estimated_peak_memory_bytes"}
    assert set(plan) == RUN_KEYS - unknown | {"model_checkpoint", "ledger"} | estimated
    assert 0 < plan["estimated_seconds"] < 3600
    assert 1e7 < plan["estimated_peak_memory_bytes"] < 1e11
    assert plan["ledger"] == {
        "runs": 0, "unprotected_runs": 0, "delta": plan["delta"], "before": 0.0, "after": plan["epsilon"],
    }  # fmt: skip
    assert plan["status"] == "planned"
    assert 0 < plan["epsilon"] <= 8
    assert (plan["steps"], plan["sample_rate"]) == (5, 0.2)
    outcome = dpft("train", "sst2", "qnli", *tiny, "--plan", "--noise-multiplier", 3, "--name", "trial")
    assert outcome.code == 0
    assert "sst2 · lora · planned" in outcome.out
    assert "qnli · lora · planned" in outcome.out
    assert "σ 3.0000" in outcome.out
    assert "of training on this machine as it is now; about " in outcome.out
    (ordinary,) = dpft("train", "sst2", *tiny, "--plan", "--no-dp", "--no-probe", "--json").json["runs"]
    assert not estimated & set(ordinary)
    alone = dpft("train", "sst2", *tiny, "--no-probe")
    assert (alone.code, "without --plan" in alone.err) == (2, True)
    assert PRIVATE_KEYS & set(ordinary) == set()
    assert Store().list() == []


def test_a_run_and_its_score(dpft: Command, tiny: list[object], glue_dir: Path, tmp_path: Path) -> None:
    (run,) = dpft("train", "sst2", *tiny, "--noise-multiplier", 3, "--name", "my-run", "--json").json["runs"]
    assert set(run) >= RUN_KEYS
    assert run["epsilon"] > 0
    assert dpft("list", "--json").json["runs"] == [run]
    assert dpft("list", "-q").out == run["run_id"] + "\n"
    assert dpft("list", "--dataset", "qnli", "--json").json["runs"] == []
    assert dpft("list", "--status", "completed", "-q").out == run["run_id"] + "\n"

    score = dpft("eval", run["run_id"][:6], "--json").json
    assert set(score) == {
        "run_id",
        "dataset",
        "split",
        "rows",
        "metrics",
        "baselines",
        "confidence_interval",
        "single_class_collapse",
        "includes_training_rows",
    }
    assert (score["run_id"], score["split"], score["rows"]) == (run["run_id"], "validation", 20)
    assert score["metrics"] == run["metrics"]
    assert score["baselines"] == run["baselines"] == {"majority": 0.65}
    assert score["includes_training_rows"] is False
    low, high = score["confidence_interval"]
    assert low <= score["metrics"]["accuracy"] <= high

    outcome = dpft("eval", "my-run", "--split", "train")
    assert "my-run on sst2/train" in outcome.out
    assert "warning: scores of the training split" in outcome.err
    assert dpft("eval", "@1", "--split", "test").code == 2
    refused = dpft("eval", "@latest", "--dataset", "qnli")
    assert refused.code == 2
    assert "negative/positive" in refused.err
    folder = tmp_path / "shared"
    assert dpft("export", "my-run", "--output", folder).code == 0
    of_folder = ("eval", folder, *tiny[:6], "--json")
    assert dpft(*of_folder).json == {**score, "path": str(folder)}
    assert dpft("eval", run["run_dir"], "--json").json == score  # the run itself
    assert dpft("eval", Path(run["run_dir"]) / "adapter", "--json").json == score
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    pickled = dpft(*of_folder)
    assert (pickled.code, pickled.json["error"]["type"]) == (1, "UntrustedError")
    assert dpft("eval", tmp_path / "absent").code == dpft("eval", "shared").code == 3
    moved = tmp_path / "elsewhere"
    shutil.copytree(glue_dir, moved)
    assert dpft("eval", "@latest", "--data-dir", moved, "--max-length", 16).code == 0


def test_a_run_on_a_dataset_smaller_than_a_batch_is_refused(dpft: Command, settings: list[object]) -> None:
    outcome = dpft("train", "sst2", *settings, "--batch-size", 1024)
    assert outcome.code == 2
    assert "--batch-size 1024 is larger than the 60 training examples" in outcome.err
    assert Store().list() == []


def test_a_bad_row_is_named_and_nothing_written(
    dpft: Command, tiny: list[object], glue_dir: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(glue_dir, bad)
    with (bad / "SST-2" / "train.tsv").open("a") as file:
        file.write("no label here\n")
    tiny[tiny.index(glue_dir)] = bad
    for command in ("prepare", "train"):
        arguments = tiny if command == "train" else tiny[:-4]
        outcome = dpft(command, "sst2", *arguments)
        assert outcome.code == 1
        assert "train.tsv, line 62" in outcome.err
    assert Store().list() == []


def test_an_empty_guarantee_is_refused(dpft: Command, tiny: list[object]) -> None:
    outcome = dpft("train", "sst2", *tiny, "--target-delta", 0.5, "--json")
    assert outcome.code == 4
    assert outcome.json["error"]["type"] == "PrivacyError"
    assert Store().list() == []


def test_a_locked_store_is_told(dpft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults: Any = Store.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "lock_timeout", 0.1)
    Store().create(make_spec()).close()  # left as running: the list must be mended
    with FileLock(Path(os.environ["DPFT_HOME"]) / "registry.lock"):
        outcome = dpft("list", "--json")
    assert (outcome.code, outcome.json["error"]["type"]) == (5, "LockedError")
    assert [run["status"] for run in dpft("list", "--json").json["runs"]] == ["crashed"]


def test_a_run_without_an_adapter_cannot_be_used(dpft: Command) -> None:
    Store().create(make_spec("my-run")).close()
    for command in ("eval", "export"):
        outcome = dpft(command, "my-run")
        assert outcome.code == 3
        assert "run my-run has no adapter: it is crashed" in outcome.err


def test_an_ambiguous_reference_lists_its_matches(dpft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for digit in "12":
        monkeypatch.setattr("dpft.runs.store.new_run_id", lambda digit=digit: f"abc{digit}" * 4)
        Store().create(make_spec(f"run-{digit}")).close()
    outcome = dpft("eval", "abc", "--json")
    assert (outcome.code, outcome.json["error"]["type"]) == (3, "AmbiguousError")
    assert "run-1" in outcome.json["error"]["message"]


def test_exports(dpft: Command, tiny: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_id = dpft("train", "sst2", *tiny, "--noise-multiplier", 3, "--name", "my-run", "-q").out.strip()
    report = dpft("export", "my-run", "--json").json
    assert set(report) == {"run_id", "format", "path", "files", "max_logit_difference", "requires"}
    assert (report["run_id"], report["format"]) == (run_id, "peft")
    assert report["path"] == str(tmp_path / "my-run-peft")
    for file in report["files"]:
        assert set(file) == {"name", "sha256", "size"}
        assert (tmp_path / "my-run-peft" / file["name"]).stat().st_size == file["size"]
    assert dpft("export", "my-run").code == 2
    assert dpft("export", "my-run", "--overwrite").code == 0
    merged = dpft("export", run_id[:8], "--format", "merged", "--output", "model")
    assert merged.code == 0
    assert "exported as merged" in merged.out
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert dpft("export", "my-run", "--format", "gguf").code == 2
