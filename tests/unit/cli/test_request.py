"""From options to specs: spellings, precedence, defaults, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpft.tables import MODES

from .conftest import Command, FakeTraining


@pytest.mark.parametrize(
    "arguments",
    [
        ["--datasets", "qnli", "qqp"],
        ["-d", "qnli", "qqp"],
        ["-d", "qnli", "-d", "qqp"],
        ["--datasets=qnli", "--datasets=qqp"],
        ["-d", "qnli,qqp"],
        ["-d", "qnli, qqp,"],
        ["qnli", "qqp"],
        ["qnli,qqp"],
        ["--datasets", "qnli", "qqp", "--epochs", "1"],
        ["--epochs", "1", "qnli", "qqp"],
        ["-d", "qnli", "qqp", "qnli"],
    ],
)
def test_datasets_in_every_spelling(dpft: Command, training: FakeTraining, arguments: list[str]) -> None:
    assert dpft("train", *arguments).code == 0
    assert [spec.data.dataset for spec in training.specs] == ["qnli", "qqp"]


def test_the_established_command_works_as_written(dpft: Command, training: FakeTraining) -> None:
    command = "--datasets qnli qqp --finetune-mode ia3 --enable-dp --target-epsilon 8.0 --max-grad-norm 0.1"
    assert dpft("train", *command.split()).code == 0
    for spec in training.specs:
        assert (spec.tuning.mode, spec.privacy.enabled, spec.privacy.target_epsilon) == ("ia3", True, 8.0)
        assert spec.privacy.max_grad_norm == 0.1


def test_underscores_are_hyphens_in_names_and_stay_in_values(dpft: Command, training: FakeTraining) -> None:
    dpft(
        "train", "-d", "demo", "--finetune_mode", "lora", "--lora_r=3", "--note", "--a_b", "--batch_size", "7"
    )
    (spec,) = training.specs
    assert (spec.tuning.lora_r, spec.note, spec.optimisation.batch_size) == (3, "--a_b", 7)


@pytest.mark.parametrize("mode", MODES.names())
@pytest.mark.parametrize("private", [True, False])
def test_defaults_are_the_modes(dpft: Command, training: FakeTraining, mode: str, private: bool) -> None:
    assert dpft("train", "demo", "-f", mode, "--enable-dp" if private else "--no-dp").code == 0
    (spec,) = training.specs
    defaults = MODES.get(mode).defaults
    expected = defaults.learning_rate if private else defaults.learning_rate_without_privacy
    assert spec.optimisation.learning_rate == expected
    assert spec.privacy.max_grad_norm == defaults.max_grad_norm
    assert spec.tuning.num_prepend_tokens == defaults.num_prepend_tokens
    assert spec.privacy.enabled is private


def test_what_is_given_is_used(dpft: Command, training: FakeTraining, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "--data-dir": tmp_path,
        "--model-checkpoint": "a/b",
        "--base-data-overlap": "possible",
        "--max-length": 64,
        "--finetune-mode": "soft-prompt+lora",
        "--learning-rate": 0.25,
        "--epochs": 1.5,
        "--batch-size": 33,
        "--lora-r": 5,
        "--lora-alpha": 6,
        "--num-prepend-tokens": 9,
        "--seed": 11,
        "--target-epsilon": 2,
        "--target-delta": 1e-7,
        "--public-n": 5000,
        "--max-grad-norm": 0.75,
        "--clipping": "flat",
        "--engine": "dpft",
        "--budget-cap": 20,
        "--micro-batch-tokens": 512,
        "--checkpoint-every": 40,
        "--name": "my-run",
        "--tag": "first",
        "--note": "a note",
    }
    arguments = [text for pair in given.items() for text in pair]
    assert dpft("train", "sst2", *arguments, "--tag", "second").code == 0
    (spec,) = training.specs
    assert spec.model_dump(exclude={"schema_version"}) == {
        "name": "my-run",
        "tags": ("first", "second"),
        "note": "a note",
        "data": {
            "dataset": "sst2",
            "data_dir": str(tmp_path),
            "data_file": None,
            "validation_file": None,
            "text_columns": (),
            "label_column": None,
            "labels": (),
            "max_length": 64,
        },
        "model": {"checkpoint": "a/b", "revision": None, "data_overlap": "possible"},
        "tuning": {
            "mode": "soft-prompt+lora",
            "lora_r": 5,
            "lora_alpha": 6.0,
            "lora_dropout": 0.0,
            "num_prepend_tokens": 9,
        },
        "privacy": {
            "enabled": True,
            "target_epsilon": 2.0,
            "target_delta": 1e-7,
            "public_n": 5000,
            "noise_multiplier": None,
            "max_grad_norm": 0.75,
            "clipping": "flat",
            "engine": "dpft",
            "budget_cap": 20.0,
        },
        "optimisation": {
            "learning_rate": 0.25,
            "epochs": 1.5,
            "batch_size": 33,
            "weight_decay": 0.0,
            "warmup_fraction": 0.05,
            "seed": 11,
        },
        "hardware": {
            "micro_batch_tokens": 512,
            "precision": "auto",
            "num_threads": None,
            "checkpoint_every": 40,
        },
    }


def test_what_couples_examples_is_for_ordinary_training_only(dpft: Command, training: FakeTraining) -> None:
    assert dpft("train", "demo", "--lora-dropout", "0.125", "--no-dp").code == 0
    refused = dpft("train", "demo", "--lora-dropout", "0.125")
    assert refused.code == 4
    assert "--no-dp" in refused.err
    assert len(training.specs) == 1


def test_bf16_is_for_the_engine_whose_padding_is_each_examples_own(
    dpft: Command, training: FakeTraining
) -> None:
    assert dpft("train", "demo", "--precision", "bf16").code == 0
    assert dpft("train", "demo", "--precision", "bf16", "--no-dp").code == 0
    refused = dpft("train", "demo", "--precision", "bf16", "--engine", "opacus")
    assert refused.code == 4
    assert "--precision fp32" in refused.err
    assert [spec.hardware.precision for spec in training.specs] == ["bf16", "bf16"]


def test_noise_may_be_given_instead_of_a_target(dpft: Command, training: FakeTraining) -> None:
    assert dpft("train", "demo", "--noise-multiplier", "0.9").code == 0
    privacy = training.specs[0].privacy
    assert (privacy.noise_multiplier, privacy.target_epsilon) == (0.9, None)


def test_paths_are_kept_absolute(
    dpft: Command, training: FakeTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "glue").mkdir()
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert dpft("train", "sst2", "--data-dir", "glue", "-m", "model").code == 0
    (spec,) = training.specs
    assert (spec.data.data_dir, spec.model.checkpoint) == (str(tmp_path / "glue"), str(tmp_path / "model"))


def test_several_runs_share_a_name_by_dataset(dpft: Command, training: FakeTraining) -> None:
    assert dpft("train", "qnli", "qqp", "--name", "trial").code == 0
    assert [spec.name for spec in training.specs] == ["trial-qnli", "trial-qqp"]


REFUSED = [
    ([], "no dataset given", "sst2"),
    (["-d", ","], "no dataset given", "sst2"),
    (["sst3"], "unknown dataset 'sst3'", "did you mean 'sst2'"),
    (["demo", "-f", "lara"], "unknown fine-tune mode 'lara'", "did you mean 'lora'"),
    (["demo", "--engine", "opcus"], "unknown engine 'opcus'", "dpft"),
    (["demo", "--clipping", "round"], "unknown clipping 'round'", "flat"),
    (["demo", "--precision", "int8"], "--precision is 'int8'", "dpft train --help"),
    (["demo", "--epochs", "x"], "--epochs is 'x'", "dpft train --help"),
    (["demo", "--epochs", "0"], "--epochs is 0.0", "dpft train --help"),
    (["demo", "--epochs", "nan"], "--epochs is nan", "dpft train --help"),
    (["demo", "--batch-size", "0"], "--batch-size is 0", "dpft train --help"),
    (["demo", "--batch-size", "1.5"], "--batch-size is '1.5'", "dpft train --help"),
    (["demo", "--max-length", "7"], "--max-length is 7", "dpft train --help"),
    (["demo", "--learning-rate", "-1"], "--learning-rate is -1.0", "dpft train --help"),
    (["demo", "--target-epsilon", "0"], "--target-epsilon is 0.0", "dpft train --help"),
    (["demo", "--target-epsilon", "inf"], "--target-epsilon is inf", "dpft train --help"),
    (["demo", "--target-delta", "1"], "--target-delta is 1.0", "dpft train --help"),
    (["demo", "--noise-multiplier", "0"], "--noise-multiplier is 0.0", "dpft train --help"),
    (["demo", "--max-grad-norm", "0"], "--max-grad-norm is 0.0", "dpft train --help"),
    (["demo", "--lora-dropout", "1"], "--lora-dropout is 1.0", "dpft train --help"),
    (["demo", "--micro-batch-tokens", "0"], "--micro-batch-tokens is 0", "dpft train --help"),
    (["demo", "--target-epsilon", "1", "--noise-multiplier", "1"], "exclude each other", "target"),
    (
        ["demo", "--no-dp", "--target-epsilon", "1"],
        "--target-epsilon has no effect with --no-dp",
        "leave out",
    ),
    (["demo", "--no-dp", "--target-delta", "1e-5"], "--target-delta has no effect", "leave out"),
    (["demo", "--no-dp", "--noise-multiplier", "1"], "--noise-multiplier has no effect", "leave out"),
    (["demo", "--no-dp", "--max-grad-norm", "1"], "--max-grad-norm has no effect", "leave out"),
    (["demo", "-f", "full", "--lora-r", "4"], "--lora-r has no effect with --finetune-mode full", "lora"),
    (["demo", "-f", "prefix", "--lora-alpha", "4"], "--lora-alpha has no effect", "lora"),
    (["demo", "-f", "lora", "--num-prepend-tokens", "4"], "--num-prepend-tokens has no effect", "prefix"),
    (["demo", "--name", "../x"], "'../x' cannot name a run", "letters"),
    (["demo", "--name", "abc"], "'abc' reads as a run id", "character"),
    (["demo", "--renew", "x"], "no such option: --renew", "dpft train --help"),
]


@pytest.mark.parametrize(("arguments", "message", "hint"), REFUSED)
def test_what_cannot_be_is_refused_in_one_line(
    dpft: Command, training: FakeTraining, arguments: list[str], message: str, hint: str
) -> None:
    outcome = dpft("train", *arguments)
    assert (outcome.code, outcome.out, training.specs) == (2, "", [])
    lines = outcome.err.splitlines()
    lines = [line for line in lines if line != "loading libraries …"]
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]


def test_a_missing_folder_is_not_found(dpft: Command, training: FakeTraining, tmp_path: Path) -> None:
    outcome = dpft("train", "sst2", "--data-dir", tmp_path / "nowhere")
    assert outcome.code == 3
    assert "nowhere" in outcome.err
    assert "GLUE layout" in outcome.err


class TestPrecedence:
    """Flag over variable over file over default."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text('datasets = ["qqp", "qnli"]\nepochs = 7\nlora_r = 3\n"batch-size" = 70\n')
        return path

    def test_of_a_value(
        self, dpft: Command, training: FakeTraining, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DPFT_EPOCHS", "5")
        monkeypatch.setenv("DPFT_LORA_R", "5")
        assert dpft("train", "--config", config, "--lora-r", "4", "-d", "demo").code == 0
        (spec,) = training.specs
        assert spec.data.dataset == "demo"
        assert (spec.tuning.lora_r, spec.optimisation.epochs, spec.optimisation.batch_size) == (4, 5.0, 70)
        assert spec.tuning.lora_alpha == 16.0

    def test_of_datasets(
        self, dpft: Command, training: FakeTraining, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dpft("train", "--config", config)
        dpft("train", "--config", config, "demo")
        monkeypatch.setenv("DPFT_DATASETS", "sst2,mnli")
        dpft("train", "--config", config)
        dpft("train", "--config", config, "qqp")
        assert [s.data.dataset for s in training.specs] == ["qqp", "qnli", "demo", "sst2", "mnli", "qqp"]

    def test_a_flag_outweighs_what_excludes_it(
        self, dpft: Command, training: FakeTraining, tmp_path: Path
    ) -> None:
        config = tmp_path / "settings.yaml"
        config.write_text("target-epsilon: 3\nlora-r: 4\n")
        assert dpft("train", "demo", "--config", config, "--noise-multiplier", "2").code == 0
        assert dpft("train", "demo", "--config", config, "--no-dp").code == 0
        assert dpft("train", "demo", "--config", config, "-f", "full").code == 0
        noisy, ordinary, full = training.specs
        assert (noisy.privacy.target_epsilon, noisy.privacy.noise_multiplier) == (None, 2.0)
        assert not ordinary.privacy.enabled
        assert full.tuning.mode == "full"

    def test_equals_are_refused(self, dpft: Command, training: FakeTraining, tmp_path: Path) -> None:
        config = tmp_path / "settings.yaml"
        config.write_text("enable-dp: false\ntarget-epsilon: 3\n")
        outcome = dpft("train", "demo", "--config", config)
        assert (outcome.code, training.specs) == (2, [])

    def test_where_a_bad_value_came_from_is_told(
        self, dpft: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = tmp_path / "settings.yaml"
        config.write_text("epochs: many\n")
        assert "settings.yaml" in dpft("train", "demo", "--config", config).err
        monkeypatch.setenv("DPFT_EPOCHS", "few")
        outcome = dpft("train", "demo", "--config", config)
        assert "--epochs is 'few'" in outcome.err
        assert "DPFT_EPOCHS" in outcome.err
