"""What may not stand in anything that leaves is looked for everywhere, also where the digests agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpft.export.proof.content import content_check
from dpft.export.proof.subject import open_subject

from .conftest import list_anew, manifest_in, write_manifest

pytestmark = pytest.mark.slow


def problem(folder: Path) -> str:
    check = content_check(open_subject(folder))
    return "" if check.ok else check.detail


def test_runs_and_adapters_hold_nothing_of_the_kind(adapter: Path, run_copy: Path) -> None:
    assert problem(adapter) == problem(run_copy) == ""


@pytest.mark.parametrize(
    "key", ["seed", "noise_seed", "rng_state", "torch_rng", "random_state", "generator_state", "private_key"]
)
@pytest.mark.parametrize("name", ["privacy.json", "adapter_config.json", "more.json"])
def test_secrets(key: str, name: str, adapter: Path) -> None:
    path = adapter / name
    document = json.loads(path.read_bytes()) if path.exists() else {}
    path.write_text(json.dumps({**document, "more": [{key: 7}]}))
    assert key in problem(adapter)


@pytest.mark.parametrize("key", ["loss", "train_loss", "grad_norm", "median_norm", "clip_fraction"])
def test_private_numbers(key: str, adapter: Path, run_copy: Path) -> None:
    (adapter / "trainer_state.json").write_text(json.dumps({key: 0.25}))
    assert key in problem(adapter)
    with (run_copy / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 1, key: 0.25}) + "\n")
    assert key in problem(run_copy)


@pytest.mark.parametrize(
    "place", ["/home/someone/data", "/tmp/x/train.tsv", "~/texts", "C:\\Users\\someone", "file:///data/x"]
)
@pytest.mark.parametrize("name", ["README.md", "adapter_config.json", "privacy.json"])
def test_local_paths(place: str, name: str, adapter: Path) -> None:
    path = adapter / name
    if name.endswith(".json"):
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "revision": place}))
    else:
        path.write_text(f"{path.read_text()}\nTrained on {place}.\n")
    assert "local path" in problem(adapter)


@pytest.mark.parametrize("text", ["my diary\nof yesterday", "word " * 200, "bell\a"])
@pytest.mark.parametrize("where", [("data", "source"), ("evidence", "audit")])
def test_raw_text_in_a_manifest(text: str, where: tuple[str, str], adapter: Path) -> None:
    document: dict[str, Any] = manifest_in(adapter)
    document[where[0]][where[1]] = text
    write_manifest(adapter, document)
    list_anew(adapter)
    assert "no manifest has" in problem(adapter)


@pytest.mark.parametrize("name", ["local-only/training.jsonl", "checkpoints/step-1/state.json"])
def test_what_is_for_this_machine_only(name: str, adapter: Path, run_copy: Path) -> None:
    for folder in (adapter, run_copy):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    assert "only" in problem(adapter)
    assert problem(run_copy) == ""


def test_names_of_labels_are_no_secrets(adapter: Path) -> None:
    """A label may be called "secret"; a seed that calls itself a label is found."""
    (adapter / "config.json").write_text(json.dumps({"label2id": {"public": 0, "secret": 1, "loss": 2}}))
    assert problem(adapter) == ""
    (adapter / "config.json").write_text(json.dumps({"label2id": {"public": 0, "seed": 1234}}))
    assert "seed" in problem(adapter)


def test_words_of_a_vocabulary_are_no_secrets(adapter: Path) -> None:
    (adapter / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"seed": 7, "/home/x": 8}}}))
    assert problem(adapter) == ""
