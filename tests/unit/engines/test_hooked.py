"""Engines that use another library's hooks: what they fall back to, what they refuse, what they leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from dpft.engines import hooked, oracle
from dpft.engines.base import MicroBatch
from dpft.engines.magnitudes import Magnitudes
from dpft.errors import PrivacyError, UnsupportedLayerError
from dpft.privacy.clipping import FlatClipper, PerLayerClipper
from dpft.training.preflight import check_engine, synthetic_batch
from tests import models
from tests.contract.engine_choice import engine_for

ENGINES = ["opacus", "private-transformers"]


class Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class Sharing(nn.Module):
    """A linear layer used twice, and positions of batch one."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.places = nn.Embedding(9, 6)
        self.shared = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, input_ids: torch.Tensor) -> Output:
        hidden = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1])[None])
        return Output(self.head(self.shared(torch.tanh(self.shared(hidden))).mean(1)))


def few() -> MicroBatch:
    ids = torch.randint(0, 11, (4, 5), generator=torch.Generator().manual_seed(1))
    return MicroBatch({"input_ids": ids}, torch.tensor([0, 1, 2, 1]))


def sums_and_truth(engine: str, model: Any, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    parameters = dict(model.named_parameters())
    truth = oracle.per_example_gradients(model, parameters, batch)
    _, norms = oracle.clipped_sum(truth, 1.0)
    clipper = FlatClipper(float(norms.median()))
    sums = models.zeros(parameters)
    with engine_for(engine).session(model, parameters, clipper, "fp32") as session:
        report = session.accumulate(batch, sums)
        session.accumulate(batch, models.zeros(parameters))  # still at work
    assert report.norms is not None
    torch.testing.assert_close(report.norms, norms, rtol=1e-5, atol=0)
    return models.flat(sums), models.flat(oracle.clipped_sum(truth, clipper)[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_shared_layer_is_done_by_whole_gradients(engine: str) -> None:
    """Neither library has norms of a parameter used twice; both have its gradients."""
    torch.manual_seed(0)
    found, truth = sums_and_truth(engine, Sharing(), few())
    assert (found - truth).norm() <= 1e-5 * truth.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_whole_gradients_are_taken_a_few_examples_at_a_time(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = engine_for(engine)
    model, parameters = models.tuned("lora")
    clipper, results = PerLayerClipper(0.1), []
    for size in (512 << 20, 2 * 4 * sum(p.numel() for p in parameters.values())):
        monkeypatch.setattr(hooked, "_INSTANCE_BYTES", size)
        sums = models.zeros(parameters)
        with chosen.session(model, parameters, clipper, "fp32") as session:
            assert session._rows_at_once == 2 or size == 512 << 20
            report = session.accumulate(models.batch(), sums)
            assert "whole per-example gradients" in session.notes[0]
        assert report.norms is not None
        assert len(report.losses) == len(report.norms) == 7
        results.append(models.flat(sums))
    assert (results[0] - results[1]).norm() <= 2e-5 * results[0].norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_planted_positions_of_batch_one_are_refused(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 8: without our expansion, the position table's gradient is of the batch, not of an example."""
    monkeypatch.setattr(Magnitudes, "_expand", lambda *arguments: None)
    model, parameters = models.tuned("full")
    with (
        engine_for(engine).session(model, parameters, FlatClipper(1.0), "fp32") as session,
        pytest.raises(UnsupportedLayerError, match=f"engine '{engine}'"),
    ):
        session.accumulate(models.batch(), models.zeros(parameters))


@pytest.mark.parametrize("clipper", [FlatClipper(1.0), PerLayerClipper(1.0)], ids=["norms", "gradients"])
@pytest.mark.parametrize("engine", ENGINES)
def test_planted_parameter_without_a_norm_is_never_summed(
    engine: str, clipper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 10: a gradient that no norm covers must not reach the sum."""
    chosen = engine_for(engine)
    model, parameters = models.tuned("lora")
    missed = next(name for name in parameters if "lora_B" in name)
    with chosen.session(model, parameters, clipper, "fp32") as session:
        genuine = session._library.take
        monkeypatch.setattr(
            session._library, "take", lambda p: None if p is parameters[missed] else genuine(p)
        )
        with pytest.raises(PrivacyError, match=f"no per-example norm of {missed}"):
            session.accumulate(models.batch(), models.zeros(parameters))


@pytest.mark.parametrize("engine", ENGINES)
def test_planted_weight_read_past_its_layer_fails_the_preflight(engine: str) -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(11, 6)
            self.head = nn.Linear(6, 6)

        def forward(self, input_ids: torch.Tensor) -> Output:
            hidden = self.head(self.words(input_ids)).mean(1)
            return Output(hidden + F.linear(hidden, self.head.weight))

    torch.manual_seed(0)
    model = Peeking()
    with pytest.raises(PrivacyError, match="not exact on Peeking"):
        check_engine(engine_for(engine), model, dict(model.named_parameters()), few())


@pytest.mark.parametrize("engine", ENGINES)
def test_planted_second_pass_over_everybody_is_poisoned(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 4: zero times NaN is not zero; leaving the example out is what keeps the sum."""
    chosen = engine_for(engine)
    model, parameters = models.tuned("lora")
    model.get_input_embeddings().weight.data[5] = float("nan")
    whole, sums = models.batch(), models.zeros(parameters)
    whole.inputs["input_ids"][4, 0] = 5
    with (
        chosen.session(model, parameters, FlatClipper(0.5), "fp32") as session,
        monkeypatch.context() as planted,
    ):
        planted.setattr(hooked, "_finite", lambda total, losses: torch.ones_like(total, dtype=torch.bool))
        session.accumulate(whole, sums)
    assert models.flat(sums).isnan().any()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_failure_of_the_library_is_told_by_its_engine(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, parameters = models.tuned("lora")

    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("shapes do not fit\nat all")

    before = [module.training for module in model.modules()]
    with engine_for(engine).session(model, parameters, FlatClipper(1.0), "fp32") as session:
        monkeypatch.setattr(hooked, "example_losses", broken)
        with pytest.raises(UnsupportedLayerError, match=f"engine '{engine}' fails .*: shapes do not fit$"):
            session.accumulate(models.batch(), models.zeros(parameters))
    assert [module.training for module in model.modules()] == before


class Buffered(nn.Module):
    """Holds a parameter and a buffer, as Gemma's embeddings do: Opacus cannot do it, and says so half-way."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 3)
        self.scale = Scale()

    def forward(self, input_ids: torch.Tensor) -> Output:
        return Output(self.scale(self.words(input_ids)).mean(1))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("factor", torch.tensor(2.0))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * self.weight * self.factor


@pytest.mark.parametrize("engine", ENGINES)
def test_what_fails_half_way_leaves_nothing(engine: str) -> None:
    model = Buffered()
    parameters = dict(model.named_parameters())
    names = [sorted(vars(module)) for module in model.modules()]
    with (
        pytest.raises(UnsupportedLayerError, match=f"engine '{engine}'"),
        engine_for(engine).session(model, parameters, FlatClipper(1.0), "fp32"),
    ):
        pass
    assert [sorted(vars(module)) for module in model.modules()] == names
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert not any(vars(parameter) for parameter in parameters.values())


@pytest.mark.parametrize("engine", ENGINES)
def test_released_gradients_outlive_the_session(engine: str) -> None:
    """What a step sets for the optimizer is not the session's to take away."""
    model, parameters = models.tuned("lora")
    with engine_for(engine).session(model, parameters, FlatClipper(1.0), "fp32") as session:
        session.accumulate(models.batch(), models.zeros(parameters))
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
    assert all(parameter.grad is not None for parameter in parameters.values())


@pytest.mark.parametrize("engine", ENGINES)
def test_the_preflight_passes(engine: str) -> None:
    model, parameters = models.tuned("full")
    batch = synthetic_batch(model, token_types=True, labels=3, pad_token_id=0)
    check_engine(engine_for(engine), model, parameters, batch)


def test_the_mode_of_private_transformers_is_put_back() -> None:
    """It is global to the module: another user of the library in this process must not notice us."""
    engine = engine_for("private-transformers")
    model, parameters = models.tuned("lora")
    with engine.session(model, parameters, FlatClipper(1.0), "fp32") as session:
        hooks = session._library._hooks  # type: ignore[attr-defined]
        hooks.set_hooks_mode("ghost_grad")
        session.accumulate(models.batch(), models.zeros(parameters))
        assert (hooks.get_hooks_mode(), hooks._hooks_disabled) == ("ghost_grad", True)
        hooks.set_hooks_mode("default")
        hooks.enable_hooks()
    assert (hooks.get_hooks_mode(), hooks._hooks_disabled) == ("default", False)
