"""Audits of runs: the run's own settings, its stated ε, and the file kept beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpft.accounting.calibrate import guarantee
from dpft.accounting.event import MechanismEvent
from dpft.audit.claim import Claim
from dpft.audit.result import LAYERS, AuditResult, Check
from dpft.audit.stored import check_stated_epsilon, save, spec_of_run
from dpft.errors import NotFoundError, UsageError
from tests.unit.runs.builders import make_record, make_spec

EFFORT: dict[str, Any] = {"steps": 16, "canaries": 64, "layers": LAYERS}
EVENT = MechanismEvent(0.05, 1.2, 40)
SETTLED = {"noise_multiplier": 1.2, "sample_rate": 0.05, "delta": 1e-5}


def test_a_runs_own_settings_are_audited(tmp_path: Path) -> None:
    record, spec = make_record(tmp_path, "a" * 16, **SETTLED), make_spec("x")
    found = spec_of_run(record, spec, **EFFORT)
    assert (found.model, found.tuning, found.run_id) == (spec.model, spec.tuning, record.run_id)
    assert found.sample_rate == 0.05
    assert (found.privacy.noise_multiplier, found.privacy.target_epsilon) == (1.2, None)
    assert found.privacy.target_delta == 1e-5
    assert found.privacy.max_grad_norm == spec.privacy.max_grad_norm
    assert len(found.labels) == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_that_trained_is_audited(tmp_path: Path, precision: str) -> None:
    spec = make_spec("x")
    spec = spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"precision": precision})})
    assert spec_of_run(make_record(tmp_path, "a" * 16, **SETTLED), spec, **EFFORT).precision == precision


def test_runs_without_a_promise_are_refused(tmp_path: Path) -> None:
    spec = make_spec("x")
    with pytest.raises(NotFoundError, match="no mechanism on record"):
        spec_of_run(make_record(tmp_path, "a" * 16, noise_multiplier=None, sample_rate=None), spec, **EFFORT)
    ordinary = spec.model_copy(update={"privacy": spec.privacy.model_copy(update={"enabled": False})})
    with pytest.raises(UsageError, match="without privacy"):
        spec_of_run(make_record(tmp_path, "b" * 16, **SETTLED), ordinary, **EFFORT)


def manifest(epsilon: float) -> dict[str, Any]:
    return {"guarantee": {"epsilon": epsilon, "delta": 1e-5}, "events": [EVENT.to_dict()]}


def test_a_stated_epsilon_below_its_events_is_a_violation() -> None:
    true = guarantee([EVENT], 1e-5).epsilon
    assert check_stated_epsilon(manifest(true)).verdict == "pass"
    assert check_stated_epsilon(manifest(true + 0.1)).verdict == "pass"
    found = check_stated_epsilon(manifest(true - 0.001))
    assert found.verdict == "fail"
    assert found.measured == pytest.approx(true)
    assert check_stated_epsilon({"guarantee": {"epsilon": 1.0}}).verdict == "fail"
    assert check_stated_epsilon({}).verdict == "informational"


def test_the_outcome_is_kept_beside_the_run(tmp_path: Path) -> None:
    claim = Claim.of(
        examples=100, expected_batch_size=5, sensitivity=1.0, noise_multiplier=1.2, steps=4, delta=1e-3
    )
    check = Check("sampler", "conformance", "fail", "too regular", 1e-9, float("inf"), 1e-4)
    result = AuditResult("m", "lora", "dpft", "flat", "fp32", claim, 64, (check,), 1.0, run_id="a" * 16)
    record = make_record(tmp_path, "a" * 16)
    record.run_dir.mkdir(parents=True, exist_ok=True)
    path = save(result, record)
    assert path == record.run_dir / "audit.json"
    assert path.stat().st_mode & 0o777 == 0o600
    document = json.loads(path.read_text())
    assert (document["ok"], document["failed"], document["run_id"]) == (False, ["sampler"], "a" * 16)
    assert "limit" not in document["checks"][0]  # JSON has no infinity
