"""The front door: errors are one line, or one document; exit codes say what kind."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

import dpft as package
from dpft import errors
from dpft.errors import DpftError

from .conftest import Command, FakeTraining

SECRET = "the patient's name"


def fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make ``dpft list`` meet an error."""

    def meet(self: Any) -> Any:
        private_text = SECRET
        assert private_text
        raise error

    monkeypatch.setattr("dpft.runs.store.Store.list", meet)


def terminate() -> None:
    assert callable(signal.getsignal(signal.SIGTERM))  # or it would be the end of these tests
    signal.raise_signal(signal.SIGTERM)


ERRORS = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_a_line_and_a_hint(
    dpft: Command, monkeypatch: pytest.MonkeyPatch, kind: type[DpftError]
) -> None:
    fail(monkeypatch, kind("it broke at 3", hint="mend it"))
    outcome = dpft("list")
    assert (outcome.code, outcome.out) == (kind.exit_code, "")
    assert outcome.err == "error: it broke at 3\nhint: mend it\n"


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_a_document(
    dpft: Command, monkeypatch: pytest.MonkeyPatch, kind: type[DpftError]
) -> None:
    fail(monkeypatch, kind("it broke at 3", hint="mend it"))
    outcome = dpft("list", "--json")
    assert (outcome.code, outcome.err) == (kind.exit_code, "")
    assert outcome.json == {
        "error": {
            "type": kind.__name__,
            "message": "it broke at 3",
            "hint": "mend it",
            "exit_code": kind.exit_code,
        }
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "--json"], "no such command 'trian'"),
        (["train", "--jsno", "--json"], "no such option: --jsno"),
        (["--json"], "no such option: --json"),
        (["eval", "--json"], "missing argument 'RUN'"),
        (["train", "demo", "--json", "--epochs"], "option '--epochs' requires an argument"),
        (["train", "demo", "--epochs", "many", "--json"], "--epochs is 'many': it must be a valid number"),
        (["list", "extra", "--json"], "got unexpected extra argument"),
    ],
)
def test_bad_usage_is_a_document_too(dpft: Command, arguments: list[str], message: str) -> None:
    outcome = dpft(*arguments)
    assert (outcome.code, outcome.err) == (2, "")
    assert outcome.json["error"]["message"].startswith(message)  # the rest is Typer's
    assert outcome.json["error"]["type"] == "UsageError"
    assert "--help" in outcome.json["error"]["hint"]


def test_an_unexpected_error_tells_its_type_and_nothing_else(
    dpft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, RuntimeError(f"cannot parse {SECRET}"))
    outcome = dpft("list")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[0] == "error: internal error: RuntimeError"
    assert "DPFT_DEBUG=1" in outcome.err
    assert SECRET not in outcome.err
    assert dpft("list", "--json").json["error"]["type"] == "InternalError"


