from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpft.audit.bench import Bench, Entropy
from dpft.audit.run import AuditSpec, lay_out
from dpft.spec import ModelSpec, PrivacySpec, TuningSpec
from dpft.tables import MODES
from dpft.training.observer import Observer

SpecMaker = Callable[..., AuditSpec]


@pytest.fixture(scope="session")
def spec_of(tiny_model: Path) -> SpecMaker:
    """A small audit of the tiny model: seconds."""

    def make(mode: str = "lora", **changes: Any) -> AuditSpec:
        tuning = TuningSpec(mode=mode, num_prepend_tokens=MODES.get(mode).defaults.num_prepend_tokens and 4)
        privacy = {"target_epsilon": 8.0, "max_grad_norm": 0.5, **changes.pop("privacy", {})}
        small = {"canaries": 64, "texts": 32, "steps": 16, "precision": "fp32", **changes}
        return AuditSpec(ModelSpec(checkpoint=str(tiny_model)), tuning, PrivacySpec(**privacy), **small)

    return make


@pytest.fixture(scope="module")
def bench(spec_of: SpecMaker) -> Bench:
    """LoRA on the tiny model, laid out with fixed chance."""
    return lay_out(spec_of(), Observer(), entropy=Entropy(1))


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def at_any_precision(spec_of: SpecMaker, request: pytest.FixtureRequest) -> Bench:
    """The same, at either precision."""
    return lay_out(spec_of(precision=request.param), Observer(), entropy=Entropy(1))
