"""Products at bfloat16: a row's bits are its own, whatever the machine's kernels do with more of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.engines import products
from dpft.engines.base import Session, autocast
from dpft.engines.bookkeeping import BookkeepingEngine
from dpft.engines.products import BFloat16Copies, SteadyProducts, counts_that_agree
from dpft.errors import RoundingError
from dpft.tables import CLIPPERS, ENGINES
from tests import models

SHAPES = [(1536, 48), (512, 128), (384, 8), (384, 2), (64, 64), (33, 5), (8, 48)]
COMPANY = (1, 2, 3, 7, 24, 50, 90, 130, 384, 1000, 1025, 2500)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What is known of this machine's kernels is not known of planted ones."""
    products._counts.cache_clear()
    yield
    products._counts.cache_clear()


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    with SteadyProducts(), torch.autocast("cpu", dtype=torch.bfloat16):
        return F.linear(rows, weight, bias)


def telling(inner: int, outer: int) -> tuple[Tensor, Tensor]:
    """Rows (2500 k), all alike, and a weight (n k): their products are nothing but rounding."""
    row, matrix = products._cancelling(inner, outer, torch.Generator().manual_seed(0))
    rows, weight = (value.bfloat16().float() for value in (row, matrix))
    return rows.expand(max(COMPANY), -1), weight.T.contiguous()


@pytest.mark.parametrize(("inner", "outer"), SHAPES)
def test_a_row_is_the_same_to_the_bit_in_any_company(inner: int, outer: int) -> None:
    rows, weight = telling(inner, outer)
    for forward in (True, False):
        # A gradient's terms cancel where the weight is laid out the other way round.
        given = weight if forward else weight.T.contiguous()
        for count in COMPANY:
            if forward:
                found = linear(rows[:count], given)
            else:
                start = torch.zeros(count, outer, requires_grad=True)
                (found,) = torch.autograd.grad(
                    linear(start, given), start, rows[:count].bfloat16(), retain_graph=True
                )
            expected = linear(rows[:1], given) if forward else found[:1]
            assert torch.equal(found, expected.expand_as(found)), (forward, count)
            if count == 1:
                alone = found
            assert torch.equal(found[:1], alone), (forward, count)