@pytest.mark.parametrize("error", [RuntimeError("boom"), DpftError("boom")])
def test_debugging_shows_the_traceback_without_locals(
    dpft: Command, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail(monkeypatch, error)
    monkeypatch.setenv("DPFT_DEBUG", "0")
    assert "Traceback" not in dpft("list").err
    monkeypatch.setenv("DPFT_DEBUG", "1")
    outcome = dpft("list", "--json")
    assert "Traceback" in outcome.err
    assert "in meet" in outcome.err
    assert SECRET not in outcome.err
    assert list(outcome.json) == ["error"]


def test_ctrl_c_is_130(dpft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, KeyboardInterrupt())
    assert dpft("list").err == "error: interrupted\n"
    assert dpft("list").code == 130
    assert dpft("list", "--json").json["error"]["exit_code"] == 130


def test_what_a_user_typed_cannot_drive_the_terminal(dpft: Command) -> None:
    outcome = dpft("train", "\x1b[2Jx\ny")
    assert outcome.code == 2
    assert "\x1b" not in outcome.err
    assert len(outcome.err.splitlines()) == 2


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(dpft: Command, arguments: list[str]) -> None:
    outcome = dpft(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    for command in ("prepare", "train", "eval", "list", "export", "doctor", "env"):
        assert f" {command} " in outcome.out


@pytest.mark.parametrize("command", ["prepare", "train", "eval", "list", "export", "doctor", "env"])
def test_every_command_has_an_example_and_takes_json(dpft: Command, command: str) -> None:
    outcome = dpft(command, "--help")
    assert outcome.code == 0
    assert f"Example: dpft {command}" in outcome.out
    assert "--json" in outcome.out


def test_version(dpft: Command) -> None:
    assert dpft("--version").out == f"dpft {package.__version__}\n"


class TestTrain:
    """The command, around a training that is played."""

    def test_one_run(self, dpft: Command, training: FakeTraining) -> None:
        outcome = dpft("train", "demo")
        assert outcome.code == 0
        for text in (
            "run-1 · demo · lora · completed",
            "accuracy  0.7500",
            "majority  0.5000",
            "ε ≤ 7.9991",
            "12 s",
            "dpft eval run-1",
            "dpft export run-1",
        ):
            assert text in outcome.out
        assert "warning" not in outcome.out

    def test_several_runs_end_in_a_table(self, dpft: Command, training: FakeTraining) -> None:
        outcome = dpft("train", "qnli", "qqp")
        table = outcome.out.splitlines()[-3:]
        assert [line.split()[0] for line in table] == ["run", "run-1", "run-2"]
        assert [line.split()[-1] for line in table] == ["status", "completed", "completed"]

    def test_json_and_ids(self, dpft: Command, training: FakeTraining) -> None:
        outcome = dpft("train", "qnli", "qqp", "--json")
        assert [run["dataset"] for run in outcome.json["runs"]] == ["qnli", "qqp"]
        ids = dpft("train", "qnli", "qqp", "-q").out.split()
        assert len(ids) == 2
        assert all(len(run_id) == 16 for run_id in ids)

    def test_a_run_without_privacy_claims_none(self, dpft: Command, training: FakeTraining) -> None:
        assert "trained without differential privacy" in dpft("train", "demo", "--no-dp").out
        (run,) = dpft("train", "demo", "--no-dp", "--json").json["runs"]
        assert run["private"] is False
        assert "epsilon" not in run

    def test_learning_nothing_is_told(self, dpft: Command, training: FakeTraining) -> None:
        training.endings = iter([{"metrics": {"accuracy": 0.5}}])
        assert "not better than always giving the most frequent label" in dpft("train", "demo").out

    def test_a_failure_names_its_dataset(self, dpft: Command, training: FakeTraining) -> None:
        training.endings = iter([{}, errors.ModelError("no such layer", hint="another mode")])
        outcome = dpft("train", "qnli", "qqp", "mnli")
        assert (outcome.code, len(training.specs)) == (1, 2)
        assert "run-1 · qnli" in outcome.out
        assert "error: qqp (run 2 of 3): no such layer\nhint: another mode; what was" in outcome.err

    def test_an_interrupted_run_is_shown_and_no_other_begun(
        self, dpft: Command, training: FakeTraining
    ) -> None:
        ending = {"status": "interrupted", "steps": 4, "epsilon": 2.5}
        training.endings = iter([ending, ending])
        outcome = dpft("train", "qnli", "qqp")
        assert (outcome.code, len(training.specs)) == (130, 1)
        assert "interrupted" in outcome.out
        assert "ε ≤ 2.5" in outcome.out
        assert "4 of 10" in outcome.out
        again = dpft("train", "qnli", "qqp", "--json")
        assert again.code == 130
        assert [run["status"] for run in again.json["runs"]] == ["interrupted"]

    def test_an_interruption_before_the_first_step(self, dpft: Command, training: FakeTraining) -> None:
        training.endings = iter([KeyboardInterrupt()])
        outcome = dpft("train", "demo")
        assert outcome.code == 130
        assert "error: interrupted before anything was saved of the run on demo" in outcome.err

    def test_sigterm_is_heard_as_ctrl_c(self, dpft: Command, training: FakeTraining) -> None:
        before = signal.getsignal(signal.SIGTERM)
        training.endings = iter([terminate])
        assert dpft("train", "demo").code == 130
        assert signal.getsignal(signal.SIGTERM) is before

    def test_sigterm_is_not_heard_while_a_run_is_saved(self, dpft: Command, training: FakeTraining) -> None:
        def save() -> None:
            previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as training does
            terminate()
            signal.signal(signal.SIGINT, previous)

        training.endings = iter([save])
        assert dpft("train", "demo").code == 0


def test_no_run_yet(dpft: Command) -> None:
    assert "no runs yet" in dpft("list").out
    assert dpft("list", "--json").json == {"runs": []}
    assert (dpft("list", "-q").out, dpft("list", "-q").code) == ("", 0)
    outcome = dpft("eval", "@latest")
    assert (outcome.code, outcome.out) == (3, "")
    assert "error: no run '@latest'" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--status", "done"], "unknown status 'done'"), (["--dataset", "sst3"], "unknown dataset 'sst3'")],
)
def test_list_refuses_unknown_filters(dpft: Command, arguments: list[str], message: str) -> None:
    outcome = dpft("list", *arguments)
    assert outcome.code == 2
    assert message in outcome.err


def test_env(dpft: Command) -> None:
    found = dpft("env", "--json").json
    assert found["DPFT_HOME"] == os.environ["DPFT_HOME"]
    assert found["DPFT_CACHE"] == os.environ["DPFT_CACHE"]
    assert found["versions"]["dpft"] == package.__version__
    assert json.dumps(found)
    assert f"DPFT_HOME={os.environ['DPFT_HOME']}\n" in dpft("env").out
