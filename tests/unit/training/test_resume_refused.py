"""What a run is not resumed with: another spec, other data, another base model, a damaged checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from dpft.errors import LockedError, NotFoundError, PrivacyError, StoreError, UsageError
from dpft.runs.active import run_lock
from dpft.runs.store import Store
from dpft.training.run import resume
from tests.unit.training.resuming import STEPS, DiesAfter, MakeSpec, killed
from tests.unit.training.test_checkpoint import edit, flip


class Place:
    """A run that died after two steps, with data and a model of its own to spoil."""

    def __init__(self, run_dir: Path, data: Path, model: Path) -> None:
        self.run_dir, self.data, self.model = run_dir, data / "SST-2" / "train.tsv", model
        self.checkpoint = run_dir / "checkpoints" / "step-000002"

    def rows(self, change: Callable[[list[str]], list[str]]) -> None:
        head, *rows = self.data.read_text().splitlines()
        self.data.write_text("\n".join([head, *change(rows)]) + "\n")

    def config(self, part: str, **changes: Any) -> None:
        path = self.run_dir / "config.yaml"
        document = yaml.safe_load(path.read_text())
        document[part] |= changes
        path.write_text(yaml.safe_dump(document))

    def base(self) -> None:
        path = self.model / "model.safetensors"
        tensors = load_file(path)
        next(iter(tensors.values())).add_(0.1)
        save_file(tensors, path, metadata={"format": "pt"})

    def origin(self, **changes: Any) -> None:
        document = json.loads((self.checkpoint / "state.json").read_text())
        edit(origin={**document["origin"], **changes})(self.checkpoint)


def event(**changes: Any) -> dict[str, Any]:
    return {"sample_rate": 1 / 3, "noise_multiplier": 1.0, "steps": STEPS, **changes}


SPOILED: dict[str, tuple[Callable[[Place], None], str]] = {
    "a row less": (lambda place: place.rows(lambda rows: rows[:-1]), "training rows of sst2 are not those"),
    "a row changed": (lambda place: place.rows(lambda rows: ["fun\t1", *rows[1:]]), "training rows"),
    "rows in another order": (lambda place: place.rows(lambda rows: rows[::-1]), "their order"),
    "shorter texts": (lambda place: place.config("data", max_length=12), "config.yaml has changed"),
    "more epochs": (lambda place: place.config("optimisation", epochs=9.0), "config.yaml has changed"),
    "another seed": (lambda place: place.config("optimisation", seed=8), "config.yaml has changed"),
    "less noise": (lambda place: place.config("privacy", noise_multiplier=0.5), "config.yaml has changed"),
    "no privacy": (
        lambda place: place.config("privacy", enabled=False, noise_multiplier=None),
        "config.yaml has changed",
    ),
    "another base model": (Place.base, "base model .* is not the one"),
    "another run's checkpoint": (lambda place: place.origin(run_id="0" * 16), "checkpoint is of run 0000"),
    "less noise in the checkpoint": (
        lambda place: place.origin(event=event(noise_multiplier=0.5)),
        "noise multiplier 0.5, the run has 1.0",
    ),
    "no noise in the checkpoint": (lambda place: place.origin(event=None), "noise multiplier None"),
    "another rate": (lambda place: place.origin(event=event(sample_rate=0.1)), "would be planned with"),
    "more steps": (lambda place: place.origin(steps_planned=400), "steps would be planned"),
}


@pytest.fixture
def place(small: MakeSpec, tiny_model: Path, glue_dir: Path, tmp_path: Path) -> Place:
    data, model = tmp_path / "data", tmp_path / "model"
    shutil.copytree(glue_dir, data)
    shutil.copytree(tiny_model, model)
    run_id = killed(small("last-layer", data_dir=data, model=model), 2)
    return Place(Store().resolve(run_id).run_dir, data, model)


def test_only_what_the_checkpoint_was_made_with_goes_on(place: Place) -> None:
    """Each in turn is refused with exit code 4, takes no step, changes nothing; undone, the run goes on."""
    before = place.run_dir.parent.parent / "before"
    shutil.copytree(place.run_dir, before)
    data, model = place.data.read_text(), (place.model / "model.safetensors").read_bytes()
    for what, (spoil, message) in SPOILED.items():
        spoil(place)
        watching = DiesAfter()
        with pytest.raises(PrivacyError, match=message) as caught:
            resume(place.run_dir.name, watching)
        assert (caught.value.exit_code, watching.steps) == (4, []), what
        assert caught.value.hint, what
        assert Store().list()[0].status == "failed", what
        shutil.rmtree(place.run_dir)
        shutil.copytree(before, place.run_dir)
        place.data.write_text(data)
        (place.model / "model.safetensors").write_bytes(model)
    assert resume(place.run_dir.name).status == "completed"


def test_a_damaged_checkpoint_is_refused_and_the_one_before_goes_on(place: Place) -> None:
    flip("weights.safetensors", -1)(place.checkpoint)
    with pytest.raises(StoreError, match="step-000002 cannot be used") as caught:
        resume(place.run_dir.name)
    assert "remove that folder" in caught.value.hint
    shutil.rmtree(place.checkpoint)
    watching = DiesAfter()
    assert resume(place.run_dir.name, watching).steps == STEPS
    assert watching.steps == [2, 3, 4]


def test_only_speed_may_change(place: Place) -> None:
    for changes in ({"precision": "bf16"}, {"epochs": 5}, {"noise_multiplier": 0.1}):
        with pytest.raises(UsageError, match="cannot change when a run is resumed"):
            resume(place.run_dir.name, changes=changes)
    watching = DiesAfter()
    record = resume(place.run_dir.name, watching, changes={"micro_batch_tokens": 40, "checkpoint_every": 0})
    assert record.status == "completed"
    assert watching.steps == [3, 4]


def test_other_software_is_told(place: Place) -> None:
    edit(software={"torch": "1.0"})(place.checkpoint)
    watching = DiesAfter()
    assert resume(place.run_dir.name, watching).status == "completed"
    assert any("begun with torch 1.0" in warning for warning in watching.warnings)


def test_neither_a_living_nor_a_completed_nor_an_unknown_run(place: Place) -> None:
    name = place.run_dir.name
    with run_lock(place.run_dir).acquire(timeout=0), pytest.raises(LockedError) as locked:
        resume(name)
    assert locked.value.exit_code == 5
    assert resume(name).status == "completed"
    with pytest.raises(UsageError, match="is completed: there is nothing to resume") as completed:
        resume(name)
    assert completed.value.exit_code == 2
    with pytest.raises(NotFoundError):
        resume("no-such-run")
