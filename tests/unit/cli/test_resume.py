"""``dpft train --resume``: what is asked for is what was begun, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpft.runs.active import run_lock
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from tests.unit.cli.conftest import Command


class FakeResume:
    """Stands in for training."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.ending: Any = {}

    def __call__(self, reference: str, view: Any, *, changes: dict[str, Any]) -> RunRecord:
        self.calls.append((reference, changes))
        if isinstance(self.ending, BaseException):
            raise self.ending
        fields = {"status": "completed", "epsilon": 2.0, "delta": 1e-5, "steps": 9, **self.ending}
        return Store().resolve(reference).revise(**fields)


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> FakeResume:
    fake = FakeResume()
    monkeypatch.setattr("dpft.training.run.resume", fake)
    return fake


@pytest.fixture
def run(tmp_path: Path) -> RunRecord:
    """An interrupted run with a checkpoint."""
    spec = RunSpec(
        name="my-run",
        data=DataSpec(dataset="sst2", data_dir=str(tmp_path), max_length=64),
        model=ModelSpec(checkpoint="a/b"),
        tuning=TuningSpec(mode="lora", lora_r=4),
        privacy=PrivacySpec(target_epsilon=3.0),
        optimisation=OptimisationSpec(learning_rate=0.5, epochs=2.0, batch_size=30),
        hardware=HardwareSpec(precision="fp32", checkpoint_every=7),
    )
    with Store().create(spec) as active:
        (active.checkpoints / "step-000007").mkdir(parents=True)
        return active.finish("interrupted", manifest=None)


SAME = {
    "-d": "sst2",
    "--max-length": "64",
    "--model-checkpoint": "a/b",
    "--finetune-mode": "lora",
    "--lora-r": "4",
    "--target-epsilon": "3",
    "--learning-rate": "0.5",
    "--epochs": "2",
    "--batch-size": "30",
    "--precision": "fp32",
    "--seed": "0",
}
OTHER = {
    "-d": "qnli",
    "--data-dir": "/",
    "--max-length": "32",
    "--model-checkpoint": "a/c",
    "--finetune-mode": "ia3",
    "--lora-r": "5",
    "--target-epsilon": "4",
    "--noise-multiplier": "1",
    "--learning-rate": "0.25",
    "--epochs": "3",
    "--batch-size": "31",
    "--precision": "bf16",
    "--seed": "1",
    "--max-grad-norm": "2",
    "--clipping": "automatic",
    "--engine": "opacus",
    "--target-delta": "1e-09",
    "--public-n": "900",
}


@pytest.mark.usefixtures("run", "resumed")
def test_auto_is_what_it_was_settled_to_when_the_run_began(dpft: Command) -> None:
    assert dpft("train", "--resume", "my-run", "--precision", "auto", "-q").code == 0


@pytest.mark.usefixtures("run")
def test_a_run_goes_on_as_it_was_begun(dpft: Command, resumed: FakeResume, run: RunRecord) -> None:
    assert dpft("train", "--resume", "my-run", "-q").out == f"{run.run_id}\n"
    same = [text for pair in SAME.items() for text in pair]
    outcome = dpft("train", "--resume", run.run_id[:8], *same, "--data-dir", Store().spec(run).data.data_dir)
    assert outcome.code == 0, outcome.err
    speed = ("--micro-batch-tokens", "99", "--checkpoint-every", "3")
    found = dpft("train", "--resume", "@latest", *speed, "--json").json["runs"]
    assert [entry["status"] for entry in found] == ["completed"]
    assert resumed.calls == [
        (run.run_id, {}),
        (run.run_id, {}),
        (run.run_id, {"micro_batch_tokens": 99, "checkpoint_every": 3}),
    ]


@pytest.mark.parametrize("option", OTHER)
@pytest.mark.usefixtures("run")
def test_what_asks_for_another_run_is_refused_by_name(
    dpft: Command, resumed: FakeResume, option: str
) -> None:
    outcome = dpft("train", "--resume", "my-run", option, OTHER[option])
    assert (outcome.code, resumed.calls) == (2, [])
    assert "the run is on sst2, not on qnli" in outcome.err or f"{option} is {OTHER[option]}" in outcome.err
    assert "train anew" in outcome.err


@pytest.mark.parametrize(
    "arguments", [["--no-dp"], ["--plan"], ["--name", "x"], ["--tag", "t"], ["--note", "n"]]
)
@pytest.mark.usefixtures("run")
def test_what_cannot_go_with_it(dpft: Command, resumed: FakeResume, arguments: list[str]) -> None:
    outcome = dpft("train", "--resume", "my-run", *arguments)
    assert (outcome.code, resumed.calls) == (2, [])
    assert arguments[0] in outcome.err


@pytest.mark.usefixtures("run")
def test_where_an_unwanted_value_came_from(
    dpft: Command, resumed: FakeResume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "options.toml").write_text("epochs = 5\n")
    outcome = dpft("train", "--resume", "my-run", "--config", tmp_path / "options.toml")
    assert "--epochs is 5.0 (from --config), but the run was begun with 2.0" in outcome.err
    monkeypatch.setenv("DPFT_EPOCHS", "6")
    outcome = dpft("train", "--resume", "my-run")
    assert "--epochs is 6.0 (from DPFT_EPOCHS)" in outcome.err
    assert resumed.calls == []


def test_it_cannot_be_set_for_good(dpft: Command, tmp_path: Path) -> None:
    (tmp_path / "options.toml").write_text('resume = "my-run"\n')
    outcome = dpft("train", "--config", tmp_path / "options.toml")
    assert outcome.code == 2
    assert "unknown key 'resume'" in outcome.err


def test_completed_running_and_unknown_runs(dpft: Command, resumed: FakeResume, run: RunRecord) -> None:
    assert dpft("train", "--resume", "other").code == 3
    with run_lock(run.run_dir).acquire(timeout=0):
        error = dpft("train", "--resume", "my-run", "--json").json["error"]
    assert (error["type"], error["exit_code"]) == ("LockedError", 5)
    with Store().take(run) as taken, taken.begin(0) as active:
        active.finish("failed", manifest=None)
    path = run.run_dir / "run.json"
    path.write_text(path.read_text().replace('"failed"', '"completed"'))
    outcome = dpft("train", "--resume", "my-run")
    assert outcome.code == 2
    assert "run my-run is completed: there is nothing to resume" in outcome.err
    assert resumed.calls == []


def test_interrupted_again(dpft: Command, resumed: FakeResume, run: RunRecord) -> None:
    resumed.ending = {"status": "interrupted", "run_dir": run.run_dir}
    outcome = dpft("train", "--resume", "my-run")
    assert outcome.code == 130
    assert "dpft train --resume my-run" in outcome.out
    resumed.ending = KeyboardInterrupt()
    outcome = dpft("train", "--resume", "my-run")
    assert outcome.code == 130
    assert "interrupted before run my-run took another step" in outcome.err


def test_the_list_says_how_to_go_on(dpft: Command, run: RunRecord) -> None:
    hint = "an unfinished run can go on from its checkpoint: dpft train --resume my-run"
    assert hint in dpft("list").out
    (run.run_dir / "checkpoints" / "step-000007").rmdir()
    (run.run_dir / "checkpoints").rmdir()
    assert "--resume" not in dpft("list").out
