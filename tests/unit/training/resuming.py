"""Small runs that die, and what remains of them: for the tests of going on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dpft.privacy.noise import KEY_BYTES, KeyStream
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import RunSpec
from dpft.training import run as story
from dpft.training.observer import Observer, Progress, RunFacts
from dpft.training.run import train

KEY = bytes(range(KEY_BYTES))
STEPS = 4
MakeSpec = Callable[..., RunSpec]


class Killed(BaseException):
    """Stands in for SIGKILL, whose real likeness is in tests/e2e."""


class DiesAfter(Observer):
    """Ends the process after some step; before the first for 0, never for -1."""

    def __init__(self, step: int = -1, how: type[BaseException] = Killed) -> None:
        self.step, self.how = step, how
        self.warnings: list[str] = []
        self.steps: list[int] = []

    def started(self, facts: RunFacts) -> None:
        if self.step == 0:
            raise self.how

    def progressed(self, progress: Progress) -> None:
        self.steps.append(progress.step)
        if progress.step == self.step:
            raise self.how

    def warned(self, message: str) -> None:
        self.warnings.append(message)


def killed(spec: RunSpec, step: int) -> str:
    """A run that died; its id."""
    with pytest.raises(Killed):
        train(spec, DiesAfter(step))
    return Store().list()[0].run_id


def outcome(record: RunRecord) -> dict[str, Any]:
    """All that a run states of itself, less what names it and the moment."""
    manifest = Store().manifest(record)
    for name in ("run_id", "created"):
        del manifest["identity"][name]
    del manifest["tuning"]  # of other runs on the same data
    lines = [json.loads(line) for line in (record.run_dir / "metrics.jsonl").read_text().splitlines()]
    local = (record.run_dir / "local-only" / "training.jsonl").read_text().splitlines()
    scores = [{name: value for name, value in line.items() if name != "epsilon"} for line in lines]
    return {"manifest": manifest, "metrics": record.metrics, "scores": scores, "local": local}


def weights(record: RunRecord) -> str:
    """Their hash, as the manifest has it."""
    return str(Store().manifest(record)["evidence"]["tensors_sha256"])


def with_key(monkeypatch: pytest.MonkeyPatch, stream: Callable[[], KeyStream]) -> None:
    """Let every plan draw from a stream that is handed in, without the doubt that this rightly raises."""
    genuine = story.make_plan

    def keyed(*arguments: Any, **more: Any) -> Any:
        plan = genuine(*arguments, **more)
        if hasattr(plan, "_stream"):
            plan._stream = plan._sampler._stream = stream()
        return plan

    monkeypatch.setattr(story, "make_plan", keyed)
