"""What ``verify`` accepts: every mode, every form, wherever it lies; and the accountants that it asks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD
from dpft.errors import NotFoundError, UntrustedError
from dpft.export.proof import verify
from dpft.export.proof.weights import tensors_sha256_of_files
from dpft.runs.store import Store
from dpft.runs.tensors import read_header
from dpft.tables import EXPORT_FORMATS, MODES
from dpft.tuning.files import adapter_sha256

from .conftest import Trained, failures, manifest_in, spec_for, verified

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", MODES.names())
def test_runs_adapters_and_exports_of_every_mode(
    mode: str, trains: Callable[..., Trained], tmp_path: Path
) -> None:
    run = trains(mode, private=mode != "full")
    record = run.record
    whole = verify(record.run_dir, Store(run.home).resolve(record.run_id))
    assert (failures(whole), whole.kind, whole.run_id) == ([], "run", record.run_id)
    assert {check.name for check in whole.checks} >= {"registry", "record", "copies", "adapter files"}

    alone = shutil.copytree(record.run_dir / "adapter", tmp_path / "alone")
    found = verify(alone)
    assert (failures(found), found.kind) == ([], "adapter")
    assert adapter_sha256(alone) == tensors_sha256_of_files(
        alone,
        {name.relative_to(alone).as_posix(): read_header(name) for name in alone.rglob("*.safetensors")},
    )

    for format_name in EXPORT_FORMATS.names():
        if format_name == "onnx" and find_spec("onnxruntime") is None:
            continue
        if format_name == "merged" and mode not in ("full", "last-layer", "lora", "ia3"):
            continue
        export = EXPORT_FORMATS.get(format_name)(record, run.spec, tmp_path / format_name)
        found = verify(export.path)
        assert failures(found) == []
        assert found.kind == ("model" if (export.path / "config.json").exists() else "adapter")


def test_a_run_states_what_it_cost(run: Trained) -> None:
    found = verify(run.record.run_dir)
    checks = {check.name: check for check in found.checks}
    event = MechanismEvent(**manifest_in(run.record.run_dir)["events"][0])
    epsilon = PLD.epsilon([event], run.record.delta or 0.0)
    assert run.record.epsilon == epsilon
    assert f"PLD finds {epsilon:.3f}"[:-1] in checks["epsilon"].detail
    assert checks["second epsilon"].detail.startswith("RDP")
    assert json.loads(json.dumps(found.to_json()))["ok"] is True
    assert "not that training was honest" in found.to_json()["limits"]


def test_nothing_to_verify_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match=r"no privacy\.json"):
        verify(tmp_path)


def test_a_folder_with_a_link_is_not_looked_into(adapter: Path) -> None:
    (adapter / "model.safetensors").symlink_to(adapter / "adapter_model.safetensors")
    with pytest.raises(UntrustedError, match="symbolic link"):
        verify(adapter)


def test_a_run_whose_assumptions_fail_does_not_pass(
    trains: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest is honest, and there is no guarantee to rely on."""
    from dpft.training import run as story

    genuine = story.make_plan

    def handed_in(*arguments: Any, **more: Any) -> Any:
        plan = genuine(*arguments, **more)
        plan._given_stream = True  # type: ignore[union-attr]
        return plan

    monkeypatch.setattr(story, "make_plan", handed_in)
    found = verify(trains("ia3").record.run_dir)
    assert failures(found) == ["epsilon"]
    assert "handed in" in found.failed[0].detail


def test_a_run_without_privacy_passes_and_claims_nothing(trains: Callable[..., Trained]) -> None:
    found = verify(trains("last-layer", private=False).record.run_dir)
    assert found.ok
    assert "without differential privacy" in (found.statement or "")
    assert {check.name: check.detail for check in found.checks}["epsilon"] == "none is claimed"


def test_a_stricter_looser_or_unaccountable_claim(adapter: Path) -> None:
    """ε too low is a lie; far too high is another run's; events beyond any accountant are refused."""
    from .conftest import forge

    document = manifest_in(adapter)
    for factor, problem in ((0.99, "too low"), (1.2, "not of these events")):
        guarantee = dict(document["guarantee"])
        for name in ("epsilon", "replace_one_epsilon", "second_epsilon"):
            guarantee[name] *= factor
        tuning = {**document["tuning"], "composed_epsilon": 2 * guarantee["epsilon"]}
        forge(adapter, {**document, "guarantee": guarantee, "tuning": tuning})
        found = verify(adapter)
        assert failures(found) == ["epsilon", "second epsilon", "replace-one epsilon"]
        assert all(problem in check.detail for check in found.failed)
    forge(adapter, document)
    assert verified(adapter) == []


def test_a_run_that_released_nothing_passes(
    tiny_model: Path, glue_dir: Path, tmp_path: Path, trains: Callable[..., Trained]
) -> None:
    from dpft.training.observer import Observer
    from dpft.training.run import train

    class Impatient(Observer):
        def started(self, facts: Any) -> None:
            raise KeyboardInterrupt

    record = train(spec_for(tiny_model, glue_dir), Impatient(), Store(tmp_path / "home"))
    found = verify(record.run_dir)
    assert failures(found) == []
    assert "Nothing was released" in (found.statement or "")
