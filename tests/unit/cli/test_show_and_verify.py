"""``dpft show`` and ``dpft verify``, in this process, on one tiny run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpft.runs.manifest import Manifest
from dpft.runs.store import Store
from tests.unit.runs.builders import make_spec

from .conftest import Command

pytestmark = pytest.mark.slow

CHECKS = {
    "manifest", "claim", "releases", "disclosure", "number of examples", "noise", "sample rate and steps",
    "delta", "statement", "epsilon", "second epsilon", "replace-one epsilon", "header", "tensors", "shapes",
    "configuration", "card", "files", "forbidden content",
}  # fmt: skip
OF_A_RUN = {"copies", "record", "registry", "adapter files"}


@pytest.fixture(scope="module")
def trained(tiny_model: Path, glue_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a store with one private run, called ``tried``."""
    from dpft.cli.app import main

    home = tmp_path_factory.mktemp("shown") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPFT_HOME", str(home))
        patch.setenv("DPFT_CACHE", str(home.parent / "cache"))
        arguments = ["train", "sst2", "-m", tiny_model, "--data-dir", glue_dir, "--max-length", 32]
        arguments += ["--batch-size", 12, "--epochs", 1, "--name", "tried", "--noise-multiplier", 2, "-q"]
        assert main([str(argument) for argument in arguments]) == 0
    return home


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store is this one."""
    monkeypatch.setenv("DPFT_HOME", str(trained))
    return trained


def test_show_tells_the_whole_run(dpft: Command, here: Path) -> None:
    shown = dpft("show")
    assert shown.code == 0
    record = Store().resolve("tried")
    statement = Store().manifest(record)["statement"]
    for text in ("tried · sst2 · lora · completed", statement, "replace-one ε ≤ ", "σ 2.0000, C 1 (flat)",
                 "adapter/adapter_model.safetensors", "dpft verify tried", record.run_id):  # fmt: skip
        assert text in shown.out
    document = dpft("show", "@1", "--json").json
    assert document["run_id"] == record.run_id
    assert document["manifest"] == Store().manifest(record)
    assert document["spec"]["privacy"]["noise_multiplier"] == 2.0
    assert set(document) >= {"spec", "manifest", "epsilon", "metrics", "run_dir"}
    assert dpft("show", "tried", "-q").out.split() == [record.run_id]


def test_show_a_run_without_a_manifest(dpft: Command) -> None:
    with Store().create(make_spec("going-on")):
        assert "running" in dpft("show", "going-on").out
        assert dpft("show", "going-on", "--json").json["manifest"] is None
    assert dpft("show", "nobody").code == 3


def test_show_prints_the_schema(dpft: Command) -> None:
    for arguments in (("--schema",), ("--schema", "--json")):
        assert dpft("show", *arguments).json == Manifest.json_schema()


def test_verify_a_run_by_name(dpft: Command, here: Path) -> None:
    found = dpft("verify", "tried", "--json")
    assert (found.code, found.json["ok"], found.json["kind"]) == (0, True, "run")
    assert {check["name"] for check in found.json["checks"]} >= CHECKS | OF_A_RUN
    assert all(set(check) == {"name", "ok", "detail"} for check in found.json["checks"])
    lines = dpft("verify", "@latest").out.splitlines()
    assert lines[0].startswith("tried · run · run ")
    assert lines[-1].endswith("this proves arithmetic and integrity, not that training was honest")
    assert dpft("verify", "tried", "-q").out.split() == [found.json["run_id"]]


def test_verify_an_adapter_without_the_store(
    dpft: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_dir,) = (trained / "runs").iterdir()
    shutil.copytree(run_dir / "adapter", tmp_path / "carried off")
    monkeypatch.chdir(tmp_path)
    found = dpft("verify", "./carried off", "--json")
    assert (found.code, found.json["kind"]) == (0, "adapter")
    assert {check["name"] for check in found.json["checks"]} >= CHECKS
    assert not (tmp_path / "dpft-home").exists()
    assert dpft("verify", "carried off").code == 0  # no run is called so


def test_what_was_tampered_with_ends_with_4_and_one_line(
    dpft: Command, trained: Path, tmp_path: Path
) -> None:
    (run_dir,) = (trained / "runs").iterdir()
    folder = Path(shutil.copytree(run_dir / "adapter", tmp_path / "adapter"))
    document: dict[str, Any] = json.loads((folder / "privacy.json").read_bytes())
    document["guarantee"]["epsilon"] /= 2
    (folder / "privacy.json").write_text(json.dumps(document))
    told = dpft("verify", folder)
    assert told.code == 4
    failed = [line.split()[1] for line in told.out.splitlines() if "FAILED" in line]
    assert failed == ["statement", "epsilon", "header", "card", "files"]
    assert "too low" in told.out
    as_json = dpft("verify", folder, "--json")
    assert (as_json.code, as_json.json["ok"]) == (4, False)
    assert (dpft("verify", folder, "-q").code, dpft("verify", folder, "-q").out) == (4, "")


def test_nothing_to_verify(dpft: Command, tmp_path: Path) -> None:
    for target in ("nobody", tmp_path / "nowhere", tmp_path):
        assert dpft("verify", target).code == 3
    error = dpft("verify", tmp_path, "--json")
    assert (error.code, error.json["error"]["type"]) == (3, "NotFoundError")
