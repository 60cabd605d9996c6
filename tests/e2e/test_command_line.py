"""Through the installed command, as a user meets it: offline, on a tiny model, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ENDLESS = ("--batch-size", "12", "--epochs", "4000")
TINY = ("--batch-size", "12", "--epochs", "1")
RUN_KEYS = {
    "run_id",
    "name",
    "dataset",
    "finetune_mode",
    "model_checkpoint",
    "published_steps",
    "superseded_steps",
    "status",
    "private",
    "epsilon",
    "delta",
    "noise_multiplier",
    "sample_rate",
    "target_epsilon",
    "steps",
    "steps_planned",
    "trainable_parameters",
    "metrics",
    "baselines",
    "seconds",
    "created",
    "finished",
    "tags",
    "note",
    "run_dir",
}


class User:
    """Someone at a shell, with a model and data at hand."""

    def __init__(self, folder: Path, model: Path, data: Path) -> None:
        self.folder = folder
        self.with_data = ("-m", str(model), "--data-dir", str(data), "--max-length", "32")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            "DPFT_HOME": str(folder / "home"),
            "DPFT_CACHE": str(folder / "cache"),
            "FORCE_COLOR": "1",  # must not matter where nobody looks at a terminal
        }

    def begins(self, *arguments: str) -> subprocess.Popen[str]:
        # A shell's background job ignores Ctrl-C, and would hand that down to its children.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "dpft", *arguments],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def types(self, *arguments: str, expect: int = 0) -> str:
        """Run to the end; returns stdout, after what holds for every command is checked."""
        return self.ends(self.begins(*arguments), expect)

    def ends(self, process: subprocess.Popen[str], expect: int) -> str:
        with patience(process):
            out, err = process.communicate()
        assert process.returncode == expect, err
        assert "\x1b" not in out + err
        assert "Traceback" not in err
        return out

    def asks(self, *arguments: str, expect: int = 0) -> Any:
        """With ``--json``: stdout is one document."""
        return json.loads(self.types(*arguments, "--json", expect=expect))


@contextmanager
def patience(process: subprocess.Popen[str], seconds: float = 300.0) -> Iterator[None]:
    """Let no test hang."""
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def in_mid_training(process: subprocess.Popen[str]) -> None:
    """Wait for the first steps."""
    assert process.stderr is not None
    with patience(process):
        for line in process.stderr:
            if line.startswith("step"):
                return
    raise AssertionError("it ended before its first step")


@pytest.fixture
def user(tmp_path: Path, tiny_model: Path, glue_dir: Path) -> User:
    return User(tmp_path, tiny_model, glue_dir)


def test_from_prepare_to_export(user: User) -> None:
    prepared = user.asks("prepare", "sst2", *user.with_data)
    assert set(prepared) == {"datasets"}
    (dataset,) = prepared["datasets"]
    assert set(dataset) == {"dataset", "cache_key", "cached", "max_length", "splits"}

    train = ("train", "--datasets", "sst2", *user.with_data, *TINY)
    trained = user.asks(*train, "--finetune_mode", "lora", "--target_epsilon", "8", "--name", "first")
    assert set(trained) == {"runs"}
    (run,) = trained["runs"]
    assert set(run) == RUN_KEYS
    assert (run["status"], run["private"], run["steps"]) == ("completed", True, 5)
    assert 0 < run["epsilon"] <= 8
    assert set(run["metrics"]) == {"accuracy"}

    shown = user.types("train", "sst2", "qnli", *user.with_data, *TINY, "--no-dp", "-f", "last-layer")
    assert shown.count("trained without differential privacy") == 2

    runs = user.asks("list")["runs"]
    assert [found["dataset"] for found in runs] == ["qnli", "sst2", "sst2"]
    assert runs[-1] == run
    privacy = {"epsilon", "delta", "noise_multiplier", "sample_rate", "target_epsilon"}
    assert set(runs[0]) == RUN_KEYS - privacy
    lines = user.types("list").splitlines()
    assert [line.split()[0] for line in lines[1:4]] == [found["run_id"][:8] for found in runs]

    score = user.asks("eval", "first")
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
    assert score["metrics"] == run["metrics"]

    report = user.asks("export", "first", "--output", "shared")
    assert set(report) == {"run_id", "format", "path", "files", "max_logit_difference", "requires"}
    assert {path.name for path in (user.folder / "shared").iterdir()} == {f["name"] for f in report["files"]}
    user.types("export", "first", "--format", "merged", "--output", "whole")
    verify_them(user, Path(run["run_dir"]))


def verify_them(user: User, run_dir: Path) -> None:
    """A run by its name; what was carried off, without its store; and what was tampered with."""
    assert user.asks("verify", "first")["ok"]
    user.environment["DPFT_HOME"] = str(user.folder / "other-home")
    alone = shutil.copytree(run_dir / "adapter", user.folder / "alone")
    for folder in ("./alone", "./shared", "./whole"):
        assert user.asks("verify", folder)["ok"]
    assert not (user.folder / "other-home").exists()
    manifest = alone / "privacy.json"
    manifest.write_text(manifest.read_text().replace('"steps": 5', '"steps": 4'))
    lines = user.types("verify", "./alone", expect=4).splitlines()
    failed = [line.split()[1] for line in lines if "FAILED" in line]
    assert failed == ["planned", "statement", "epsilon", "second", "replace-one", "header", "files"]


def test_exit_codes_and_error_documents(user: User, tmp_path: Path) -> None:
    (tmp_path / "bad" / "SST-2").mkdir(parents=True)
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "bad" / "SST-2" / name).write_text("sentence\tlabel\nfine\t7\n")
    train = ("train", "sst2", *user.with_data, *TINY)
    for arguments, code, kind in (
        ((*train, "--data-dir", str(tmp_path / "bad")), 1, "DataError"),
        ((*train, "--batch-size", "61"), 2, "UsageError"),
        (("export", "no-such-run"), 3, "NotFoundError"),
        ((*train, "--target-delta", "0.5"), 4, "PrivacyError"),
    ):
        error = user.asks(*arguments, expect=code)["error"]
        assert set(error) == {"type", "message", "hint", "exit_code"}
        assert (error["type"], error["exit_code"]) == (kind, code)
        assert error["hint"]


def test_ctrl_c_keeps_what_was_trained(user: User) -> None:
    process = user.begins("train", "sst2", *user.with_data, *ENDLESS, "--json")
    in_mid_training(process)
    process.send_signal(signal.SIGINT)
    (run,) = json.loads(user.ends(process, expect=130))["runs"]
    assert run["status"] == "interrupted"
    assert 0 < run["epsilon"] < run["target_epsilon"] == 8.0
    assert 0 < run["steps"] < run["steps_planned"]
    assert user.asks("list")["runs"] == [run]
    assert (Path(run["run_dir"]) / "adapter" / "adapter_model.safetensors").is_file()


def test_sigterm_stops_as_gently(user: User) -> None:
    process = user.begins("train", "sst2", *user.with_data, *ENDLESS)
    in_mid_training(process)
    process.terminate()
    out = user.ends(process, expect=130)
    assert re.search(r"· interrupted\n", out)
    assert "ε ≤ " in out


def test_a_killed_run_is_listed_as_crashed(user: User) -> None:
    process = user.begins("train", "sst2", *user.with_data, *ENDLESS)
    in_mid_training(process)
    process.kill()
    process.communicate()
    (run,) = user.asks("list")["runs"]
    assert run["status"] == "crashed"
    assert "epsilon" not in run


def test_four_processes_train_into_one_store(user: User) -> None:
    train = ("train", "sst2", *user.with_data, *TINY, "--noise-multiplier", "2", "--json")
    processes = [user.begins(*train) for _ in range(4)]
    trained = [json.loads(user.ends(process, expect=0))["runs"][0] for process in processes]
    listed = user.asks("list")["runs"]
    assert len({run["name"] for run in listed}) == 4
    assert sorted(run["run_id"] for run in listed) == sorted(run["run_id"] for run in trained)
    assert {run["status"] for run in listed} == {"completed"}
    json.loads((user.folder / "home" / "registry.json").read_text())


def test_a_reader_that_leaves_is_no_error(user: User) -> None:
    process = user.begins("env", "--json")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    with patience(process):
        _, err = process.communicate()
    assert err == ""


def test_the_installed_script(user: User) -> None:
    script = Path(sys.executable).with_name("dpft")
    if not script.exists():
        pytest.skip("dpft is not installed beside this Python")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"dpft \d+\.\d+\.\d+\S*\n", done.stdout)
