"""``dpft doctor``: what it prints, and the exit code that it amounts to."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpft.engines.bookkeeping import BookkeepingSession
from dpft.runs.health import Check
from dpft.runs.store import Store
from dpft.training import diagnose
from tests.unit.runs.builders import make_spec

from .conftest import Command

ENVIRONMENT = ["entropy", "accounting", "places", "registry", "ledger"]
MODEL = ["reach", "norms", "bound", "moves"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpft.training.memory._BUDGETS", (256,))


def test_without_a_model_the_environment_is_looked_at(dpft: Command) -> None:
    outcome = dpft("doctor", "--json")
    assert outcome.code == 0
    assert outcome.json["ok"] is True
    assert [check["name"] for check in outcome.json["checks"]] == ENVIRONMENT
    assert outcome.json["versions"].keys() >= {"dpft", "python", "torch", "opacus"}
    assert "model" not in outcome.json


def test_a_model_is_looked_at(dpft: Command, tiny_model: Path) -> None:
    outcome = dpft(
        "doctor", "-m", tiny_model, "-f", "ia3", "--max-length", 32, "--precision", "fp32", "--json"
    )
    assert outcome.code == 0
    found = outcome.json
    assert [check["name"] for check in found["checks"]] == ENVIRONMENT + MODEL
    assert found["model"]["finetune_mode"] == "ia3"
    assert {row["rule"] for row in found["rules"]} == {"linear", "ia3-scale"}
    assert sum(row["numbers"] for row in found["rules"]) == found["model"]["trainable_parameters"]
    assert found["memory"]["suggested_tokens"] == found["memory"]["costs"][0]["tokens"] == 256
    assert found["notes"] == []


def test_at_bf16_its_rounding_is_looked_at(dpft: Command, tiny_model: Path) -> None:
    outcome = dpft("doctor", "-m", tiny_model, "--max-length", 32, "--precision", "bf16", "--json")
    assert outcome.code == 0
    assert outcome.json["model"]["precision"] == "bf16"
    assert {"name": "rounding", "ok": True}.items() <= outcome.json["checks"][-2].items()


def test_people_read_it_too(dpft: Command, tiny_model: Path) -> None:
    outcome = dpft("doctor", "-m", tiny_model, "--max-length", 32, "--precision", "fp32")
    assert outcome.code == 0
    for words in ("ok        norms", "ok        entropy", "linear", "suggested: --micro-batch-tokens 256"):
        assert words in outcome.out
    assert "· lora · engine dpft · clipping flat · fp32" in outcome.out
    assert all(line == line.rstrip() for line in outcome.out.splitlines())


def test_a_guarantee_that_fails_is_exit_4(
    dpft: Command, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: sums twice as large as they should be."""
    genuine = BookkeepingSession.accumulate

    def doubled(self: BookkeepingSession, batch: object, sums: dict[str, object]) -> object:
        genuine(self, batch, sums)  # type: ignore[arg-type]
        return genuine(self, batch, sums)  # type: ignore[arg-type]

    monkeypatch.setattr(BookkeepingSession, "accumulate", doubled)
    outcome = dpft("doctor", "-m", tiny_model, "--max-length", 32, "--json")
    assert outcome.code == 4
    assert outcome.json["ok"] is False
    (failed,) = [check for check in outcome.json["checks"] if check["ok"] is False]
    assert (failed["name"], failed["private"]) == ("norms", True)
    assert outcome.json["memory"] is None
    told = dpft("doctor", "-m", tiny_model, "--max-length", 32)
    assert told.code == 4
    assert "FAILED    norms" in told.out
    assert "not tried bound" in told.out
    assert "hint: " in told.out


def test_what_is_no_guarantee_is_exit_1(dpft: Command, tmp_path: Path) -> None:
    with Store().create(make_spec("one")) as run:
        run.finish("failed", manifest=None)
    registry = tmp_path / "dpft-home" / "registry.json"
    registry.write_text("{")
    outcome = dpft("doctor")
    assert outcome.code == 1
    assert "FAILED    registry    the registry is not valid JSON" in outcome.out
    assert "hint: 'dpft doctor --reindex'" in outcome.out
    mended = dpft("doctor", "--reindex", "--json")
    assert mended.code == 0
    assert mended.json["reindexed"] == 1
    assert "registry written anew: 1 runs" in dpft("doctor", "--reindex").out


def test_what_could_not_be_tried_is_no_failure(dpft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "check_environment", lambda: [Check("entropy", None, "held", "wait")])
    outcome = dpft("doctor")
    assert outcome.code == 0
    assert "not tried entropy     held" in outcome.out
    assert "hint: wait" in outcome.out


def test_options_of_a_model_need_one(dpft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = dpft("doctor", "-f", "lora", "--json")
    assert outcome.code == 2
    assert outcome.json["error"]["message"] == "--finetune-mode needs a model"
    monkeypatch.setenv("DPFT_FINETUNE_MODE", "ia3")  # set for train: no harm here
    assert dpft("doctor", "--json").code == 0


def test_wrong_values_are_refused_as_by_train(dpft: Command, tiny_model: Path) -> None:
    outcome = dpft("doctor", "-m", tiny_model, "--engine", "opcus", "--json")
    assert outcome.code == 2
    assert "did you mean 'opacus'" in outcome.json["error"]["hint"]
    assert dpft("doctor", "-m", tiny_model, "-f", "lora", "--num-prepend-tokens", 3).code == 2
    assert dpft("doctor", "-m", "./nowhere", "--json").json["error"]["type"] == "ModelError"
