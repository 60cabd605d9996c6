"""One source: whatever repeats the manifest and says something else is found, place by place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpft.export.proof import verify
from dpft.runs.store import Store

from .conftest import Trained, failures, list_anew, manifest_in, verified

pytestmark = pytest.mark.slow


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **values}, indent=2))


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _another_statement(folder: Path) -> None:
    replace_in(folder / "README.md", "by differential privacy", "by the strongest differential privacy")


def _another_epsilon(folder: Path) -> None:
    path = folder / "README.md"
    path.write_text(path.read_text() + "\nThis adapter has ε = 0.1.\n")


def _another_delta(folder: Path) -> None:
    path = folder / "README.md"
    path.write_text(path.read_text() + "\nIts delta is 1e-12.\n")


def _no_card(folder: Path) -> None:
    (folder / "README.md").unlink()


def _another_base(folder: Path) -> None:
    edit_json(folder / "adapter_config.json", base_model_name_or_path="other/model")


def _another_kind(folder: Path) -> None:
    edit_json(folder / "adapter_config.json", peft_type="IA3")


def _another_rank(folder: Path) -> None:
    edit_json(folder / "adapter_config.json", r=64)


ADAPTER_LIES: list[tuple[Callable[[Path], None], str]] = [
    (_another_statement, "card"),
    (_another_epsilon, "card"),
    (_another_delta, "card"),
    (_no_card, "card"),
    (_another_base, "configuration"),
    (_another_kind, "configuration"),
    (_another_rank, "configuration"),
]


@pytest.mark.parametrize(("lie", "check"), ADAPTER_LIES, ids=lambda value: getattr(value, "__name__", value))
def test_beside_an_adapter(lie: Callable[[Path], None], check: str, adapter: Path) -> None:
    lie(adapter)
    assert verified(adapter) == [check, "files"]
    list_anew(adapter)
    assert verified(adapter) == [check]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0.5), ("delta", 1e-12), ("noise_multiplier", 9.0), ("sample_rate", 0.01), ("steps", 2),
        ("private", False), ("run_id", "0" * 16), ("dataset", "qnli"), ("finetune_mode", "ia3"),
    ],
)  # fmt: skip
def test_in_the_record(field: str, value: Any, run_copy: Path) -> None:
    edit_json(run_copy / "run.json", **{field: value})
    assert verified(run_copy) == ["record"]


@pytest.mark.parametrize(("field", "value"), [("epsilon", 0.5), ("delta", 1e-12), ("steps", 2)])
def test_in_the_registry(field: str, value: Any, run: Trained) -> None:
    record = Store(run.home).resolve(run.record.run_id)
    assert verify(record.run_dir, record).ok
    found = verify(record.run_dir, record.revise(**{field: value}))
    assert failures(found) == ["registry"]
    assert field in found.failed[0].detail


def test_in_the_list_of_files(run_copy: Path) -> None:
    listing = json.loads((run_copy / "files.json").read_bytes())
    for entry in listing["files"]:
        for field, value in (("sha256", "0" * 64), ("size", entry["size"] + 1), ("name", "adapter/other")):
            changed = [{**e, field: value} if e is entry else e for e in listing["files"]]
            edit_json(run_copy / "files.json", files=changed)
            assert "files" in verified(run_copy), (entry["name"], field)
    for wrong in ({}, "x", [1], [{"name": "../x", "sha256": "", "size": 0}], [], listing["files"] * 2):
        edit_json(run_copy / "files.json", files=wrong)
        assert "files" in verified(run_copy), wrong


def test_between_a_run_and_its_adapter(run_copy: Path) -> None:
    document = manifest_in(run_copy)
    document["evidence"]["audit"] = "passed"
    (run_copy / "privacy.json").write_text(json.dumps(document))
    assert verified(run_copy) == ["header", "copies"]


@pytest.mark.parametrize("name", ["more.safetensors", "pytorch_model.bin", "nested/adapter.pt", "model.onnx"])
def test_weights_that_nobody_speaks_for(name: str, adapter: Path) -> None:
    (adapter / name).parent.mkdir(exist_ok=True)
    (adapter / name).write_bytes(b"x")
    assert "files" in verified(adapter)


def test_pickled_weights_do_not_pass_even_if_listed(adapter: Path) -> None:
    (adapter / "adapter_model.bin").write_bytes(b"x")
    list_anew(adapter)
    assert verified(adapter) == ["files"]
