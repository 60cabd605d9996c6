from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpft.privacy.noise import KeyStream
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.tables import MODES
from tests.unit.training import resuming


@pytest.fixture
def small(tiny_model: Path, glue_dir: Path) -> resuming.MakeSpec:
    """Specs of four steps, an epoch's end after the third, with a checkpoint after each."""

    def make(
        mode: str = "lora",
        *,
        private: bool = True,
        every: int | None = 1,
        dropout: float = 0.0,
        data_dir: Path = glue_dir,
        model: Path = tiny_model,
        **privacy: Any,
    ) -> RunSpec:
        prompts = MODES.get(mode).defaults.num_prepend_tokens and 3
        noise: dict[str, Any] = {"enabled": private}
        if private:
            noise |= {"target_epsilon": None, "noise_multiplier": 1.0, **privacy}
        return RunSpec(
            data=DataSpec(dataset="sst2", data_dir=str(data_dir), max_length=32),
            model=ModelSpec(checkpoint=str(model)),
            tuning=TuningSpec(mode=mode, lora_r=2, lora_dropout=dropout, num_prepend_tokens=prompts),
            privacy=PrivacySpec(**noise),
            optimisation=OptimisationSpec(
                learning_rate=1e-2, batch_size=20, epochs=resuming.STEPS / 3, seed=7
            ),
            hardware=HardwareSpec(precision="fp32", micro_batch_tokens=200, checkpoint_every=every),
        )

    return make


@pytest.fixture
def fixed_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process of every run draws from one key."""
    resuming.with_key(monkeypatch, lambda: KeyStream(resuming.KEY))
