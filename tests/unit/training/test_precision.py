"""What ``auto`` stands for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import BertConfig, Gemma3Config, GPT2Config

from dpft.errors import PrivacyError
from dpft.spec import (
    DataSpec,
    HardwareSpec,
    ModelSpec,
    OptimisationSpec,
    PrivacySpec,
    RunSpec,
    TuningSpec,
)
from dpft.training import precision
from dpft.training.precision import settled


def spec(asked: str, *, mode: str = "lora", private: bool = True, engine: str = "dpft") -> RunSpec:
    return RunSpec(
        data=DataSpec(dataset="demo"),
        model=ModelSpec(checkpoint="a/b"),
        tuning=TuningSpec(mode=mode),
        privacy=PrivacySpec(enabled=private, engine=engine),
        optimisation=OptimisationSpec(learning_rate=1e-3),
        hardware=HardwareSpec.model_validate({"precision": asked}),
    )


@pytest.mark.parametrize("hardware", [True, False])
@pytest.mark.parametrize(
    ("mode", "private", "engine", "gains"),
    [
        ("lora", True, "dpft", True),
        ("full", False, "dpft", True),
        ("lora", False, "opacus", True),
        ("lora", True, "opacus", False),
        ("last-layer", True, "dpft", False),
        ("last-layer", False, "dpft", False),
    ],
)
def test_auto_is_bf16_where_the_hardware_has_it_and_it_gains(
    monkeypatch: pytest.MonkeyPatch, hardware: bool, mode: str, private: bool, engine: str, gains: bool
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: hardware)
    asked = spec("auto", mode=mode, private=private, engine=engine)
    assert settled(asked).hardware.precision == ("bf16" if hardware and gains else "fp32")
    assert settled(settled(asked)) == settled(asked)


@pytest.mark.parametrize(
    ("width", "private", "found"),
    [
        (128, True, "fp32"),
        (255, True, "fp32"),
        (256, True, "bf16"),
        (None, True, "bf16"),
        (128, False, "bf16"),
    ],
)
def test_a_narrow_model_gains_without_privacy_only(
    monkeypatch: pytest.MonkeyPatch, width: int | None, private: bool, found: str
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    model = SimpleNamespace(config=SimpleNamespace() if width is None else BertConfig(hidden_size=width))
    assert settled(spec("auto", private=private), model).hardware.precision == found
    assert settled(spec("bf16", private=private), model).hardware.precision == "bf16"


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (Gemma3Config(text_config={"hidden_size": 64}), "fp32"),  # it has no hidden size itself
        (GPT2Config(n_embd=64), "fp32"),  # by another name
        (SimpleNamespace(hidden_size=[64, 128]), "bf16"),
    ],
)
def test_the_width_is_that_of_what_reads_text(
    monkeypatch: pytest.MonkeyPatch, config: object, found: str
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    assert settled(spec("auto"), SimpleNamespace(config=config)).hardware.precision == found


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_what_was_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: asked == "fp32")
    assert settled(spec(asked)) == spec(asked)


def test_other_engines_at_bf16_are_for_ordinary_training_only() -> None:
    spec("bf16", private=False, engine="opacus")
    with pytest.raises(PrivacyError, match="'opacus' at precision bf16"):
        spec("bf16", engine="opacus")
