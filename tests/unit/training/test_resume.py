"""Row 19: a resumed run is the run that never stopped, and nothing is drawn, spent or forgotten twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpft.privacy.noise import KEY_BYTES, KeyStream
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.tables import MODES
from dpft.training import run as story
from dpft.training.observer import Observer, Progress, RunFacts
from dpft.training.run import resume, train

KEY = bytes(range(KEY_BYTES))
STEPS = 4


class Killed(BaseException):
    """Stands in for SIGKILL, whose real likeness is in tests/e2e."""


@pytest.fixture
def spec(tiny_model: Path, glue_dir: Path) -> Any:
    def make(
        mode: str = "lora",
        *,
        private: bool = True,
        every: int | None = 1,
        dropout: float = 0.0,
        **changes: Any,
    ) -> RunSpec:
        prompts = MODES.get(mode).defaults.num_prepend_tokens and 3
        return RunSpec(
            data=DataSpec(dataset="sst2", data_dir=str(glue_dir), max_length=32),
            model=ModelSpec(checkpoint=str(tiny_model)),
            tuning=TuningSpec(mode=mode, lora_r=2, lora_dropout=dropout, num_prepend_tokens=prompts),
            privacy=PrivacySpec(enabled=private, target_epsilon=None, noise_multiplier=1.0)
            if private
            else PrivacySpec(enabled=False),
            optimisation=OptimisationSpec(learning_rate=1e-2, batch_size=20, epochs=4 / 3, seed=7),
            hardware=HardwareSpec(micro_batch_tokens=200, checkpoint_every=every),
        ).model_copy(update=changes)

    return make


@pytest.fixture
def fixed_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process of the run draws from one key; a doubt about it is what real runs would rightly have."""
    genuine = story.make_plan

    def keyed(*arguments: Any, **more: Any) -> Any:
        plan = genuine(*arguments, **more, stream=KeyStream(KEY))
        plan._given_stream = False
        return plan

    monkeypatch.setattr(story, "make_plan", keyed)


class DiesAfter(Observer):
    """Ends the process after some step; before the first for 0."""

    def __init__(self, step: int, how: type[BaseException] = Killed) -> None:
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
    """All that a run states, less what names the run and the moment."""
    manifest = Store().manifest(record)
    for name in ("run_id", "created"):
        del manifest["identity"][name]
    del manifest["tuning"]  # which counts the runs in this store
    lines = [json.loads(line) for line in (record.run_dir / "metrics.jsonl").read_text().splitlines()]
    local = (record.run_dir / "local-only" / "training.jsonl").read_text().splitlines()
    scores = [{name: value for name, value in line.items() if name != "epsilon"} for line in lines]
    return {"manifest": manifest, "metrics": record.metrics, "scores": scores, "local": local}


@pytest.mark.usefixtures("fixed_key")
@pytest.mark.parametrize(
    ("mode", "private", "dropout"),
    [
        ("lora", True, 0.0),
        ("full", True, 0.0),
        ("soft-prompt", True, 0.0),
        ("full", False, 0.0),
        ("lora", False, 0.3),
    ],
)
def test_killed_after_every_step_it_ends_as_if_it_never_was(
    mode: str, private: bool, dropout: float, spec: Any
) -> None:
    """Bit by bit: weights, ε, scores, and the exact losses in local-only."""
    made = spec(mode, private=private, dropout=dropout)
    whole = train(made)
    run_id = killed(made, 0)
    for step in range(1, STEPS + 1):
        dying = DiesAfter(step)
        with pytest.raises(Killed):
            resume(run_id, dying)
        assert dying.steps == [step]
    again = resume(run_id)
    assert (again.status, again.steps) == ("completed", STEPS)
    assert again.epsilon == whole.epsilon
    assert outcome(again) == outcome(whole)
    assert not (again.run_dir / "checkpoints").exists()
