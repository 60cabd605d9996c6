"""One private LoRA run of a tiny model, really trained, and copies of its adapter to tamper with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dpft.export.proof import Verification, verify
from dpft.runs.files import file_table, write_json_atomic
from dpft.runs.manifest import UNJUDGED, Manifest, safetensors_header
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.tables import MODES
from dpft.tuning.files import stamp


class Trained:
    """A run, and where its store is."""

    def __init__(self, record: RunRecord, spec: RunSpec, home: Path) -> None:
        self.record, self.spec, self.home = record, spec, home


def spec_for(model: Path, data: Path, mode: str = "lora", *, private: bool = True) -> RunSpec:
    prompts = MODES.get(mode).defaults.num_prepend_tokens
    return RunSpec(
        data=DataSpec(dataset="sst2", data_dir=str(data), max_length=32),
        model=ModelSpec(checkpoint=str(model)),
        tuning=TuningSpec(mode=mode, lora_r=2, num_prepend_tokens=prompts and 3),
        privacy=PrivacySpec(enabled=private, target_epsilon=None, noise_multiplier=2.0)
        if private
        else PrivacySpec(enabled=False),
        optimisation=OptimisationSpec(learning_rate=1e-2, batch_size=20, epochs=1, seed=20_271_828),
        hardware=HardwareSpec(precision="fp32", micro_batch_tokens=400),
    )


@pytest.fixture(scope="module")
def trains(tiny_model: Path, glue_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Train in a mode, in one store for the module."""
    from dpft.training.run import train

    home = tmp_path_factory.mktemp("verified") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPFT_HOME", str(home))
        patch.setenv("DPFT_CACHE", str(home.parent / "cache"))

        def make(mode: str = "lora", *, private: bool = True) -> Trained:
            patch.setenv("DPFT_HOME", str(home))
            spec = spec_for(tiny_model, glue_dir, mode, private=private)
            return Trained(train(spec, store=Store(home)), spec, home)

        yield make


@pytest.fixture(scope="module")
def run(trains: Callable[..., Trained]) -> Trained:
    """Not to be changed."""
    return trains()


@pytest.fixture
def adapter(run: Trained, tmp_path: Path) -> Path:
    """The adapter, copied out of its run."""
    return Path(shutil.copytree(run.record.run_dir / "adapter", tmp_path / "elsewhere"))


@pytest.fixture
def run_copy(run: Trained, tmp_path: Path) -> Path:
    """The run's whole folder, copied."""
    return Path(shutil.copytree(run.record.run_dir, tmp_path / run.record.run_id))


def manifest_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "privacy.json").read_bytes())
    return found


def write_manifest(folder: Path, document: Any) -> None:
    (folder / "privacy.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def list_anew(folder: Path) -> None:
    """Make ``files.json`` agree with what is there, as anyone can."""
    table = [entry.to_json() for entry in file_table(folder, exclude={"files.json"})]
    write_json_atomic(folder / "files.json", {"schema_version": "1.0", "files": table})


def forge(folder: Path, document: dict[str, Any], *, honest_sentence: bool = True) -> None:
    """Change a manifest as somebody does who knows where else it is bound: sentence, card, header, digests.

    Raises:
        DpftError, pydantic.ValidationError: the document is no manifest at all.
    """
    before = manifest_in(folder)["statement"]
    unsaid = {key: value for key, value in document.items() if key != "statement"}
    made = Manifest.model_validate(unsaid, context=UNJUDGED)
    if honest_sentence:
        document = {**document, "statement": made.sentence()}
    write_manifest(folder, document)
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace(before, document["statement"]))
    stamp(folder, safetensors_header(made, document))
    list_anew(folder)


def failures(found: Verification) -> list[str]:
    return [check.name for check in found.failed]


def verified(folder: Path) -> list[str]:
    """Names of the checks that fail."""
    return failures(verify(folder))
