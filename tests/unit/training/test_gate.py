"""The gate: a run that is not what its accountant assumes claims nothing, anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpft.privacy.sampling import ShuffleSampler
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.training import run as story
from dpft.training.run import train


def spec_for(model: Path, data: Path) -> RunSpec:
    return RunSpec(
        data=DataSpec(dataset="sst2", data_dir=str(data), max_length=32),
        model=ModelSpec(checkpoint=str(model)),
        tuning=TuningSpec(mode="ia3"),
        privacy=PrivacySpec(target_epsilon=None, noise_multiplier=2.0),
        optimisation=OptimisationSpec(learning_rate=1e-2, batch_size=20, epochs=1.0),
        hardware=HardwareSpec(precision="fp32"),
    )


def _shuffled(plan: Any) -> None:
    plan._sampler.draw = ShuffleSampler(60, 20, seed=0).draw


def _handed_in(plan: Any) -> None:
    plan._given_stream = True


def _of_other_examples(plan: Any) -> None:
    """The plan agrees with itself, and not with the dataset: its last rows are never drawn."""
    plan._examples = plan._sampler.examples = 50
    plan.schedule = replace(plan.schedule, examples=50)


@pytest.mark.parametrize("plant", [_shuffled, _handed_in, _of_other_examples])
def test_a_run_that_is_not_as_accounted_for_claims_nothing(
    plant: Callable[[Any], None], tiny_model: Path, glue_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 1 and the gate: the manifest says so, and no ε is stated anywhere."""
    genuine = story.make_plan

    def spoilt(*arguments: Any) -> Any:
        plan = genuine(*arguments)
        plant(plan)
        return plan

    monkeypatch.setattr(story, "make_plan", spoilt)
    record = train(spec_for(tiny_model, glue_dir))
    manifest = Store().manifest(record)
    assert manifest["statement"] == "no valid (ε, δ) claimed"
    assert not manifest["sampling"]["assumptions_hold"]
    assert manifest["sampling"]["why_not"]
    assert "guarantee" not in manifest
    assert record.epsilon is None
    assert "≤" not in (record.run_dir / "adapter" / "README.md").read_text()
