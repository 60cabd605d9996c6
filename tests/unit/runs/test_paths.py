from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from dpft.errors import StoreError
from dpft.runs import paths
from dpft.runs.files import ensure_directory


def test_the_environment_moves_store_and_cache(home: Path) -> None:
    assert paths.home() == home
    assert paths.prepared_dir() == home.parent / "cache" / "prepared"
    assert paths.prepared_dir().is_dir()


def test_an_empty_variable_means_the_platforms_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DPFT_HOME", "")
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: tmp_path / "data")
    assert paths.home() == tmp_path / "data"


def test_the_users_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("DPFT_HOME", "~/dpft")
    assert paths.home() == tmp_path / "dpft"


@pytest.mark.skipif(os.name == "nt", reason="POSIX permission bits")
def test_new_folders_are_the_owners_and_old_ones_stay_as_they_are(home: Path) -> None:
    home.parent.chmod(0o755)
    nested = ensure_directory(home / "a" / "b")
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (home, home / "a", nested)] == [0o700] * 3
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o755


def test_a_file_in_the_way_is_told(home: Path) -> None:
    home.write_text("")
    with pytest.raises(StoreError, match="not a folder"):
        paths.home()


def test_importing_the_package_loads_no_heavy_library() -> None:
    program = (
        "import sys, dpft.runs, dpft.runs.store, dpft.runs.manifest, dpft.runs.secret\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'peft', 'dp_accounting', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_the_package_alone_imports_nothing_of_it() -> None:
    program = "import sys, dpft.runs; print([name for name in sys.modules if name.startswith('dpft.runs.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    import dpft.runs

    for name in dpft.runs.__all__:
        assert getattr(dpft.runs, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = dpft.runs.no_such_name
