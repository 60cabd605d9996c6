"""Every clipper bounds what one example contributes by the sensitivity it states, as its formula says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpft.engines import oracle
from dpft.engines.base import MicroBatch
from dpft.engines.bookkeeping import ENGINE
from dpft.errors import PrivacyError, UsageError
from dpft.privacy.clipping import AutomaticClipper, Clipper, Factors, GroupFactors, PerLayerClipper
from dpft.privacy.gradients import Norms
from dpft.privacy.plan import PrivatePlan, make_plan
from dpft.privacy.step import step
from dpft.spec import OptimisationSpec, PrivacySpec
from dpft.tables import CLIPPERS
from dpft.training.preflight import check_engine, synthetic_batch
from tests import models
from tests.unit.privacy.plans import Silent, key

NAMES = ("a.weight", "a.bias", "b.inner.weight", "bare")


def norms(**squares: list[float]) -> dict[str, Norms]:
    """Norms of parameters ``a_weight`` … from squares per example."""
    named = {name.replace("_", "."): torch.tensor(v, dtype=torch.float64) for name, v in squares.items()}
    return {name: Norms(value, value) for name, value in named.items()}


@pytest.fixture(params=CLIPPERS.names())
def make(request: pytest.FixtureRequest) -> Callable[..., Clipper]:
    found: Callable[..., Clipper] = CLIPPERS.get(request.param)
    return found


@pytest.mark.parametrize("name", CLIPPERS.names())
def test_it_says_what_it_is(name: str) -> None:
    clipper: Clipper = CLIPPERS.get(name)(0.3)
    assert clipper.name == name
    assert clipper.sensitivity == 0.3
    assert clipper.stability is None or clipper.stability > 0


def test_groups_divide_the_parameters(make: Callable[..., Clipper]) -> None:
    members = [name for group in make(1.0).groups(NAMES) for name in group]
    assert sorted(members) == sorted(NAMES)


def test_layers_are_the_modules_that_hold_parameters() -> None:
    assert PerLayerClipper(1.0).groups(NAMES) == (("a.weight", "a.bias"), ("b.inner.weight",), ("bare",))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_bounds_nothing_is_refused(make: Callable[..., Clipper], value: float) -> None:
    with pytest.raises(UsageError, match="max_grad_norm is"):
        make(value)


@pytest.mark.parametrize("gamma", [0.0, -0.01, math.nan, math.inf])
def test_a_stability_that_is_not_positive_is_refused(gamma: float) -> None:
    """With γ = −0.01 an example of norm 0.02 would be delivered at twice C."""
    with pytest.raises(UsageError, match="stability is"):
        AutomaticClipper(1.0, gamma)


def test_factors_are_the_formulas() -> None:
    found = norms(a_weight=[9.0, 0.0], a_bias=[16.0, 0.0], b_weight=[0.01, 4.0])
    c = 2.0
    flat = CLIPPERS.get("flat")(c).over(found)(found)
    assert flat["a.bias"] is flat["b.weight"]
    torch.testing.assert_close(flat["a.bias"], torch.tensor([c / math.sqrt(25.01), 1.0]), rtol=1e-5, atol=0)
    automatic = CLIPPERS.get("automatic")(c).over(found)(found)
    expected = torch.tensor([c / (math.sqrt(25.01) + 0.01), c / 2.01])
    torch.testing.assert_close(automatic["a.weight"], expected, rtol=1e-5, atol=0)
    layers = CLIPPERS.get("per-layer")(c).over(found)(found)
    bound = c / math.sqrt(2)
    torch.testing.assert_close(layers["a.bias"], torch.tensor([bound / 5, 1.0]), rtol=1e-5, atol=0)
    torch.testing.assert_close(layers["b.weight"], torch.tensor([1.0, bound / 2]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_an_example_that_is_not_finite_anywhere_counts_nowhere(
    make: Callable[..., Clipper], poison: float
) -> None:
    healthy = norms(a_weight=[4.0, 9.0], b_weight=[1.0, 1.0])
    poisoned = norms(a_weight=[4.0, 9.0], b_weight=[1.0, poison])
    factors = make(1.0).over(healthy)
    for name, values in factors(poisoned).items():
        assert values[1] == 0
        assert values[0] == factors(healthy)[name][0] > 0


def test_what_others_reach_does_not_change_a_bound(make: Callable[..., Clipper]) -> None:
    """K is fixed: an example's factors are the same beside a neighbour that reaches one layer more."""
    factors = make(1.0).over(["a.weight", "b.weight"])
    alone = factors(norms(a_weight=[4.0]))["a.weight"]
    beside = factors(norms(a_weight=[4.0, 1.0], b_weight=[0.0, 1.0]))["a.weight"]
    assert alone[0] == beside[0]


