"""Every form and every fast path of per-example gradients, against gradients written out in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpft.privacy.clipping import FlatClipper
from dpft.privacy.gradients import (
    DenseGradient,
    IndexedGradient,
    Norms,
    OuterGradient,
    PerExampleGradient,
    SharedTokens,
    Together,
    gram,
    merge,
)
from dpft.privacy.rules.base import live_tokens

FUZZ = settings(max_examples=60, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31)


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(gradient: PerExampleGradient, dense: torch.Tensor, seed: int = 0) -> float:
    """The largest relative error of norms and weighted sum; ``dense`` is (batch, *parameter)."""
    dense = dense.double()
    norms = dense.flatten(1).norm(dim=1)
    wrong = float(((gradient.norms().square.sqrt() - norms).abs() / norms.clamp_min(1e-30)).max())
    factors = torch.rand(len(dense), generator=torch.Generator().manual_seed(seed))
    expected = torch.einsum("b,b...->...", factors.double(), dense)
    into = torch.full(dense.shape[1:], 0.25)
    gradient.accumulate(factors, into)
    scale = float(torch.einsum("b,b...->...", factors.double(), dense.abs()).norm()) + 1e-30
    return max(wrong, float((into.double() - 0.25 - expected).norm()) / (scale + 0.25))


def outer(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return torch.einsum("btp,btd->bpd", g.double(), a.double())


# -- inner products of tokens


def weighted_pairs(a: torch.Tensor, g: torch.Tensor, layout: gram.Layout) -> torch.Tensor:
    return (layout.products(a) * layout.products(g)) @ layout.weights


@pytest.mark.parametrize("tokens", [*range(1, 20), 24, 31, 32, 33, 64, 65])
def test_blocks_of_pairs_add_up_to_all_pairs(tokens: int) -> None:
    a, g = normals(1, 2, tokens, 5), normals(2, 2, tokens, 7)
    layout = gram.layout_for(a)
    expected = outer(a, g).flatten(1).square().sum(1)
    torch.testing.assert_close(weighted_pairs(a, g, layout).double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(layout.products(a)[:, layout.diagonal], a.square().sum(2))


def test_every_pair_counts_and_planted_weights_are_caught() -> None:
    a, g = normals(1, 2, 20, 5), normals(2, 2, 20, 7)
    layout = gram.layout_for(a)
    expected = outer(a, g).flatten(1).square().sum(1)
    for index in range(layout.size):
        weights = layout.weights.clone()
        weights[index] += 1
        planted = weighted_pairs(a, g, dataclasses.replace(layout, weights=weights))
        assert ((planted - expected).abs() > 1e-4 * expected).any()


def test_views_with_gaps_are_read_rightly() -> None:
    wide = normals(3, 3, 9, 12)
    value = wide[:, :, ::2]
    torch.testing.assert_close(
        gram.layout_for(value).products(value), gram.layout_for(value).products(value.clone())
    )


# -- linear weights

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 70), st.integers(1, 70))


@FUZZ
@given(SHAPES, SEEDS)
def test_outer_gradients_are_exact_in_every_form(shape: tuple[int, int, int, int], seed: int) -> None:
    b, t, d, p = shape
    a, g = normals(seed, b, t, d), normals(seed + 1, b, t, p)
    dense = outer(a, g)
    for gradient in (
        OuterGradient(a, g),
        OuterGradient(a, g)._written(),
        OuterGradient(a, g).settle(),
        merge([OuterGradient(a[:, : t // 2], g[:, : t // 2]), OuterGradient(a[:, t // 2 :], g[:, t // 2 :])])
        if t > 1
        else OuterGradient(a, g),
    ):
        assert error(gradient, dense, seed) < 1e-4
        assert torch.equal(gradient.dense(), gradient.select(torch.arange(b)).dense())


def test_both_forms_are_chosen() -> None:
    few = OuterGradient(normals(0, 2, 3, 128), normals(1, 2, 3, 128))
    many = OuterGradient(normals(0, 2, 64, 16), normals(1, 2, 64, 16))
    assert few.settle() is few
    assert isinstance(many.settle(), DenseGradient)


def test_a_planted_transposition_is_caught() -> None:
    a, g = normals(0, 3, 4, 6), normals(1, 3, 4, 6)
    right = OuterGradient(a, g)._written()
    assert right.transposed is False
    wrong = DenseGradient(right.values, transposed=True)
    assert error(right, outer(a, g)) < 1e-4 < error(wrong, outer(a, g))


@FUZZ
@given(SHAPES, SEEDS)
def test_layers_that_share_an_input_stay_exact(shape: tuple[int, int, int, int], seed: int) -> None:
    """Each with factors of its own: a weighted copy serves only the factors it was made for."""
    b, t, d, p = shape
    shared = SharedTokens(normals(seed, b, t, d))
    layers = [normals(seed + 1 + i, b, t, p) for i in range(3)]
    gradients = [OuterGradient(shared, g) for g in layers]
    for number, (gradient, g) in enumerate(zip(gradients, layers, strict=True)):
        assert error(gradient, outer(shared.value, g), seed + number) < 1e-4


def test_planted_weighting_by_the_first_factors_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(self: SharedTokens, factors: torch.Tensor) -> torch.Tensor:
        if self._weighted is None:
            self._weighted = factors, self.value * factors[:, None, None]
        return self._weighted[1]

    monkeypatch.setattr(SharedTokens, "weighted", stale)
    shared = SharedTokens(normals(0, 3, 4, 5))
    g = normals(1, 3, 4, 6)
    assert error(OuterGradient(shared, g), outer(shared.value, g), 1) < 1e-4
    assert error(OuterGradient(shared, g), outer(shared.value, g), 2) > 1e-2


# -- tokens without a gradient


@FUZZ
@given(st.integers(1, 4), st.integers(1, 12), st.sets(st.integers(0, 11)), SEEDS)
def test_tokens_without_gradient_may_be_left_out(b: int, t: int, live: set[int], seed: int) -> None:
    a, g = normals(seed, b, t, 3), normals(seed + 1, b, t, 4)
    dead = [token for token in range(t) if token not in live]
    g[:, dead] = 0
    if b > 1 and t > 1:
        g[1, 1] = float("nan")  # is not zero
    some_a, some_g = live_tokens(a, g)
    assert some_a.shape[:2] == some_g.shape[:2]
    torch.testing.assert_close(
        torch.bmm(some_g.mT, some_a), torch.bmm(g.mT, a), rtol=1e-5, atol=1e-5, equal_nan=True
    )


def test_only_the_first_token_is_kept_where_only_it_counts() -> None:
    a, g = normals(0, 3, 10, 4), normals(1, 3, 10, 5)
    assert live_tokens(a, g)[0] is a
    g[:, 1:] = 0
    assert live_tokens(a, g)[1].shape == (3, 1, 5)
    g[2, 7] = 1e-15  # of one example only
    assert live_tokens(a, g)[1].shape == (3, 2, 5)
    assert live_tokens(a, torch.zeros_like(g))[1].shape == (3, 1, 5)


@pytest.mark.parametrize(("d", "p"), [(384, 8), (8, 384)])
def test_of_few_tokens_the_factors_are_kept_and_what_is_written_out_counts(d: int, p: int) -> None:
    few, more = (OuterGradient(normals(0, 3, t, d), normals(1, 3, t, p)) for t in (4, 9))
    assert few.settle() is few
    assert isinstance(more.settle(), DenseGradient)
    written = few._written()
    assert torch.equal(few.norms().square, written.norms().square)
    assert few.norms().square_magnitude is few.norms().square
    for gradient in (few, few.select(torch.tensor([0, 2]))):
        sums, factors = torch.zeros(2, p, d), torch.rand(gradient.batch_size)
        gradient.accumulate(factors, sums[0])
        (written if gradient is few else written.select(torch.tensor([0, 2]))).accumulate(factors, sums[1])
        assert torch.equal(sums[0], sums[1])


# -- company: how many examples are beside, and how long the longest of them is


def factor_in_company(a: torch.Tensor, g: torch.Tensor, examples: int, tokens: int) -> torch.Tensor:
    """The clip factor of (t d) and (t p) as the last of ``examples``, padded to ``tokens``."""
    t, d = a.shape
    everyone = normals(5, examples, tokens, d), normals(6, examples, tokens, g.shape[1])
    for whole, own in zip(everyone, (a, g), strict=True):
        whole[-1, :t] = own
    everyone[1][-1, t:] = 0  # what padding reads is anything, what it is told is nothing
    gradient = OuterGradient(*live_tokens(*everyone)).settle()
    norms = Together({"weight": gradient, "bias": DenseGradient(everyone[1].sum(1))}).norms()
    return FlatClipper(1.0).over(norms)(norms)["weight"][-1]


def apart_by_company(t: int, d: int, p: int) -> float:
    """How far the longest, the largest and no company move a clip factor, of the factor."""
    a, g = normals(1, t, d), normals(2, t, p)
    alone = factor_in_company(a, g, 1, t)
    return max(
        float((factor_in_company(a, g, examples, tokens) / alone - 1).abs())
        for examples, tokens in [(1, t + 1), (2, 130), (2, 260), (9, 70), (64, 40)]
        if tokens >= t
    )


TAKE_BOTH_FORMS = [(20, 128, 512), (60, 384, 384), (9, 64, 256), (3, 48, 1536), (1, 256, 256)]


@pytest.mark.parametrize("shape", [*TAKE_BOTH_FORMS, (5, 384, 8), (2, 8, 384), (40, 16, 16), (1, 384, 2)])
def test_company_does_not_move_a_clip_factor(shape: tuple[int, int, int]) -> None:
    """Whichever form it brings about: a factor is the example's own, but for rounding."""
    assert apart_by_company(*shape) < 1e-6


