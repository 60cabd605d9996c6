"""The ledger through the installed command: what is killed stays charged; a cap holds between processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD
from tests.e2e.test_command_line import ENDLESS, TINY, User, in_mid_training

pytestmark = pytest.mark.slow


@pytest.fixture
def user(tmp_path: Path, tiny_model: Path, glue_dir: Path) -> User:
    return User(tmp_path, tiny_model, glue_dir)


def test_a_killed_run_stays_charged_and_removing_it_refunds_nothing(user: User) -> None:
    process = user.begins("train", "sst2", *user.with_data, *ENDLESS, "--noise-multiplier", "9")
    in_mid_training(process)
    process.kill()
    process.communicate()
    (before,) = user.asks("budget")["datasets"]
    (charge,) = before["charges"]
    assert (charge["state"], charge["settled"], charge["steps"]) == (
        "crashed",
        False,
        charge["steps_planned"],
    )
    assert before["still_charged"] == [charge["run_id"]]
    assert before["epsilon"] > 0
    for path in sorted((user.folder / "home" / "runs").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (after,) = user.asks("budget", "sst2")["datasets"]
    assert after["epsilon"] == before["epsilon"]
    assert "no longer in the store" in user.types("budget")


def test_of_two_at_once_a_cap_admits_one(user: User) -> None:
    one = PLD.epsilon([MechanismEvent(12 / 60, 2.0, 5)], 1 / 120)
    train = ("train", "sst2", *user.with_data, *TINY, "--noise-multiplier", "2")
    capped = (*train, "--budget-cap", str(1.2 * one), "--json")
    processes = [user.begins(*capped) for _ in range(2)]
    documents = [json.loads(process.communicate()[0]) for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 4]
    (refusal,) = [document["error"] for document in documents if "error" in document]
    assert (refusal["type"], refusal["exit_code"]) == ("PrivacyError", 4)
    assert "budget cap" in refusal["message"]
    (found,) = user.asks("budget")["datasets"]
    assert (found["runs"], found["epsilon"]) == (1, one)
