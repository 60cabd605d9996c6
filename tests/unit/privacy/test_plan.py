"""The plan binds sampler, clipper, noise and event; each planted bug is caught by the test that names it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from dpft.accounting.pld import PLD
from dpft.errors import PrivacyError, UsageError
from dpft.privacy.noise import KeyStream
from dpft.privacy.plan import Draw, OrdinaryPlan, PrivatePlan, derive_schedule, make_plan
from dpft.privacy.sampling import ShuffleSampler
from dpft.privacy.step import step
from dpft.spec import OptimisationSpec, PrivacySpec
from tests import statistics
from tests.statistics import ALPHA

from .plans import BATCH, CLIP, EXAMPLES, PARAMETERS, SIGMA, Silent, key, plan, released, sums

# -- row 1: the sampler that is accounted for is the sampler that runs


def draws_of(sampler: Any, steps: int = 300) -> list[np.ndarray]:
    return [sampler.draw() for _ in range(steps)]


@pytest.mark.statistical
def test_plan_samples_as_poisson() -> None:
    made = plan(epochs=30)
    draws = []
    for _ in range(made.schedule.steps):
        draw = made.draw()
        draws.append(draw.indices)
        made.release(draw, sums())
    assert statistics.batch_size_p_value(draws, EXAMPLES, 0.1) > ALPHA
    assert statistics.visits_p_value(draws, EXAMPLES, 0.1) > ALPHA


@pytest.mark.statistical
def test_planted_shuffling_is_rejected() -> None:
    draws = draws_of(ShuffleSampler(EXAMPLES, BATCH, seed=0))
    assert statistics.batch_size_p_value(draws, EXAMPLES, 0.1) < ALPHA
    assert statistics.visits_p_value(draws, EXAMPLES, 0.1) < ALPHA


@pytest.mark.statistical
def test_planted_doubled_sample_rate_is_rejected() -> None:
    made = plan(batch_size=2 * BATCH)
    draws = draws_of(made._sampler)
    assert statistics.batch_size_p_value(draws, EXAMPLES, 0.1) < ALPHA
    assert statistics.visits_p_value(draws, EXAMPLES, 0.1) < ALPHA


def test_no_sampler_can_be_handed_to_a_plan() -> None:
    for maker in (PrivatePlan, make_plan):
        assert not [
            name for name in inspect.signature(maker).parameters if "sampl" in name or "order" in name
        ]


# -- row 2: division by the expected batch size


def neighbours_differ_by_at_most(made: PrivatePlan, bound: float) -> bool:
    """σ = 0: adding one example of norm C to random sums moves the release by at most ``bound``."""
    generator = torch.Generator().manual_seed(0)
    for size in (0, 1, 5, 60):
        base = {
            n: torch.randn(p.shape, generator=generator) * size * CLIP / 50 for n, p in PARAMETERS.items()
        }
        extra = {n: torch.randn(p.shape, generator=generator) for n, p in PARAMETERS.items()}
        norm = torch.cat([value.flatten() for value in extra.values()]).norm()
        more = {name: base[name] + extra[name] * (CLIP / norm) for name in base}
        outputs = []
        for count, values in ((size, base), (size + 1, more)):
            draw = made._open(np.arange(count))
            out = made.release(draw, values)
            outputs.append(torch.cat([value.flatten() for value in out.values()]).double())
        if not (outputs[1] - outputs[0]).norm() <= bound * (1 + 1e-5):
            return False
    return True


def test_one_example_moves_a_release_by_at_most_c_over_b() -> None:
    assert neighbours_differ_by_at_most(plan(stream=Silent), CLIP / BATCH)


def test_planted_division_by_the_realised_batch_is_caught() -> None:
    class Realised(PrivatePlan):
        def release(self, draw: Draw, sums: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            size = max(1, len(draw.indices))
            return {name: value * BATCH / size for name, value in super().release(draw, sums).items()}

    good = plan(stream=Silent)
    assert not neighbours_differ_by_at_most(
        Realised(good.schedule, good.clipper, SIGMA, Silent(key(1))), CLIP / BATCH
    )


# -- row 3: an empty batch is a step like any other


def run_with_empty_draw(made: PrivatePlan) -> torch.Tensor:
    made._sampler.draw = lambda: np.empty(0, dtype=np.int64)  # type: ignore[method-assign]

    def never(indices: np.ndarray) -> list[Any]:
        assert len(indices) == 0
        return []

    for parameter in PARAMETERS.values():
        parameter.grad = None
    step(made, PARAMETERS, never, lambda piece, into: pytest.fail("an empty batch has no micro-batch"))
    gradients = [p.grad for p in PARAMETERS.values() if p.grad is not None]
    return torch.cat([g.flatten() for g in gradients]).double() if gradients else torch.zeros(0)


@pytest.mark.statistical
def test_empty_batch_is_noised_and_counted() -> None:
    made = plan()
    noise = run_with_empty_draw(made).numpy()
    assert made.event.steps == 1
    assert statistics.variance_p_value(noise, SIGMA * CLIP / BATCH) > ALPHA


def test_empty_batch_sums_to_exactly_zero() -> None:
    assert torch.equal(run_with_empty_draw(plan(stream=Silent)), torch.zeros(4000, dtype=torch.float64))


def test_planted_skipped_empty_batch_is_caught() -> None:
    class Skipping(PrivatePlan):
        def release(self, draw: Draw, sums: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            if len(draw.indices) == 0:
                self._pending = None
                return {}
            return super().release(draw, sums)

    good = plan()
    bad = Skipping(good.schedule, good.clipper, SIGMA, KeyStream(key(1)))
    noise = run_with_empty_draw(bad)
    assert bad.event.steps == 0
    assert len(noise) == 0


# -- turns: no way round the noise


def test_a_draw_is_released_exactly_once() -> None:
    made = plan()
    draw = made.draw()
    with pytest.raises(PrivacyError, match="awaits its release"):
        made.draw()
    made.release(draw, sums())
    with pytest.raises(PrivacyError, match="not the one drawn"):
        made.release(draw, sums())
    with pytest.raises(PrivacyError, match="not the one drawn"):
        made.release(Draw(np.arange(3)), sums())
    assert made.steps_taken == 1


def test_a_sum_that_is_not_finite_is_never_released() -> None:
    made = plan()
    draw = made.draw()
    with pytest.raises(PrivacyError, match="not finite"):
        made.release(draw, {**sums(), "b": torch.full((2000,), torch.inf)})
    assert made.steps_taken == 0


def test_a_step_draws_the_same_whatever_came_before() -> None:
    """Samples of other sizes, tensors of other shapes: step 3 has its own part of the keystream."""
    one, other = plan(), plan()
    for _ in range(2):
        one.release(one.draw(), sums())
        other.release(other.draw(), {"w": torch.zeros(3)})
    draws = one.draw(), other.draw()
    assert np.array_equal(draws[0].indices, draws[1].indices)
    assert torch.equal(one.release(draws[0], sums())["b"], other.release(draws[1], sums())["b"])


def test_a_draw_cannot_be_repeated_to_get_other_examples() -> None:
    made = plan()
    made.draw()
    made._pending = None
    with pytest.raises(PrivacyError, match="drawn already"):
        made.draw()


# -- row 15: no public seed reaches the noise or the samples


def test_same_seed_different_noise_and_samples() -> None:
    optimisation = OptimisationSpec(learning_rate=1.0, batch_size=BATCH, epochs=20, seed=42)
    privacy = PrivacySpec(target_epsilon=None, noise_multiplier=SIGMA)
    outputs, indices = [], []
    for _ in range(2):
        torch.manual_seed(42)
        np.random.seed(42)
        made = make_plan(EXAMPLES, optimisation, privacy)
        assert isinstance(made, PrivatePlan)
        draw = made.draw()
        indices.append(draw.indices)
        outputs.append(made.release(draw, sums())["w"])
    assert not torch.equal(outputs[0], outputs[1])
    assert not np.array_equal(indices[0], indices[1])


def test_planted_noise_from_the_seeded_generator_is_caught() -> None:
    class Seeded(KeyStream):
        def normals(self, count: int) -> torch.Tensor:
            return torch.randn(count, dtype=torch.float64)

    outputs = []
    for _ in range(2):
        torch.manual_seed(42)
        outputs.append(released(plan(stream=Seeded), sums()))
    assert torch.equal(outputs[0], outputs[1])  # what the test above would refuse


# -- row 20: q, T and ε are those that ran


def test_a_batch_is_never_silently_rounded() -> None:
    made = make_plan(
        100,
        OptimisationSpec(learning_rate=1.0, batch_size=64, epochs=3),
        PrivacySpec(target_epsilon=None, noise_multiplier=1.0),
    )
    assert isinstance(made, PrivatePlan)
    assert made.event.sample_rate == made._sampler.sample_rate == 0.64
    assert made.schedule.steps == 5  # ⌈3 · 100 / 64⌉


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UsageError, match="larger than the 100 training examples") as caught:
        make_plan(100, OptimisationSpec(learning_rate=1.0, batch_size=101), PrivacySpec())
    assert "at most 100" in caught.value.hint


@pytest.mark.parametrize(
    ("examples", "batch"), [(67_349, 1024), (16_384, 1024), (4000, 250), (60, 3), (10, 1), (1, 1)]
)
def test_an_unsaid_batch_follows_from_the_examples(examples: int, batch: int) -> None:
    schedule = derive_schedule(examples, OptimisationSpec(learning_rate=1.0), None)
    assert schedule.expected_batch_size == batch
    assert schedule.sample_rate == batch / examples


def test_event_counts_the_steps_taken_and_epsilon_follows_from_it() -> None:
    made = plan()
    assert made.event.steps == 0
    for _ in range(3):
        made.release(made.draw(), sums())
    assert (made.event.sample_rate, made.event.noise_multiplier, made.event.steps) == (0.1, SIGMA, 3)
    spent = PLD.epsilon([made.event], made.schedule.delta)
    assert 0 < spent < PLD.epsilon([made.planned_event], made.schedule.delta)


@pytest.mark.parametrize("target", [0.5, 8.0])
def test_calibrated_epsilon_is_at_most_the_target(target: float) -> None:
    made = make_plan(
        2000, OptimisationSpec(learning_rate=1.0, batch_size=100), PrivacySpec(target_epsilon=target)
    )
    assert isinstance(made, PrivatePlan)
    achieved = PLD.epsilon([made.planned_event], made.schedule.delta)
    assert 0.99 * target <= achieved <= target
    assert made.schedule.delta == 1 / 4000


@pytest.mark.parametrize("delta", [0.0025, 0.5])
def test_an_empty_guarantee_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match="publishing a whole example"):
        plan(target_delta=delta)


# -- without privacy


def test_ordinary_plan_visits_every_example_once_per_epoch() -> None:
    made = make_plan(
        10, OptimisationSpec(learning_rate=1.0, batch_size=4, epochs=2), PrivacySpec(enabled=False)
    )
    assert isinstance(made, OrdinaryPlan)
    epoch = []
    for _ in range(3):
        draw = made.draw()
        epoch.append(draw.indices)
        out = made.release(draw, {"w": torch.ones(2)})
        torch.testing.assert_close(out["w"], torch.ones(2) / len(draw.indices))
    assert sorted(np.concatenate(epoch)) == list(range(10))
