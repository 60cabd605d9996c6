"""At which precision a run is, once its model has been looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from dpft.errors import RoundingError
from dpft.runs.store import Store
from dpft.spec import HardwareSpec, RunSpec
from dpft.training import checks, precision, rounding
from dpft.training.observer import Observer
from dpft.training.run import plan_run, train
from tests.unit.training import resuming


class Heard(Observer):
    """What a user was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def asked(small: resuming.MakeSpec, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], RunSpec]:
    """A run, on a machine with bfloat16 where company decides how a loss is rounded."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "_WIDE", 1)
    genuine = rounding._compare

    def differing(model: Any, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> None:
        genuine(model, first, (second[0] + 1e-5, second[1]))

    monkeypatch.setattr(rounding, "_compare", differing)

    def ask(precision: str) -> RunSpec:
        hardware = HardwareSpec.model_validate({"precision": precision, "micro_batch_tokens": 200})
        return small().model_copy(update={"hardware": hardware})

    return ask


@pytest.mark.parametrize("act", [train, plan_run])
def test_auto_is_fp32_where_bf16_cannot_keep_examples_apart(
    act: Callable[..., Any], asked: Callable[[str], RunSpec]
) -> None:
    heard = Heard()
    act(asked("auto"), heard)
    warning = heard.warnings[0]
    assert warning.startswith("training at fp32: ")
    assert "rounds an example at bf16 by its company" in warning
    for record in Store().list():
        assert Store().spec(record).hardware.precision == "fp32"
        assert Store().manifest(record)["software"]["dtype"] == "float32"
    assert len(Store().list()) == (1 if act is train else 0)


def test_bf16_that_was_asked_for_is_refused_there(asked: Callable[[str], RunSpec]) -> None:
    with pytest.raises(RoundingError, match="by its company") as caught:
        train(asked("bf16"), Heard())
    assert (caught.value.exit_code, caught.value.hint) == (4, "give --precision fp32")
    assert Store().list() == []


def test_other_faults_are_no_reason_to_train_at_fp32(
    asked: Callable[[str], RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any) -> None:
        raise RuntimeError("of another kind")

    monkeypatch.setattr(checks, "check_reachable", unreachable)
    with pytest.raises(RuntimeError, match="of another kind"):
        train(asked("auto"), Heard())
