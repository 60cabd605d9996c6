from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dpft.cli.app import main
from dpft.runs.record import RunRecord
from dpft.spec import RunSpec
from tests.unit.runs.builders import make_record

RUN_IDS = [f"{number:016x}" for number in range(0xA1, 0xB0)]


class Outcome:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Outcome]


@pytest.fixture
def dpft(capsys: pytest.CaptureFixture[str]) -> Command:
    """Call the command line in this process."""

    def call(*arguments: object) -> Outcome:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


class FakeTraining:
    """Stands in for training; remembers what it was asked, and ends as it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.specs: list[RunSpec] = []
        self.endings: Iterator[Any] = iter(())

    def __call__(self, spec: RunSpec, view: Any) -> RunRecord:
        self.specs.append(spec)
        ending = next(self.endings, {})
        if isinstance(ending, BaseException):
            raise ending
        if callable(ending):
            ending()
            ending = {}
        number = len(self.specs)
        fields = {
            "name": spec.name or f"run-{number}",
            "dataset": spec.data.dataset,
            "finetune_mode": spec.tuning.mode,
            "private": spec.privacy.enabled,
            "steps": 10,
            "steps_planned": 10,
            "metrics": {"accuracy": 0.75},
            "baselines": {"majority": 0.5},
            "seconds": 12.0,
        }
        if spec.privacy.enabled:
            fields |= {"epsilon": 7.99901, "delta": 1e-5, "noise_multiplier": 0.7, "sample_rate": 0.1}
        return make_record(self.folder, RUN_IDS[number], **{**fields, **ending})


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    fake = FakeTraining(tmp_path / "runs")
    monkeypatch.setattr("dpft.training.run.train", fake)
    return fake
