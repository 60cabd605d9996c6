"""Which engines can be had here, and what each of them refuses."""

from __future__ import annotations

import importlib.util

import pytest

from dpft.engines.base import Engine
from dpft.tables import ENGINES

# The package whose absence is a reason to skip, and what the engine refuses by name.
PACKAGES = {"opacus": "opacus", "private-transformers": "private_transformers"}
REFUSED_MODES = {("opacus", "ia3"), ("private-transformers", "ia3")}
REFUSED_PRECISIONS = {("private-transformers", "bf16")}


def engine_for(name: str, mode: str = "lora", precision: str = "fp32") -> Engine:
    """The engine, or a skip that says why."""
    package = PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if (name, mode) in REFUSED_MODES:
        pytest.skip(f"engine {name} refuses {mode}, by name: see test_what_an_engine_cannot_do_is_refused")
    if (name, precision) in REFUSED_PRECISIONS:
        pytest.skip(f"engine {name} refuses {precision}: see test_what_an_engine_cannot_do_is_refused")
    engine: Engine = ENGINES.get(name)
    return engine