def planted(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """A kernel that adds up a row's terms from the other end, if fewer than 384 rows come together."""
    order = range(len(matrix)) if len(rows) < 384 else reversed(range(len(matrix)))
    found = torch.zeros(len(rows), matrix.shape[1])
    for term in order:
        found += rows[:, term, None].float() * matrix[term].float()
    return (found if bias is None else found + bias.float()).bfloat16()


def test_planted_kernel_that_looks_at_the_number_of_rows_gets_no_few_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, weight = telling(512, 24)
    assert not torch.equal(
        planted(rows[:8].bfloat16(), weight.T.bfloat16(), None),
        planted(rows[:400].bfloat16(), weight.T.bfloat16(), None)[:8],
    )
    monkeypatch.setattr(products, "_multiply", planted)
    assert min(counts_that_agree(weight.T.bfloat16())) >= 384
    alone = linear(rows[:1], weight)
    for count in COMPANY:
        assert torch.equal(linear(rows[:count], weight), alone.expand(count, -1))


def test_ordinary_numbers_would_hardly_have_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why operands cancel: of ordinary ones, next to no element shows what the kernel does."""
    torch.manual_seed(0)
    rows, matrix = torch.randn(400, 512).bfloat16(), torch.randn(512, 24).bfloat16()
    ordinary = planted(rows[:8], matrix, None) != planted(rows, matrix, None)[:8]
    rows, weight = (value.bfloat16() for value in telling(512, 24))
    cancelling = planted(rows[:8], weight.T, None) != planted(rows[:400], weight.T, None)[:8]
    assert float(ordinary.float().mean()) < 0.02
    assert float(cancelling.float().mean()) > 0.5


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6, 9, 48), (1, 48), (1500, 48)])
def test_the_product_and_its_gradient_are_those_of_plain_autocast(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    weight, rows = torch.randn(32, 48), torch.randn(*shape, requires_grad=True)
    added = torch.randn(32) if bias else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = F.linear(rows, weight, added)
    found = linear(rows, weight, added)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    output = torch.randn_like(expected)
    gradients = [torch.autograd.grad(value, rows, output)[0] for value in (found, expected)]
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-5)
    torch.testing.assert_close(*gradients, rtol=2**-7, atol=2**-5)
    assert gradients[0].dtype == torch.float32


def test_a_layer_with_its_weight_the_other_way_round_is_steadied_too() -> None:
    rows, weight = telling(512, 24)
    bias = torch.zeros(24)
    found = []
    for count in (1, 5, 384):
        with SteadyProducts(), torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(torch.addmm(bias, rows[:count], weight.T.contiguous())[:1])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("spell", [torch.matmul, torch.mm, lambda rows, matrix: rows @ matrix])
def test_a_weight_that_a_model_multiplies_by_itself_is_steadied_too(spell: Callable[..., Tensor]) -> None:
    rows, weight = telling(512, 24)
    found = []
    for count in (1, 5, 384):
        with SteadyProducts(), autocast(torch.device("cpu"), "bf16"):
            found.append(spell(rows[:count], weight.T)[:1])
    assert found[0].dtype == torch.bfloat16
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "unknown",
    [
        lambda: torch.einsum("td,nd->tn", torch.ones(2, 8), torch.ones(3, 8)),
        lambda: F.conv1d(torch.ones(2, 8, 5), torch.ones(3, 8, 1)),
        lambda: torch.addmm(torch.ones(3), torch.ones(2, 8), torch.ones(8, 3), alpha=2),
        lambda: nn.MultiheadAttention(8, 2)(*[torch.ones(4, 2, 8)] * 3),
        lambda: torch.mv(torch.ones(2, 8), torch.ones(8)),
        lambda: torch.mm(torch.ones(2, 8), mat2=torch.ones(8, 3)),
        lambda: torch.ones(2, 3).addmm_(torch.ones(2, 8), torch.ones(8, 3)),
        lambda: nn.LSTM(8, 8)(torch.ones(4, 2, 8)),
        lambda: nn.GRUCell(8, 8)(torch.ones(4, 8)),
    ],
)
def test_products_of_other_kinds_are_refused_at_bf16(unknown: Callable[[], object]) -> None:
    with SteadyProducts():
        unknown()
        with autocast(torch.device("cpu"), "bf16"), pytest.raises(RoundingError, match="by its company"):
            unknown()


@pytest.mark.parametrize("rows_of_one", [4, 5])
def test_a_products_result_may_be_changed_in_place(rows_of_one: int) -> None:
    """As many rows as agree (16), and some that zeros are added to (20)."""
    assert (4 * rows_of_one in counts_that_agree(torch.ones(8, 4))) == (rows_of_one == 4)
    weight, rows = torch.randn(4, 8), torch.randn(4, rows_of_one, 8, requires_grad=True)
    with SteadyProducts(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = F.linear(rows, weight)
        found /= 2.0
    (gradient,) = torch.autograd.grad(found.sum(), rows)
    torch.testing.assert_close(gradient, (weight.sum(0) / 2).expand_as(rows), rtol=0.02, atol=0.05)


def biased(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """A kernel that adds a bias to many rows before it rounds, and to few after it did."""
    found = rows.double() @ matrix.double()
    if bias is None or len(rows) >= 384:
        return (found if bias is None else found + bias.double()).bfloat16()
    return found.bfloat16() + bias


def test_planted_kernel_that_rounds_before_the_bias_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_multiply", biased)
    assert min(counts_that_agree(torch.ones(64, 64), bias=True)) >= 384


def test_planted_kernel_that_is_of_two_minds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_rows_apart(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        found = (rows.double() @ matrix.double()).bfloat16()
        found[1000:] += 1
        return found

    monkeypatch.setattr(products, "_multiply", last_rows_apart)
    with pytest.raises(RoundingError, match="alike different bits"):
        counts_that_agree(torch.ones(64, 8))


def test_what_trains_by_autograd_and_what_is_not_at_bf16_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> Tensor:
        raise AssertionError("steadied")

    monkeypatch.setattr(products, "_multiply", never)
    rows, weight = torch.randn(3, 8), torch.randn(4, 8, requires_grad=True)
    assert linear(rows, weight).requires_grad
    with SteadyProducts():
        assert F.linear(rows, weight.detach()).dtype == torch.float32
        torch.addmm(torch.zeros(4), rows, weight.detach().T)
    with pytest.raises(AssertionError, match="steadied"):
        linear(rows, weight.detach())


def test_a_gradient_has_the_precision_of_its_rows() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        rows = torch.randn(3, 8, dtype=dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(linear(rows, torch.randn(4, 8)).sum(), rows)
        assert (gradient.dtype, gradient.shape) == (dtype, rows.shape)


def test_a_frozen_matrix_is_narrowed_once_and_again_when_it_was_written_to() -> None:
    frozen, trained = torch.randn(4, 8), torch.randn(4, 8)
    copies = BFloat16Copies([frozen])
    first = copies.of(frozen)
    assert copies.of(frozen) is first
    assert copies.of(trained) is not copies.of(trained)
    frozen.add_(1)
    assert torch.equal(copies.of(frozen), frozen.bfloat16())
    assert not torch.equal(copies.of(frozen), first)
    frozen.set_(trained.clone())  # type: ignore[no-untyped-call]
    assert torch.equal(copies.of(frozen), trained.bfloat16())


def test_another_matrix_in_the_place_of_a_frozen_one_is_itself() -> None:
    frozen = torch.randn(4, 8)
    copies = BFloat16Copies([frozen])
    copies.of(frozen)
    view = frozen.T  # of the same memory
    assert torch.equal(copies.of(view), view.bfloat16())
    copies._frozen[id(view)] = frozen  # as if Python had given its address to another object
    assert torch.equal(copies.of(view), view.bfloat16())


def test_a_session_sees_frozen_weights_that_are_written_to_between_micro_batches() -> None:
    model, parameters = models.tuned("lora")
    batch = models.batch()
    frozen = next(p for n, p in model.named_parameters() if n.endswith("query.base_layer.weight"))
    clipper = CLIPPERS.get("flat")(1.0)

    def sums_of(session: Session) -> dict[str, Tensor]:
        sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
        session.accumulate(batch, sums)
        return sums

    with ENGINES.get("dpft").session(model, parameters, clipper, "bf16") as session:
        before = sums_of(session)
        with torch.no_grad():
            frozen.mul_(1.5)
        after = sums_of(session)
    with ENGINES.get("dpft").session(model, parameters, clipper, "bf16") as session:
        anew = sums_of(session)
    assert all(torch.equal(after[name], value) for name, value in anew.items())
    assert any(not torch.equal(before[name], value) for name, value in after.items())


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_session_at_bf16_steadies_its_products_and_copies_what_is_frozen_only(mode: str) -> None:
    model, parameters = models.tuned(mode)
    trained = {id(parameter) for parameter in parameters.values()}
    frozen = {id(p) for p in model.parameters() if p.dim() <= 2} - trained
    for precision in ("fp32", "bf16"):
        with BookkeepingEngine().recording(
            model, parameters, CLIPPERS.get("flat")(1.0), precision
        ) as session:
            session.accumulate(models.batch(), models.zeros(parameters))
            assert (products._counts.cache_info().misses >= 4) == (precision == "bf16")
            kept = session._copies._kept.keys()
        assert kept <= frozen
        assert bool(kept) == (precision == "bf16" and mode == "lora")


def test_a_matrix_that_shares_memory_with_a_trained_one_is_not_frozen() -> None:
    trained = nn.Parameter(torch.randn(4, 8))
    shared = nn.Parameter(trained.data, requires_grad=False)  # with a version of its own
    copies = BFloat16Copies([shared], [trained])
    copies.of(shared)
    with torch.no_grad():
        trained.add_(1)
    assert torch.equal(copies.of(shared), trained.bfloat16())


def test_a_matrix_whose_versions_nobody_counts_is_not_kept() -> None:
    with torch.inference_mode():
        frozen = torch.randn(4, 8)
    copies = BFloat16Copies([frozen])
    assert torch.equal(copies.of(frozen), frozen.bfloat16())


def test_no_rows_give_none_and_nor_do_no_outputs() -> None:
    assert linear(torch.zeros(0, 8), torch.randn(4, 8)).shape == (0, 4)
    rows = torch.randn(3, 5, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(linear(rows, torch.randn(0, 8)).sum(), rows)
    assert torch.equal(gradient, torch.zeros_like(rows))


def test_tiny_models_are_at_work_here() -> None:
    """The layers of what the contract suites train go through steadied products."""
    model, _ = models.tuned("lora")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with SteadyProducts(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(**models.batch().inputs)
    assert products._counts.cache_info().misses >= 4
