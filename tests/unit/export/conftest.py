from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.export import workshop
from tests.unit.export.workshop import MadeRun


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base model ``tiny-base``."""
    folder = tmp_path_factory.mktemp("workshop")
    workshop.make_base(folder / "tiny-base")
    return folder


@pytest.fixture(scope="module")
def lora(root: Path) -> MadeRun:
    """A non-private LoRA run; not to be changed."""
    return workshop.make_run(root / "home", workshop.make_spec(root / "tiny-base", "lora"))
