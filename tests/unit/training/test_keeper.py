"""When checkpoints are kept, and that no step is taken before it is allowed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpft.errors import PrivacyError, StoreError
from dpft.training import keeper as module
from dpft.training.checkpoint import Checkpoints
from dpft.training.keeper import Cadence, Keeper
from tests.unit.training.test_checkpoint import model, origin, step


def marks(cadence: Cadence, start: int = 0) -> list[int]:
    found = [start]
    while found[-1] < cadence.steps:
        found.append(cadence.mark_after(found[-1]))
    return found[1:]


def test_marks_are_where_checkpoints_may_be() -> None:
    assert marks(Cadence(10, 4)) == [4, 8, 10]
    assert marks(Cadence(10, 4), start=5) == [8, 10]  # the same, wherever a process begins
    assert marks(Cadence(3, None)) == [1, 2, 3]
    assert marks(Cadence(100, None)) == [*range(5, 101, 5)]
    assert len(marks(Cadence(101, None))) <= 20
    assert marks(Cadence(2, 50)) == [2]
    assert len(marks(Cadence(100, 0))) == 20


@pytest.mark.parametrize("every", [1, 4, 10, 11])
def test_asked_for_checkpoints_come_at_every_mark_and_nowhere_else(every: int) -> None:
    cadence = Cadence(10, every)
    assert [step for step in range(1, 11) if cadence.due(step, 0.0)] == marks(cadence)


def test_by_default_they_are_a_minute_apart() -> None:
    cadence = Cadence(100, None)
    assert not any(cadence.due(step, 59.9) for step in range(1, 101))
    assert [step for step in range(1, 101) if cadence.due(step, 60.0)] == marks(cadence)
    assert not any(Cadence(100, 0).due(step, 1e6) for step in range(1, 101))


class Story:
    """What happened, in order: steps (``"1"``), marks (``"<= 4"``), checkpoints (``"kept 4"``)."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int, every: int | None) -> None:
        self.told: list[str] = []
        self.parameters, self.learner = model()
        self.plan: Any = SimpleNamespace(steps_taken=0)
        self.checkpoints = Checkpoints(folder)
        self.genuine = self.checkpoints.write
        monkeypatch.setattr(self.checkpoints, "write", self.write)
        monkeypatch.setattr(module, "software_versions", dict)
        self.keeper = Keeper(
            self.checkpoints,
            origin(),
            Cadence(steps, every),
            self.plan,
            self.learner,
            self.parameters,
            allow=lambda upto: self.told.append(f"<= {upto}"),
        )

    def write(self, state: Any, *rest: Any) -> None:
        self.genuine(state, *rest)
        self.told.append(f"kept {state.step}")

    def step(self) -> None:
        step(self.parameters, self.learner)
        self.plan.steps_taken += 1
        self.told.append(str(self.learner.applied))
        self.keeper.after_step()


def test_every_stretch_is_allowed_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(tmp_path, monkeypatch, steps=5, every=2)
    story.keeper.begin()
    for _ in range(5):
        story.step()
    story.keeper.stop()  # after its last step there is nothing new to keep
    assert story.told == ["<= 2", "1", "2", "kept 2", "<= 4", "3", "4", "kept 4", "<= 5", "5", "kept 5"]


def test_stopping_keeps_what_is_not_kept_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(tmp_path, monkeypatch, steps=100, every=None)
    story.keeper.begin()
    story.keeper.stop()
    assert story.told == ["<= 5"]
    story.step()
    story.keeper.stop()
    story.keeper.stop()
    assert story.told == ["<= 5", "1", "kept 1"]


def test_a_step_that_was_released_and_not_applied_is_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of k steps with an accountant of k + 1, or the other way round, would be a lie either way."""
    story = Story(tmp_path, monkeypatch, steps=5, every=1)
    story.keeper.begin()
    story.step()
    story.plan.steps_taken += 1
    story.keeper.stop()
    assert story.told == ["<= 1", "1", "kept 1", "<= 2"]
    story.plan.steps_taken -= 2  # an accountant that forgets
    with pytest.raises(PrivacyError, match="the weights have 2 steps in them, the accountant has 1"):
        story.step()


def test_no_step_follows_one_that_could_not_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(tmp_path, monkeypatch, steps=5, every=1)

    def full(*arguments: Any) -> None:
        raise StoreError("the disk is full", hint="")

    story.keeper.begin()
    monkeypatch.setattr(story.checkpoints, "write", full)
    with pytest.raises(StoreError):
        story.step()
    assert story.told == ["<= 1", "1"]  # and the next stretch was never asked for
