"""``torchrun -m dpft train``: two processes, one run; its ε and its weights are those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dpft.cli.app import main
from dpft.runs.store import Store
from dpft.training import parallel
from dpft.training.run import resume, train
from tests.e2e.known_key import KEY
from tests.unit.runs.builders import make_spec

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("known_key.py")
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


class Shell:
    def __init__(self, folder: Path, model: Path, data: Path) -> None:
        self.folder = folder
        self.train = (
            *("train", "sst2", "-m", str(model), "--data-dir", str(data), "--max-length", "32"),
            *("--batch-size", "12", "--epochs", "1", "--micro-batch-tokens", "60"),
        )

    def python(self, home: str, *arguments: str, expect: int = 0) -> Any:
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "DPFT_HOME": str(self.folder / home),
            "DPFT_CACHE": str(self.folder / "cache"),
        }
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == expect, done.stderr
        return done

    def weights(self, home: str) -> dict[str, torch.Tensor]:
        (path,) = (self.folder / home / "runs").glob("*/adapter/adapter_model.safetensors")
        return load_file(path)


@pytest.fixture
def shell(tmp_path: Path, tiny_model: Path, glue_dir: Path) -> Shell:
    return Shell(tmp_path, tiny_model, glue_dir)


def test_two_processes_make_the_run_that_one_would_make(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DPFT_HOME", str(shell.folder / "alone"))
    monkeypatch.setattr("dpft.privacy.noise._fresh_key", lambda: KEY)
    assert main([*shell.train, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["runs"]
    together = shell.python("together", *LAUNCHER, str(PROGRAM), *shell.train, "--json")
    (two,) = json.loads(together.stdout)["runs"]  # one document: the other process is silent
    assert together.stderr.count("step 5/5") == 1
    same = ("epsilon", "delta", "noise_multiplier", "sample_rate", "steps", "trainable_parameters", "status")
    assert {name: two[name] for name in same} == {name: one[name] for name in same}
    assert two["status"] == "completed"

    (listed,) = Store(shell.folder / "together").list()
    assert listed.run_id == two["run_id"]
    (ledger,) = (shell.folder / "together" / "ledger").glob("*.jsonl")
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [entry["run_id"] for entry in entries if entry["kind"] == "charge"] == [two["run_id"]]

    found, expected = shell.weights("together"), shell.weights("alone")
    assert found.keys() == expected.keys()
    for name, value in expected.items():  # the same samples and noise; sums in another order
        assert torch.allclose(found[name], value, rtol=0, atol=1e-4), name
    local = (Path(two["run_dir"]) / "local-only" / "training.jsonl").read_text().splitlines()
    assert len(local) == 5


@pytest.mark.parametrize("option", [("--resume", "x"), ("--plan",)])
def test_what_is_for_one_process_is_refused(
    option: tuple[str, ...], shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*shell.train, *option]) == 2
    assert f"{option[0]} is for one process, and there are 2" in capsys.readouterr().err


def test_only_the_first_process_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, prints in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", sys.stdout)  # so that it is put back
            assert main(["env", "--json"]) == 0
            if not prints:
                sys.stdout.close()
        assert bool(capsys.readouterr().out) == prints


# -- who does not know of the others is refused


def test_training_alone_among_several_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for attempt in (lambda: train(make_spec()), lambda: resume("@latest")):
        with pytest.raises(parallel.PrivacyError, match="WORLD_SIZE is 2") as caught:
            attempt()
        assert caught.value.exit_code == 4
        assert "torchrun" in caught.value.hint
    assert Store().list() == []


@pytest.mark.parametrize(("given", "size"), [("", 1), ("1", 1), ("4", 4), ("many", 1)])
def test_the_launchers_word_is_taken(given: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", given)
    assert parallel.world_size() == size
