from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dpft.errors import PrivacyError
from dpft.runs.record import load_record, save_record

from .builders import make_record

CONTRACT = {
    "run_id", "name", "dataset", "finetune_mode", "status", "private", "epsilon", "delta", "noise_multiplier",
    "sample_rate", "steps", "trainable_parameters", "metrics", "seconds", "run_dir",
}  # fmt: skip
PRIVACY = {"epsilon", "delta", "noise_multiplier", "sample_rate"}


def test_a_private_run_has_the_keys_of_the_contract(tmp_path: Path) -> None:
    record = make_record(tmp_path, epsilon=7.99, delta=1e-6, noise_multiplier=1.1, sample_rate=0.01)
    public = record.to_public_json()
    assert public.keys() >= CONTRACT
    assert public["run_dir"] == str(record.run_dir)
    json.dumps(public, allow_nan=False)


def test_a_non_private_run_has_no_privacy_key(tmp_path: Path) -> None:
    public = make_record(tmp_path, private=False).to_public_json()
    assert public["private"] is False
    assert not [key for key in public if "epsilon" in key]
    assert public.keys() & PRIVACY == set()
    assert public.keys() >= CONTRACT - PRIVACY


def test_an_unknown_epsilon_is_left_out_not_null(tmp_path: Path) -> None:
    assert make_record(tmp_path, status="running").to_public_json().keys() & PRIVACY == set()


@pytest.mark.parametrize(
    "fields",
    [
        {"epsilon": math.inf},
        {"epsilon": math.nan},
        {"epsilon": -0.1},
        {"delta": 0.0},
        {"delta": 1.0},
        {"noise_multiplier": 0.0},
        {"sample_rate": 1.5},
        {"private": False, "epsilon": 1.0},
        {"private": False, "target_epsilon": 8.0},
    ],
)
def test_privacy_numbers_out_of_range_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError):
        make_record(tmp_path, **fields)
    with pytest.raises(PrivacyError):
        make_record(tmp_path).revise(**fields)


def test_a_score_that_is_not_finite_is_none(tmp_path: Path) -> None:
    record = make_record(tmp_path, metrics={"loss": math.nan, "accuracy": 0.9, "zero": 0.0})
    assert record.metrics == {"loss": None, "accuracy": 0.9, "zero": 0.0}


def test_the_error_is_one_line(tmp_path: Path) -> None:
    assert make_record(tmp_path, error="first\n  second").error == "first second"


def test_unknown_fields_and_statuses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="epsilno"):
        make_record(tmp_path).revise(epsilno=1.0)
    with pytest.raises(ValidationError):
        make_record(tmp_path, status="done")


def test_the_record_round_trips_and_forgets_where_it_was(tmp_path: Path) -> None:
    record = make_record(tmp_path, tags=("a", "b"), metrics={"accuracy": 0.5}, epsilon=0.1 + 0.2, delta=1e-6)
    record.run_dir.mkdir()
    save_record(record)
    assert str(tmp_path) not in (record.run_dir / "run.json").read_text()
    assert load_record(record.run_dir) == record
    moved = tmp_path / "elsewhere" / record.run_id
    moved.parent.mkdir()
    record.run_dir.rename(moved)
    assert load_record(moved).run_dir == moved
