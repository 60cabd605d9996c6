"""What the doctor finds of a model in its mode: nothing where all is well, and each planted error."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dpft.engines.bookkeeping import ENGINE as BOOKKEEPING
from dpft.errors import EntropyError, RoundingError
from dpft.privacy.clipping import FlatClipper
from dpft.privacy.noise import KeyStream
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.tables import CLIPPERS, ENGINES, MODES
from dpft.training import diagnose as doctor
from dpft.training.diagnose import Diagnosis, check_environment, diagnose
from dpft.training.memory import Memory


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure two sizes only."""
    monkeypatch.setattr("dpft.training.memory._BUDGETS", (64, 128))


def look(model: Path, mode: str = "lora", *, precision: str = "fp32", **privacy: Any) -> Diagnosis:
    return diagnose(
        RunSpec(
            data=DataSpec(dataset="demo", max_length=16),
            model=ModelSpec(checkpoint=str(model)),
            tuning=TuningSpec(
                mode=mode, lora_r=2, num_prepend_tokens=MODES.get(mode).defaults.num_prepend_tokens and 3
            ),
            privacy=PrivacySpec(**privacy),
            optimisation=OptimisationSpec(learning_rate=1e-2),
            hardware=HardwareSpec.model_validate({"precision": precision}),
        )
    )


def verdicts(found: Diagnosis) -> dict[str, bool | None]:
    return {check.name: check.ok for check in found.checks}


WELL = {"reach": True, "norms": True, "bound": True, "moves": True}


def test_at_bf16_the_same_and_its_rounding(tiny_model: Path) -> None:
    assert verdicts(look(tiny_model, precision="bf16")) == {**WELL, "rounding": True}