def test_planted_layers_counted_by_micro_batch_are_caught() -> None:
    def over(reached: Iterable[str]) -> Factors:
        return PerLayerClipper(1.0).over(reached)

    few, more = norms(a_weight=[4.0]), norms(a_weight=[4.0, 1.0], b_weight=[0.0, 1.0])
    assert over(few)(few)["a.weight"][0] != over(more)(more)["a.weight"][0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(CLIPPERS.names()),
    st.integers(0, 2**31),
    st.floats(-6, 6),
    st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_the_definition_itself_is_bounded(clipping: str, seed: int, exponent: float, clip: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = {n: 10**exponent * torch.randn(5, generator=generator, dtype=torch.float64) for n in NAMES}
    clipper: Clipper = CLIPPERS.get(clipping)(clip)
    contribution = models.flat(clipper.contribution(gradient))
    assert contribution.norm() <= clipper.sensitivity * (1 + 1e-12)
    assert contribution.dot(models.flat(gradient)) > 0


# -- through the engine


@pytest.mark.parametrize("mode", ["full", "lora", "ia3", "prefix+lora"])
@pytest.mark.parametrize("clipping", CLIPPERS.names())
def test_clipped_sum_equals_the_definition(clipping: str, mode: str) -> None:
    model, parameters = models.tuned(mode)
    batch = models.batch()
    truth = oracle.per_example_gradients(model, parameters, batch)
    _, sizes = oracle.clipped_sum(truth, 1.0)
    clipper: Clipper = CLIPPERS.get(clipping)(float(sizes.median()))
    expected, _ = oracle.clipped_sum(truth, clipper)
    sums = models.zeros(parameters)
    with ENGINE.session(model, parameters, clipper, "fp32") as session:
        for rows in ([0, 1, 2], [3], [4, 5, 6]):
            session.accumulate(models.rows_of(batch, rows), sums)
    difference = models.flat(sums) - models.flat(expected)
    assert difference.norm() <= 1e-4 * models.flat(expected).norm()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.sampled_from(CLIPPERS.names()),
    st.sampled_from(["full", "lora", "ia3", "soft-prompt"]),
    st.integers(0, 2**31),
    st.floats(-5, 2),
)
def test_delivered_norm_through_the_engine(clipping: str, mode: str, seed: int, exponent: float) -> None:
    """What one example adds has norm at most C(1 + 1e-6), whatever C is beside its gradient."""
    model, parameters = models.tuned(mode, seed=seed % 7)
    batch = models.batch(seed=seed, rows=3)
    clipper: Clipper = CLIPPERS.get(clipping)(10**exponent)
    with ENGINE.session(model, parameters, clipper, "fp32") as session:
        for row in range(len(batch)):
            sums = models.zeros(parameters)
            session.accumulate(models.rows_of(batch, [row]), sums)
            assert models.flat(sums).norm() <= clipper.sensitivity * (1 + 1e-6)


def shares(clipper: Clipper | None, clipping: str) -> list[float]:
    """‖step(S and x) − step(S)‖·B/C with the noise silenced, for each x of a batch."""
    model, parameters = models.tuned("lora")
    whole = models.batch()
    privacy = PrivacySpec(target_epsilon=None, noise_multiplier=1.0, max_grad_norm=0.05, clipping=clipping)

    def released(rows: list[int]) -> torch.Tensor:
        plan: Any = make_plan(
            400, OptimisationSpec(learning_rate=1.0, batch_size=40), privacy, stream=Silent(key(1))
        )
        assert isinstance(plan, PrivatePlan)
        plan._sampler.draw = lambda: rows  # type: ignore[method-assign, assignment, return-value]

        def pieces(indices: Any) -> list[MicroBatch]:
            return [models.rows_of(whole, indices[:3]), models.rows_of(whole, indices[3:])]

        with ENGINE.session(model, parameters, clipper or plan.clipper, "fp32") as session:
            step(plan, parameters, pieces, lambda piece, sums: session.accumulate(piece, sums) and None)
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        assert gradients.keys() == parameters.keys()
        return models.flat(gradients)

    everyone = list(range(len(whole)))
    return [
        float((released(everyone) - released([r for r in everyone if r != x])).norm()) * 40 / 0.05
        for x in everyone
    ]


@pytest.mark.parametrize("clipping", CLIPPERS.names())
def test_sensitivity_of_a_whole_step(clipping: str) -> None:
    found = shares(None, clipping)
    assert max(found) <= 1 + 1e-4  # float32 sums of seven examples are subtracted
    assert max(found) > 0.5  # the bound is not idle


# -- planted errors


@dataclass(frozen=True)
class WholeBoundPerLayer(PerLayerClipper):
    """Each of K layers is clipped to C instead of C/√K."""

    def over(self, names: Iterable[str]) -> Factors:
        return GroupFactors(self.groups(names), lambda norm: (self.max_grad_norm / norm).clamp(max=1.0))


@dataclass(frozen=True)
class LenientDefinition(WholeBoundPerLayer):
    """The same error in the definition too, so that both agree."""

    def contribution(self, gradient: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        layers = len(self.groups(gradient))
        return PerLayerClipper(self.max_grad_norm * layers**0.5).contribution(gradient)


class Halved(AutomaticClipper):
    """Divides by half the norm."""

    def over(self, names: Iterable[str]) -> Factors:
        return GroupFactors(self.groups(names), lambda norm: self.max_grad_norm / (0.5 * norm + 0.01))


@pytest.mark.parametrize("planted", [WholeBoundPerLayer, LenientDefinition, Halved])
def test_planted_clippers_pass_the_sensitivity_they_state(planted: type[Any]) -> None:
    assert max(shares(planted(0.05), "flat")) > 1.5


@pytest.mark.parametrize("planted", [WholeBoundPerLayer, Halved])
def test_planted_clippers_fail_the_preflight(planted: type[Any]) -> None:
    model, parameters = models.tuned("lora")
    batch = synthetic_batch(model, token_types=True, labels=3, pad_token_id=0)
    with pytest.raises(PrivacyError, match="not exact on"):
        check_engine(ENGINE, model, parameters, batch, planted)


@pytest.mark.parametrize("clipping", CLIPPERS.names())
def test_every_clipper_passes_the_preflight(clipping: str) -> None:
    model, parameters = models.tuned("lora")
    batch = synthetic_batch(model, token_types=True, labels=3, pad_token_id=0)
    check_engine(ENGINE, model, parameters, batch, CLIPPERS.get(clipping))
