"""Through the installed command: real signals at random moments, a disk that is full, and what remains.

``KILLS=20 pytest tests/e2e/test_resume.py -s`` kills more often, and tells what it saw.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from dpft.cli.app import main
from dpft.export.proof import verify
from dpft.runs.ledger import Ledger
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.training.checkpoint import Checkpoints
from tests.e2e.test_command_line import User, in_mid_training

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "2"))
SEED = int(os.environ.get("KILLS_SEED", "0"))
EVERY = 10
STEPS = 60
LONG = ("--batch-size", "12", "--epochs", "12", "--noise-multiplier", "4", "--checkpoint-every", str(EVERY))
Asks = Callable[..., Any]


@pytest.fixture
def user(tmp_path: Any, tiny_model: Any, glue_dir: Any, monkeypatch: pytest.MonkeyPatch) -> User:
    made = User(tmp_path, tiny_model, glue_dir)
    for name in ("DPFT_HOME", "DPFT_CACHE"):  # so that this process finds what the others leave
        monkeypatch.setenv(name, made.environment[name])
    return made


@pytest.fixture
def asks(capsys: pytest.CaptureFixture[str]) -> Asks:
    """What is not to be killed runs in this process, which has its libraries loaded."""

    def call(*arguments: str) -> Any:
        code = main([*arguments, "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return call


class Victim:
    """One run, killed and resumed until it is done."""

    def __init__(self, user: User, name: str) -> None:
        self.user, self.name, self.kills = user, name, 0

    @property
    def record(self) -> RunRecord | None:
        """The run, if there is one yet."""
        return next((found for found in Store().list() if found.name == self.name), None)

    def begins(self) -> subprocess.Popen[str]:
        """Its next process."""
        if self.record is not None:
            return self.user.begins("train", "--resume", self.name)
        return self.user.begins("train", "sst2", *self.user.with_data, *LONG, "--name", self.name)

    def is_killed(self, process: subprocess.Popen[str], delay: float, *, from_start: bool) -> bool:
        """Kill it some time after its start, or after its first steps; False if it was done before."""
        if not from_start:
            with contextlib.suppress(AssertionError):  # it may have no step left to take
                in_mid_training(process)
        time.sleep(delay)
        process.kill()
        process.communicate()
        killed = process.returncode == -signal.SIGKILL
        self.kills += killed
        return killed

    def faults(self) -> list[str]:
        """What is wrong after a kill."""
        json.loads((Store().home / "registry.json").read_text())
        record = self.record
        if record is None:
            return []  # it was killed before it had begun
        found = []
        if record.status not in ("crashed", "interrupted", "completed"):
            found.append(f"it is {record.status}")
        if record.status == "crashed" and record.epsilon is not None:  # that of an adapter left before
            if not (record.run_dir / "privacy.json").is_file():
                found.append("an ε is claimed for a crashed run without a statement")
            else:
                found += [f"{check.name}: {check.detail}" for check in verify(record.run_dir, record).failed]
        Checkpoints(record.run_dir / "checkpoints").newest()  # raises if it is not whole
        return found

    def costs(self) -> tuple[int, int, int]:
        """Steps that were released, steps that are charged, and those of charges that nobody could settle."""
        record = self.record
        assert record is not None
        local = record.run_dir / "local-only"
        text = "".join(path.read_text() for path in local.glob("*.jsonl"))
        released = sum("batch_size" in line and line.endswith("}") for line in text.splitlines())
        entries = [entry for entry in Ledger().of_run(record.run_id) if entry.spent is not None]
        steps = [(entry.settled is None, int((entry.spent or {})["steps"])) for entry in entries]
        return released, sum(number for _, number in steps), sum(number for lost, number in steps if lost)


def test_killed_at_random_moments_it_ends_as_if_it_never_was(
    user: User, asks: Asks, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = random.Random(SEED)
    (whole,) = asks("train", "sst2", *user.with_data, *LONG, "--name", "whole")["runs"]
    assert (whole["status"], whole["steps"]) == ("completed", STEPS)
    expected = Store().manifest(Store().resolve("whole"))

    faults: list[str] = []
    story: list[str] = []
    kills = 0
    while kills < KILLS:
        victim = Victim(user, f"victim-{len(story)}")
        if not story:  # the first is asked to stop before it is killed
            process = victim.begins()
            in_mid_training(process)
            process.terminate()
            assert re.search(r"dpft train --resume victim-0\n", user.ends(process, expect=130))
            record = victim.record
            assert record is not None
            assert (record.status, victim.faults()) == ("interrupted", [])
        while (record := victim.record) is None or record.status != "completed":
            process = victim.begins()
            if kills == KILLS:
                user.ends(process, expect=0)
                continue
            from_start = moments.random() < 0.3
            delay = moments.uniform(0, 10.0 if from_start else 0.7 * whole["seconds"])
            kills += victim.is_killed(process, delay, from_start=from_start)
            faults += victim.faults()
        manifest = Store().manifest(record)
        if (manifest["guarantee"], manifest["events"]) != (expected["guarantee"], expected["events"]):
            faults.append("another guarantee")
        released, charged, unsettled = victim.costs()
        if not STEPS <= released <= charged:
            faults.append(f"{released} steps released, {charged} charged")
        if not charged <= released + victim.kills * (EVERY + 1) + unsettled:
            faults.append(f"{charged} steps charged, only {released} released in {victim.kills} kills")
        if asks("eval", victim.name)["metrics"] != record.metrics:
            faults.append("the weights that are saved do not score as the run did")
        story.append(
            f"{victim.name}: {victim.kills} kills, {released} steps released, {charged} charged for {STEPS}"
        )
    with capsys.disabled():
        if "KILLS" in os.environ:
            print(f"\n{kills} kills, {len(faults)} faults", *story, sep="\n  ")
    assert faults == []
    assert asks("budget")["datasets"][0]["epsilon"] > whole["epsilon"]


def test_a_file_that_cannot_grow_stops_the_run_in_one_line(user: User, asks: Asks) -> None:
    """RLIMIT_FSIZE stands in for a full disk: the optimizer's state of ``full`` is its largest file."""
    arguments = ("train", "sst2", *user.with_data, *LONG, "-f", "full", "--name", "large")
    limited = subprocess.run(
        [sys.executable, "-m", "dpft", *arguments],
        env=user.environment,
        cwd=user.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000)),
        check=False,
    )
    assert limited.returncode == 1, limited.stderr
    error, hint = limited.stderr.splitlines()[-2:]
    assert "error: no checkpoint could be written" in error
    assert "File too large" in error
    assert "dpft train --resume" in hint
    run = Store().resolve("large")
    assert (run.status, run.steps) == ("failed", EVERY)
    assert not list((run.run_dir / "checkpoints").iterdir())
    (again,) = asks("train", "--resume", "large")["runs"]
    assert (again["status"], again["steps"]) == ("completed", STEPS)
    assert sum(entry.settled or 0 for entry in Ledger().of_run(run.run_id)) == STEPS + EVERY