@pytest.mark.parametrize("asked", ["auto", "bf16"])
def test_where_bf16_cannot_keep_examples_apart_auto_is_looked_at_as_it_trains(
    asked: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RoundingError("rounds by its company", hint="give --precision fp32")

    monkeypatch.setattr("dpft.training.precision.has_bfloat16", lambda: True)
    monkeypatch.setattr("dpft.training.precision._WIDE", 1)
    monkeypatch.setattr("dpft.training.diagnose.check_rounding", refuse)
    found = look(tiny_model, precision=asked)
    if asked == "bf16":
        assert verdicts(found) == {**WELL, "rounding": False}
        return
    assert (found.precision, verdicts(found)) == ("fp32", WELL)
    assert "training would be at fp32: rounds by its company" in found.notes[0]


@pytest.mark.parametrize("mode", MODES.names())
def test_a_healthy_model_in_every_mode(mode: str, tiny_model: Path) -> None:
    found = look(tiny_model, mode)
    assert verdicts(found) == WELL
    assert found.notes == ()
    assert sum(layers.numbers for layers in found.layers) == found.trainable_parameters
    assert {layers.rule for layers in found.layers} <= {"linear", "embedding", "layer-norm", "ia3-scale"}
    assert isinstance(found.memory, Memory)
    assert found.memory.suggested_tokens in (64, 128)
    assert all(check.private for check in found.checks)


@pytest.mark.parametrize("clipping", [name for name in CLIPPERS if name != "flat"])
def test_every_clipper(clipping: str, tiny_model: Path) -> None:
    assert verdicts(look(tiny_model, clipping=clipping)) == WELL


def test_another_engine_is_shown_by_its_layers(tiny_model: Path) -> None:
    pytest.importorskip("opacus.version", reason="opacus is not installed")
    found = look(tiny_model, engine="opacus")
    assert verdicts(found) == WELL
    assert [layers.rule for layers in found.layers] == ["Linear"]


def test_what_an_engine_cannot_do_is_a_finding(tiny_model: Path) -> None:
    pytest.importorskip("opacus.version", reason="opacus is not installed")
    found = look(tiny_model, "ia3", engine="opacus")
    assert verdicts(found) == {"reach": True, "norms": False, "bound": None, "moves": None}
    assert "gives no per-example gradients" in found.checks[1].detail
    assert found.memory is None


class Spoiled:
    """An engine that clips to a bound of its own, or forgets a parameter."""

    name = "dpft"
    packages = ()

    def __init__(self, excess: float = 1.0, forget: str | None = None) -> None:
        self.excess, self.forget = excess, forget

    @contextmanager
    def session(self, model: Any, parameters: Any, clipper: Any, precision: str) -> Any:
        bound = FlatClipper(clipper.sensitivity * self.excess)
        with BOOKKEEPING.session(model, parameters, bound, precision) as session:
            genuine = session.accumulate

            def accumulate(batch: Any, sums: Any) -> Any:
                report = genuine(batch, sums)
                for name, value in sums.items():
                    if self.forget is not None and self.forget in name:
                        value.zero_()
                return report

            session.accumulate = accumulate
            yield session


@pytest.mark.parametrize(
    ("engine", "name"),
    [(Spoiled(2.0), "norms"), (Spoiled(1.0001), "bound"), (Spoiled(forget="classifier"), "norms")],
    ids=["twice C", "a little above C", "a parameter forgotten"],
)
def test_planted_engines_are_found(
    engine: Spoiled, name: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENGINES, "get", lambda wanted: engine)
    assert verdicts(look(tiny_model))[name] is False


def test_planted_still_parameter_is_found(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where an optimizer was given other parameters than those that train."""
    genuine = doctor.make_optimizer

    def forgetful(parameters: Any, *more: Any) -> Any:
        return genuine({name: p for name, p in parameters.items() if "classifier" not in name}, *more)

    monkeypatch.setattr(doctor, "make_optimizer", forgetful)
    found = look(tiny_model)
    assert verdicts(found) == {**WELL, "moves": False}
    assert "did not move" in found.checks[-1].detail


def test_planted_unreachable_parameter_is_found(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = doctor.tuned_model

    def with_idle(*arguments: Any) -> Any:
        tuned = genuine(*arguments)
        tuned.model.add_module("idle", torch.nn.Linear(2, 2))
        tuned.parameters["idle.weight"] = tuned.model.idle.weight
        return tuned

    monkeypatch.setattr(doctor, "tuned_model", with_idle)
    found = look(tiny_model)
    assert verdicts(found)["reach"] is False
    assert "idle.weight" in found.checks[0].detail


def test_looking_changes_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, kept = doctor.tuned_model, []

    def watched(*arguments: Any) -> Any:
        tuned = genuine(*arguments)
        kept.append((tuned, {name: p.detach().clone() for name, p in tuned.parameters.items()}))
        return tuned

    monkeypatch.setattr(doctor, "tuned_model", watched)
    look(tiny_model)
    ((tuned, before),) = kept
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in tuned.parameters.items())


def test_the_environment_is_in_order() -> None:
    assert [(check.name, check.ok) for check in check_environment()] == [
        ("entropy", True),
        ("accounting", True),
    ]


@pytest.mark.parametrize("kind", ["no entropy", "the same key", "another cipher"])
def test_planted_randomness_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Planted(KeyStream):
        def __init__(self, key: bytes | None = None) -> None:
            if kind == "no entropy" and key is None:
                raise EntropyError("none to be had", hint="")
            super().__init__(bytes(32) if kind == "the same key" else key)

        def bytes(self, count: int) -> bytes:
            return super().bytes(count)[::-1] if kind == "another cipher" else super().bytes(count)

    monkeypatch.setattr(doctor, "KeyStream", Planted)
    entropy = check_environment()[0]
    assert (entropy.ok, entropy.private) == (False, True)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_planted_accountant_is_found(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(doctor.PldAccountant):
        def epsilon(self, events: Any, delta: float) -> float:
            return factor * super().epsilon(events, delta)

    monkeypatch.setattr(doctor, "PldAccountant", Wrong)
    accounting = check_environment()[1]
    assert (accounting.ok, accounting.private) == (False, True)
