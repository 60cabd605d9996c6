"""A run with each clipper: what it was asked for is what its manifest states."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpft.runs.manifest import Manifest
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.tables import CLIPPERS
from dpft.training.run import train


@pytest.mark.parametrize("clipping", CLIPPERS.names())
def test_the_manifest_states_the_clipper(clipping: str, tiny_model: Path, glue_dir: Path) -> None:
    record = train(
        RunSpec(
            data=DataSpec(dataset="sst2", data_dir=str(glue_dir), max_length=32),
            model=ModelSpec(checkpoint=str(tiny_model)),
            tuning=TuningSpec(mode="lora", lora_r=2),
            privacy=PrivacySpec(clipping=clipping, max_grad_norm=0.2),
            optimisation=OptimisationSpec(learning_rate=1e-2, batch_size=20, epochs=1),
            hardware=HardwareSpec(precision="fp32", micro_batch_tokens=200),
        )
    )
    mechanism = Manifest.model_validate(Store().manifest(record)).mechanism
    assert (mechanism.clipping, mechanism.max_grad_norm, mechanism.sensitivity) == (clipping, 0.2, 0.2)
    names = [parameter.name for parameter in mechanism.trainable_parameters]
    layers = {name.rpartition(".")[0] for name in names}
    assert mechanism.clipping_groups == (len(layers) if clipping == "per-layer" else 1)
    assert 1 < len(layers) < len(names)
    assert mechanism.clipping_stability == (0.01 if clipping == "automatic" else None)