@pytest.mark.parametrize("shape", TAKE_BOTH_FORMS)
def test_planted_magnitude_of_a_form_of_its_own_is_caught(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OuterGradient, "_is_always_written", property(lambda _: False))
    assert apart_by_company(*shape) < 1e-6
    genuine = OuterGradient._written

    def written(self: OuterGradient) -> DenseGradient:
        found = genuine(self)
        return DenseGradient(found.values, transposed=found.transposed)

    monkeypatch.setattr(OuterGradient, "_written", written)
    assert apart_by_company(*shape) > 3e-6


# -- tables


@FUZZ
@given(st.integers(1, 5), st.integers(1, 12), st.sampled_from([None, 0, 3]), st.booleans(), SEEDS)
def test_indexed_gradients_are_exact(b: int, t: int, padding: int | None, same: bool, seed: int) -> None:
    """Rows that repeat within an example, rows that all examples share, a row without gradient."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 8, (1 if same else b, t), generator=generator).expand(b, t)
    gradient = IndexedGradient(ids, normals(seed, b, t, 5), 8, padding)
    assert error(gradient, gradient.dense(), seed) < 1e-4
    half = t // 2
    parts = [
        IndexedGradient(i, g, 8, padding)
        for i, g in zip(
            ids.split([half, t - half], 1), gradient.output_gradients.split([half, t - half], 1), strict=True
        )
    ]
    assert error(merge(parts), gradient.dense(), seed) < 1e-4


def test_positions_take_the_short_way_and_repeated_rows_do_not() -> None:
    g = normals(0, 3, 4, 5)
    positions = IndexedGradient(torch.arange(4)[None].expand(3, 4), g, 9)
    repeated = IndexedGradient(torch.tensor([[0, 1, 1, 2]]).expand(3, 4), g, 9)
    assert positions._aligned
    assert not repeated._aligned
    assert error(positions, positions.dense()) < 1e-5
    repeated._same = True  # planted
    assert error(repeated, repeated.dense()) > 1e-2


# -- all gradients of a micro-batch at once


def several(seed: int, b: int, sizes: list[int]) -> dict[str, PerExampleGradient]:
    gradients: dict[str, PerExampleGradient] = {
        f"{number}.bias": DenseGradient(normals(seed + number, b, size)) for number, size in enumerate(sizes)
    }
    gradients["matrix"] = DenseGradient(normals(seed, b, 3, 7))
    gradients["turned"] = DenseGradient(normals(seed, b, 3, 7), transposed=True)
    gradients["large"] = DenseGradient(normals(seed, b, 70_000))
    gradients["down"] = DenseGradient(normals(seed + 2, b, 16, 8), transposed=True)
    gradients["up"] = DenseGradient(normals(seed + 3, b, 8, 16), transposed=True)
    gradients["wide"] = DenseGradient(normals(seed, b, 8, 8_256))
    gradients["weight"] = OuterGradient(normals(seed, b, 4, 6), normals(seed + 1, b, 4, 5))
    return gradients


@FUZZ
@given(st.integers(1, 4), st.lists(st.integers(1, 200), max_size=4), st.booleans(), SEEDS)
def test_together_is_the_same_as_one_by_one(b: int, sizes: list[int], alike: bool, seed: int) -> None:
    alone, together = several(seed, b, sizes), Together(several(seed, b, sizes))
    common = torch.rand(b, generator=torch.Generator().manual_seed(seed))
    factors = {name: common if alike else common + i for i, name in enumerate(alone)}
    norms = together.norms()
    assert list(norms) == list(alone)
    sums, expected = ({n: torch.ones(g.dense().shape[1:]) for n, g in alone.items()} for _ in range(2))
    together.accumulate(factors, sums)
    for name, gradient in alone.items():
        gradient.accumulate(factors[name], expected[name])
        torch.testing.assert_close(norms[name].square, gradient.norms().square, rtol=1e-6, atol=0)
        torch.testing.assert_close(sums[name], expected[name], rtol=1e-4, atol=1e-4)


def test_planted_shift_between_neighbours_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is counted for its neighbour moves norm from one parameter to another."""
    from dpft.privacy.gradients import together

    genuine = together._indicator

    def shifted(widths: tuple[int, ...], device: torch.device) -> torch.Tensor:
        return genuine(widths, device).roll(1, 0)

    monkeypatch.setattr(together, "_indicator", shifted)
    gradients = several(0, 3, [200, 70])
    found = Together(gradients).norms()
    assert any(
        not torch.allclose(found[name].square, gradient.norms().square, rtol=1e-3)
        for name, gradient in several(0, 3, [200, 70]).items()
    )


def test_planted_exchange_between_gradients_of_one_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from dpft.privacy.gradients import together

    genuine = together._norms_by_size

    def exchanged(gradients: Mapping[str, PerExampleGradient]) -> dict[str, Norms]:
        found = genuine(gradients)
        return found | {"down": found["up"], "up": found["down"]}

    monkeypatch.setattr(together, "_norms_by_size", exchanged)
    found = Together(several(0, 3, [])).norms()
    alone = several(0, 3, [])
    assert torch.allclose(found["wide"].square, alone["wide"].norms().square)
    assert not torch.allclose(found["up"].square, alone["up"].norms().square, rtol=1e-3)
