"""``dpft audit`` in this process: what it asks for, what it says, and how it ends."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from dpft.audit import run as audits
from dpft.audit.bench import Parts
from dpft.audit.faults import FAULTS
from dpft.runs.store import Store
from dpft.tables import ENGINES

from .conftest import Command

SMALL = ("--canaries", 32, "--steps", 4)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-m", "x/y", "--layer", "grey-box"], "unknown layer 'grey-box'"),
        (["-m", "x/y", "-f", "loar"], "unknown fine-tune mode 'loar'"),
        (["-m", "x/y", "--target-epsilon", 1, "--noise-multiplier", 1], "exclude each other"),
        (["-m", "x/y", "--noise-multiplier", 0], "--noise-multiplier is 0.0"),
        (["-m", "x/y", "--steps", 1], "--steps is 1"),
        (["-m", "x/y", "--clipping", "sharp"], "unknown clipping 'sharp'"),
        (["-m", "x/y", "--precision", "fp16"], "unknown precision 'fp16'"),
        (["@latest", "--precision", "bf16"], "--precision has no effect with a run"),
        (["@latest", "-f", "full"], "--finetune-mode has no effect with a run"),
    ],
)
def test_wrong_options_are_refused_in_a_line(dpft: Command, arguments: list[object], complaint: str) -> None:
    outcome = dpft("audit", *arguments)
    assert outcome.code == 2
    assert complaint in outcome.err
    assert outcome.out == ""


def test_an_unknown_run_is_not_found(dpft: Command) -> None:
    assert dpft("audit", "nobody").code == 3


def test_without_a_model_and_without_the_builtin_one(dpft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpft.cli.audit._BUILTIN_PACKAGE", "no_such_package")
    outcome = dpft("audit", "--json")
    assert outcome.code == 2
    assert "no model given" in outcome.json["error"]["message"]


def test_no_violation_is_no_verification(
    dpft: Command, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audits, "audit", partial(audits.audit, seed=3))
    options = ("-m", tiny_model, "-f", "last-layer", "--layer", "conformance", *SMALL)
    outcome = dpft("audit", *options)
    assert outcome.code == 0
    assert "no violation found" in outcome.out
    assert "it cannot show that there are none" in outcome.out
    assert "verified" not in outcome.out
    assert "FAIL" not in outcome.out


def test_the_precision_is_what_train_would_take_or_what_is_asked_for(
    dpft: Command, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpft.training.precision.has_bfloat16", lambda: True)
    monkeypatch.setattr("dpft.training.precision._WIDE", 1)
    options = ("-m", tiny_model, "--layer", "conformance", *SMALL, "--json")
    for asked, found in (((), "bf16"), (("--precision", "auto"), "bf16"), (("--precision", "fp32"), "fp32")):
        monkeypatch.setattr(audits, "CONFORMANCE", audits.CONFORMANCE[:1])
        assert dpft("audit", *options, *asked).json["precision"] == found


def test_a_violation_ends_with_4_and_one_document(
    dpft: Command, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = next(fault for fault in FAULTS if fault.name == "noise halved")
    faulty = fault.plant(Parts(ENGINES.get("dpft")))
    monkeypatch.setattr(audits, "audit", partial(audits.audit, seed=3, parts=faulty))
    options = ("-m", tiny_model, "-f", "last-layer", "--layer", "conformance", *SMALL)
    outcome = dpft("audit", *options, "--json")
    assert outcome.code == 4
    assert outcome.json["ok"] is False
    assert "noise per tensor" in outcome.json["failed"]
    shown = dpft("audit", *options)
    assert shown.code == 4
    assert "violation found" in shown.out
    assert "FAIL  noise per tensor" in shown.out


def test_a_run_is_audited_with_its_own_settings(
    dpft: Command, tiny_model: Path, glue_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ("--data-dir", glue_dir, "--max-length", 32, "--batch-size", 12, "--epochs", 1)
    assert dpft("train", "sst2", "-m", tiny_model, "-f", "last-layer", *data, "-q").code == 0
    monkeypatch.setattr(audits, "audit", partial(audits.audit, seed=3))
    outcome = dpft("audit", "@latest", "--json", *SMALL)
    assert outcome.code == 0
    (record,) = Store().list()
    document = outcome.json
    assert document["run_id"] == record.run_id
    assert document["precision"] == Store().spec(record).hardware.precision
    assert document["claim"]["noise_multiplier"] == record.noise_multiplier
    assert document["claim"]["sample_rate"] == pytest.approx(record.sample_rate, rel=0.01)
    assert document["checks"][0]["name"] == "stated ε"
    assert (record.run_dir / "audit.json").is_file()


def test_the_self_test_is_a_table(dpft: Command, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [fault for fault in FAULTS if fault.name == "clipping off"]
    blind = replace(chosen[0], name="unseen", plant=lambda parts: parts)
    monkeypatch.setattr(audits, "self_test", partial(audits.self_test, seed=3, faults=(*chosen, blind)))
    options = ("-m", tiny_model, "-f", "last-layer", "--self-test", *SMALL)
    outcome = dpft("audit", *options)
    assert outcome.code == 4
    lines = outcome.out.splitlines()
    assert lines[1].split()[:2] == ["nothing", "—"]
    assert any(line.startswith("clipping off") and "sensitivity" in line for line in lines)
    assert any(line.startswith("unseen") and "MISSED" in line for line in lines)
    assert "1 of 2 planted faults caught" in outcome.out
