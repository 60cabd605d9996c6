from __future__ import annotations

from pathlib import Path

import pytest

from dpft.runs.store import Store


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store's folder, set for this process and its children."""
    folder = tmp_path / "home"
    monkeypatch.setenv("DPFT_HOME", str(folder))
    monkeypatch.setenv("DPFT_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def store(home: Path) -> Store:
    return Store()
