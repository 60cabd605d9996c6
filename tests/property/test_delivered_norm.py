"""Row 18: what one example delivers has norm at most C(1 + 1e-6), under fuzzing, cancellation included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpft.privacy.clipping import Clipper, FlatClipper, base
from dpft.privacy.gradients import (
    DenseGradient,
    IndexedGradient,
    OuterGradient,
    PerExampleGradient,
    SharedTokens,
    Together,
    gram,
    outer,
    shared,
)
from dpft.tables import CLIPPERS

SHAPES = st.tuples(
    st.integers(1, 4),  # examples
    st.integers(1, 40),  # tokens
    st.integers(1, 24),  # inputs
    st.integers(1, 24),  # outputs
)


KINDS = ["outer", "cancelling", "written", "shared", "indexed", "positions", "dense"]


def random(shape: tuple[int, ...], generator: torch.Generator, spread: float) -> torch.Tensor:
    """Normals times 10^U(−spread, spread)."""
    scale = 10 ** (spread * (2 * torch.rand(shape, generator=generator) - 1))
    return torch.randn(shape, generator=generator) * scale


def cancelling(b: int, t: int, d: int, p: int, generator: torch.Generator) -> OuterGradient:
    """Tokens in pairs that almost undo each other: the norm is tiny beside its terms."""
    a = random((b, t, d), generator, 1)
    g = random((b, t, p), generator, 1)
    half = t // 2
    a[:, half : 2 * half] = a[:, :half] * (1 + 1e-4 * torch.randn((b, half, 1), generator=generator))
    g[:, half : 2 * half] = -g[:, :half]
    return OuterGradient(a, g)


def make(kind: str, shape: tuple[int, int, int, int], seed: int) -> tuple[PerExampleGradient, torch.Size]:
    b, t, d, p = shape
    generator = torch.Generator().manual_seed(seed)
    gradient: PerExampleGradient
    if kind == "outer":
        gradient = OuterGradient(random((b, t, d), generator, 2), random((b, t, p), generator, 2))
    elif kind == "cancelling":
        gradient = cancelling(b, t, d, p, generator)
    elif kind == "written":
        gradient = cancelling(b, t, d, p, generator)._written()
    elif kind == "shared":
        gradient = OuterGradient(
            SharedTokens(random((b, t, d), generator, 2)), SharedTokens(random((b, t, p), generator, 2))
        )
    elif kind == "positions":
        ids = torch.randperm(t, generator=generator).expand(b, t)
        gradient = IndexedGradient(ids, random((b, t, p), generator, 2), t)
    elif kind == "indexed":
        ids = torch.randint(0, d, (b, t), generator=generator)
        gradient = IndexedGradient(ids, random((b, t, p), generator, 2), d)
    else:
        gradient = DenseGradient(random((b, p, d), generator, 3))
    return gradient, gradient.dense().shape[1:]


def delivered(gradients: list[tuple[PerExampleGradient, torch.Size]], clipper: Clipper) -> torch.Tensor:
    """The norm each example alone adds to the sums, (b); every gradient is of a layer of its own."""
    named = {f"{number}.weight": gradient for number, (gradient, _) in enumerate(gradients)}
    shapes = {name: shape for name, (_, shape) in zip(named, gradients, strict=True)}
    norms = Together(named).norms()
    factors = clipper.over(norms)(norms)
    worst = []
    for i in range(gradients[0][0].batch_size):
        alone = {name: gradient.select(torch.tensor([i])) for name, gradient in named.items()}
        own = {id(value): value[i : i + 1] for value in factors.values()}
        of_this = {name: own[id(value)] for name, value in factors.items()}
        # As the engine adds it up with others whose factors are zero, and by itself.
        others = {id(v): v.where(torch.arange(len(v)) == i, 0.0) for v in factors.values()}
        among = {name: others[id(value)] for name, value in factors.items()}
        norms_delivered = []
        for some, which in ((Together(alone), of_this), (Together(named), among)):
            sums = {name: torch.zeros(shape) for name, shape in shapes.items()}
            some.accumulate(which, sums)
            norms_delivered.append(
                sum(float(value.double().square().sum()) for value in sums.values()) ** 0.5
            )
        worst.append(max(norms_delivered))
    return torch.tensor(worst, dtype=torch.float64)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    SHAPES,
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    st.integers(0, 2**31),
    st.sampled_from([1e-3, 0.1, 1.0, 50.0]),
    st.sampled_from(CLIPPERS.names()),
)
def test_delivered_norm_is_at_most_c(
    shape: tuple[int, int, int, int], kinds: list[str], seed: int, clip: float, clipping: str
) -> None:
    gradients = [make(kind, shape, seed + i) for i, kind in enumerate(kinds)]
    clipper: Clipper = CLIPPERS.get(clipping)(clip)
    assert delivered(gradients, clipper).max() <= clipper.sensitivity * (1 + 1e-6)


def worst_overshoot(clipping: str) -> float:
    """Largest relative overshoot over cancelling gradients that take the Gram path."""
    worst = 0.0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        gradient = cancelling(2, 30, 400, 400, generator)
        clipper: Clipper = CLIPPERS.get(clipping)(1e-3)
        found = delivered([(gradient, torch.Size((400, 400)))], clipper).max()
        worst = max(worst, float(found) / clipper.sensitivity - 1)
    return worst


@pytest.mark.parametrize("clipping", CLIPPERS.names())
def test_guard_holds_where_tokens_cancel(clipping: str) -> None:
    assert worst_overshoot(clipping) <= 1e-6


@pytest.mark.parametrize("clipping", CLIPPERS.names())
def test_planted_unguarded_norm_overshoots(clipping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "ROUNDING_GUARD", 0.0)
    assert worst_overshoot(clipping) > 1e-6


def overshoot_of_huge_gradients() -> float:
    values = torch.linspace(1e37, 9e37, 9)[:, None] * torch.tensor([1.0, 0.3])  # factors would be 1e-41 …
    gradient, clipper = DenseGradient(values), FlatClipper(1e-4)
    return float(delivered([(gradient, torch.Size((2,)))], clipper).max()) / clipper.sensitivity - 1


def test_factors_without_full_digits_are_zero() -> None:
    assert overshoot_of_huge_gradients() == -1


def test_planted_subnormal_factor_overshoots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_SMALLEST", 0.0)
    assert overshoot_of_huge_gradients() > 1e-6


@pytest.mark.parametrize("constant", [False, True], ids=["normal", "constant"])
def test_large_gradients_do_not_overshoot(constant: bool) -> None:
    """Errors of a float32 norm grow with the number of elements; here no cancellation hides them."""
    generator = torch.Generator().manual_seed(0)

    def values(*shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator)
        return 0.3 * drawn.sign() if constant else drawn

    a, g = values(1, 300, 400), values(1, 300, 400)
    g[:, 1:] = 0  # as where only the first token is pooled
    cases: list[tuple[PerExampleGradient, torch.Size]] = [
        (OuterGradient(a, g), torch.Size((400, 400))),
        (DenseGradient(values(1, 1000, 1000)), torch.Size((1000, 1000))),
        (OuterGradient(values(1, 1, 3000), values(1, 1, 800)), torch.Size((800, 3000))),
        (
            IndexedGradient(torch.zeros((1, 300), dtype=torch.long), values(1, 300, 800), 5),
            torch.Size((5, 800)),
        ),
    ]
    for case in cases:
        assert delivered([case], FlatClipper(0.1)).max() <= 0.1 * (1 + 1e-6), type(case[0]).__name__


def overshoot_of_alike_terms(tokens: int, width: int) -> float:
    """Inner products of equal terms, whose rounding errors have one sign; one token has the gradient."""
    worst = -1.0
    for size in (0.3, 0.1, 1 / 3, 0.7):
        generator = torch.Generator().manual_seed(width)
        a, g = (size * torch.randn((1, tokens, width), generator=generator).sign() for _ in range(2))
        g[:, 1:] = 0
        case: tuple[PerExampleGradient, torch.Size] = (OuterGradient(a, g), torch.Size((width, width)))
        worst = max(worst, float(delivered([case], FlatClipper(0.1)).max()) / 0.1 - 1)
    return worst


@pytest.mark.parametrize(("tokens", "width"), [(2, 400), (2, 3072), (9, 1536), (64, 768)])
def test_inner_products_of_many_alike_terms_do_not_overshoot(tokens: int, width: int) -> None:
    assert overshoot_of_alike_terms(tokens, width) <= 1e-6


def overshoot_of_alike_tokens() -> float:
    """All tokens alike: every product of the Gram form has the same sign, and their rounding errors too."""
    worst = -1.0
    for size in (0.3, 0.1, 1 / 3, 0.7):
        generator = torch.Generator().manual_seed(0)
        a, g = (size * torch.randn((1, 1, 256), generator=generator).sign() for _ in range(2))
        gradient = OuterGradient(a.repeat(1, 300, 1), g.repeat(1, 300, 1))
        case: tuple[PerExampleGradient, torch.Size] = (gradient, torch.Size((256, 256)))
        worst = max(worst, float(delivered([case], FlatClipper(0.1)).max()) / 0.1 - 1)
    return worst


def test_sums_over_many_pairs_of_tokens_do_not_overshoot() -> None:
    assert overshoot_of_alike_tokens() <= 1e-6


def test_planted_sum_of_pairs_one_after_the_other_overshoots(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_a_row(self: gram.Layout, products: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(products))
        for column in products.mul_(self.weights).unbind(1):
            total += column
        return total

    monkeypatch.setattr(gram.Layout, "total", in_a_row)
    assert overshoot_of_alike_tokens() > 1e-6


def term_by_term(self: gram.Layout, value: torch.Tensor) -> torch.Tensor:
    """The least exact of all ways to add up: one term after the other."""
    total = torch.zeros(len(value), value.shape[1], value.shape[1])
    for feature in value.unbind(2):
        total += feature[:, :, None] * feature[:, None, :]
    return total.flatten(1)


@pytest.mark.parametrize("guarded", [True, False])
def test_the_guard_covers_the_least_exact_inner_products(
    guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without its share for long inner products, it would not: the planted bug."""
    full = gram.Layout(2, None, 4, torch.ones(4), torch.tensor([0, 3]))
    monkeypatch.setattr(gram.Layout, "products", term_by_term)
    for module in (shared, outer):
        monkeypatch.setattr(module, "layout_for", lambda value: full)
    if not guarded:
        monkeypatch.setattr(outer, "_TERMS", float("inf"))
    assert (overshoot_of_alike_terms(2, 1536) <= 1e-6) == guarded


@pytest.mark.parametrize("kind", ["outer", "indexed", "dense"])
def test_forms_agree_with_their_dense_gradients(kind: str) -> None:
    """Both the Gram and the instantiated path of a linear layer, and the sparse paths of a table."""
    for shape in [(3, 2, 20, 20), (3, 40, 3, 5), (2, 1, 4, 4)]:
        gradient, _ = make(kind, shape, 0)
        dense = gradient.dense().double()
        torch.testing.assert_close(
            gradient.norms().square, dense.flatten(1).square().sum(1), rtol=1e-5, atol=0.0
        )
        factors = torch.rand(shape[0])
        into = torch.zeros(dense.shape[1:])
        gradient.accumulate(factors, into)
        expected = torch.einsum("b,b...->...", factors.double(), dense)
        assert (into.double() - expected).norm() <= 1e-5 * expected.norm()
