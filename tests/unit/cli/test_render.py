"""What is printed: on terminals of any width, on none, and never a smaller ε than is true."""

from __future__ import annotations

import io
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from dpft.cli import render
from dpft.cli.progress import TrainingView
from dpft.cli.views import list as listing
from dpft.runs.record import RunRecord
from dpft.training.evaluation import Evaluation
from dpft.training.observer import Progress, RunFacts
from tests.unit.runs.builders import make_record

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FACTS = RunFacts(
    run_id="a" * 16,
    name="swift-otter",
    dataset="sst2",
    finetune_mode="lora",
    model="prajjwal1/bert-tiny",
    private=True,
    examples=67_349,
    steps=200,
    trainable_parameters=12_345,
    all_parameters=4_386_307,
    expected_batch_size=1024,
    learning_rate=2e-3,
    sample_rate=0.0152,
    noise_multiplier=0.70711,
    max_grad_norm=0.1,
    delta=7.4240e-6,
    planned_epsilon=7.99901,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make stdout and stderr a terminal of some width; returns what it shows."""

    def make(width: int) -> Terminal:
        stream = Terminal()
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", "24")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return make


def shown(stream: io.StringIO) -> list[str]:
    return [line.rstrip() for line in ESCAPE.sub("", stream.getvalue()).splitlines()]


def some_runs(count: int = 4) -> list[RunRecord]:
    kinds: list[dict[str, Any]] = [
        {"finetune_mode": "soft-prompt+lora", "status": "interrupted", "epsilon": 2.50001},
        {"private": False, "metrics": {"accuracy": 0.8}},
        {"status": "crashed"},
        {"epsilon": 7.99901, "noise_multiplier": 0.70711, "metrics": {"accuracy": 0.81237}},
    ]
    now = datetime.now(UTC)
    return [
        make_record(
            Path("runs"),
            f"{number:016x}",
            name=f"tranquil-thicket-{number}",
            created=(now - timedelta(hours=number)).isoformat(),
            **kinds[number % len(kinds)],
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_list_fits_every_width(terminal: Any, width: int) -> None:
    stream = terminal(width)
    listing.runs(some_runs())
    lines = shown(stream)
    assert max(cell_len(line) for line in lines) <= width
    head = lines[0].split()
    assert {"id", "name", "ε", "accuracy", "status"} <= set(head)
    assert ("σ" in head) == (width == 140)
    text = "\n".join(lines)
    for record in some_runs():
        assert record.run_id[:8] in text
        assert record.name in text
        assert record.status in text
    assert "2.5001" in text
    assert "7.9991" in text
    assert "ε — is a run without privacy" in text
    assert "ε ? is a private run" in text


def test_the_list_says_what_it_hides(capsys: pytest.CaptureFixture[str]) -> None:
    listing.runs(some_runs(3), hidden=1)
    assert capsys.readouterr().out.endswith("1 older run not shown: dpft list --all\n")
    listing.runs(some_runs(3), hidden=12)
    assert "12 older runs not shown" in capsys.readouterr().out
    listing.runs([], stored=3)
    assert "no run is like that" in capsys.readouterr().out


def test_off_a_terminal_nothing_is_cut_or_coloured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    listing.runs(some_runs())
    render.summary(some_runs()[0])
    render.warning("careful")
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "╭" not in captured.out
    assert "tranquil-thicket-0 sst2 soft-prompt+lora 2.5001" in captured.out
    assert [line for line in captured.out.splitlines() if line != line.rstrip()] == []


@pytest.mark.parametrize("no_color", [True, False])
def test_no_color_is_honoured(terminal: Any, monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    stream = terminal(80)
    listing.runs(some_runs())
    render.summary(some_runs()[0])
    render.error("UsageError", "no", "yes", 2, as_json=False)
    assert ("\x1b[" in stream.getvalue()) != no_color


@pytest.mark.parametrize("width", [60, 80, 140])
def test_panels_fit_every_width(terminal: Any, width: int) -> None:
    stream = terminal(width)
    (record, *_) = some_runs()
    render.summary(record.revise(metrics={"accuracy": 0.5}, baselines={"majority": 0.5}, steps=3))
    render.plans([FACTS])
    render.evaluation("run", "sst2/validation", Evaluation(20, {"accuracy": 0.5}, 0.5, (0.3, 0.7), True))
    lines = shown(stream)
    assert max(cell_len(line) for line in lines) <= min(width, 100)
    text = "\n".join(lines)
    assert "not better than always giving" in text
    assert "every answer is the same label" in text
    assert "Nothing was trained." in text
    assert "ε ≤ 7.9991 at δ ≤ 7.43e-06" in text


@pytest.mark.parametrize(
    ("accuracy", "interval", "collapsed", "warning"),
    [
        (0.9, (0.8, 0.95), False, ""),
        (0.6, (0.45, 0.7), False, "not clearly better"),
        (0.5, (0.4, 0.6), False, "not better"),
        (0.4, (0.3, 0.5), False, "not better"),
        (0.5, (0.4, 0.6), True, "every answer is the same"),
    ],
)
def test_scores_that_mean_nothing_are_warned_of(
    capsys: pytest.CaptureFixture[str],
    accuracy: float,
    interval: tuple[float, float],
    collapsed: bool,
    warning: str,
) -> None:
    render.evaluation("run", "here", Evaluation(100, {"accuracy": accuracy}, 0.5, interval, collapsed))
    out = capsys.readouterr().out
    assert ("warning" in out) == bool(warning)
    assert warning in out


def test_a_run_that_released_nothing_claims_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    record = make_record(Path("runs"), status="interrupted", steps=0, steps_planned=9)
    render.summary(record)
    out = capsys.readouterr().out
    assert "nothing was released" in out
    assert "not scored" in out
    assert "dpft eval" not in out
    render.summary(record.revise(steps=3))
    assert "no valid (ε, δ) claimed" in capsys.readouterr().out


class TestProgress:
    def follow(self, view: TrainingView, *, private: bool = True, steps: int = 200) -> None:
        with view:
            view.working("loading libraries")
            view.working("preparing sst2")
            facts = FACTS if private else RunFacts(**{**vars(FACTS), "private": False})
            view.started(facts)
            for step in range(1, steps + 1):
                metrics = {"accuracy": 0.71236} if step % 67 == 0 else {}
                view.progressed(Progress(step, 200, step / 2, 0.040001 * step if private else None, metrics))
            view.warned("mind [this]")
            if steps < 200:
                view.stopping()

    def test_lines_at_intervals(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.follow(TrainingView("run 2 of 3"))
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert captured.out == ""
        assert "\x1b" not in captured.err
        assert lines[0] == "loading libraries …"
        assert lines[2] == "swift-otter: lora on prajjwal1/bert-tiny, sst2 (run 2 of 3)"
        assert "67,349 examples, 200 steps of 1,024; 12,345 of 4,386,307 parameters train" in lines
        assert "σ 0.7071, C 0.1: ε ≤ 7.9991 at δ ≤ 7.43e-06" in lines
        steps = [line for line in lines if line.startswith("step")]
        assert len(steps) == 12  # ten, and two epochs' ends that are not among them
        assert steps[0] == "step  20/200   10%  2.0 steps/s  1 min 30 s left  ε 0.8001"
        assert steps[-1].endswith("ε 8.0002  accuracy 0.7124")
        assert lines[-1] == "warning: mind [this]"

    def test_stopping_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.follow(TrainingView(), steps=30)
        assert capsys.readouterr().err.endswith("stopping: saving what was trained …\n")

    def test_without_privacy_no_epsilon(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.follow(TrainingView(), private=False)
        err = capsys.readouterr().err
        assert "without differential privacy" in err
        assert "ε" not in err

    def test_quiet_still_warns(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.follow(TrainingView(quiet=True))
        assert capsys.readouterr().err == "warning: mind [this]\n"

    @pytest.mark.parametrize("width", [60, 80, 140])
    def test_a_bar_on_a_terminal(self, terminal: Any, width: int) -> None:
        stream = terminal(width)
        self.follow(TrainingView())
        lines = shown(stream)
        bars = [line for line in lines if "200/200" in line]
        assert bars
        assert "ε 8.0002" in bars[-1]
        assert "accuracy 0.7124" in bars[-1]
        assert max(cell_len(line) for line in lines) <= width
        assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") > 0

    def test_a_log_is_never_silent_for_long(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A run of twenty hours: lines at every tenth would be two hours apart."""
        with TrainingView() as view:
            view.started(FACTS)
            for step in range(1, 201):
                view.progressed(Progress(step, 200, step * 360.0, None, {}))
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
        assert len(lines) == 200
        assert "s/step" in lines[0]
        with TrainingView() as view:
            view.started(FACTS)
            for step in range(1, 201):
                view.progressed(Progress(step, 200, step * 9.0, None, {}))  # half an hour
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
        assert 10 <= len(lines) <= 16

    def test_a_dumb_terminal_gets_lines(self, terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = terminal(80)
        monkeypatch.setenv("TERM", "dumb")
        self.follow(TrainingView())
        assert "step  20/200" in stream.getvalue()
        assert "\x1b[?25l" not in stream.getvalue()

    def test_the_terminal_is_left_tidy_wherever_a_run_ends(self, terminal: Any) -> None:
        stream = terminal(80)
        with TrainingView() as view:
            view.started(FACTS)
        assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") > 0
