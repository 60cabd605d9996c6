"""Which layers each rule recognises, by what they compute; and that what it records is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dpft.engines import oracle
from dpft.engines.base import MicroBatch
from dpft.engines.bookkeeping import ENGINE
from dpft.errors import PrivacyError, UnsupportedLayerError
from dpft.privacy.clipping import FlatClipper
from dpft.privacy.rules.conv1d import RULE as CONV1D
from dpft.privacy.rules.embedding import RULE as EMBEDDING
from dpft.privacy.rules.lookup import RULE as LOOKUP
from dpft.privacy.rules.rms_norm import RULE as RMS_NORM
from dpft.privacy.tape import Tape
from tests import models

WIDTH, ROWS = 6, 13


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Around(nn.Module):
    """A classifier with ``layer`` in its middle."""

    def __init__(self, layer: nn.Module, words: nn.Module | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(ROWS, WIDTH) if words is None else words
        self.layer = layer
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, input_ids: Tensor) -> Output:
        return Output(self.head(torch.tanh(self.layer(self.words(input_ids))).mean(1)))


def batch(rows: int = 4, length: int = 5) -> MicroBatch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, ROWS, (rows, length), generator=generator)
    ids[:, -1] = ids[:, 0]
    return MicroBatch({"input_ids": ids}, torch.arange(rows) % 3)


def error(model: nn.Module, of: MicroBatch | None = None, opened: Any = ENGINE.session) -> float:
    """The largest relative difference from the oracle, over norms and the clipped sum."""
    of = of or batch()
    parameters = dict(model.named_parameters())
    truth = oracle.per_example_gradients(model, parameters, of)
    _, norms = oracle.clipped_sum(truth, 1.0)
    clipper = FlatClipper(float(norms.median()))
    expected, _ = oracle.clipped_sum(truth, clipper.max_grad_norm)
    sums = models.zeros(parameters)
    with opened(model, parameters, clipper, "fp32") as session:
        report = session.accumulate(of, sums)
    assert report.norms is not None
    wrong = (models.flat(sums) - models.flat(expected)).norm() / models.flat(expected).norm()
    return max(float(((report.norms - norms).abs() / norms).max()), float(wrong))


def jolted(layer: nn.Module) -> nn.Module:
    """``layer`` with no parameter at a value that hides what it does."""
    for parameter in layer.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return layer


class Transposed(nn.Module):
    """GPT-2's linear layer."""

    def __init__(self, inputs: int = WIDTH, outputs: int = WIDTH) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Untransposed(Transposed):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class BiasForgotten(Transposed):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class BiasTwice(Transposed):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + 2 * self.bias


class Squashed(Transposed):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x))


class RMSNorm(nn.Module):
    """Llama's."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.variance_epsilon = eps

    def normalised(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return self.normalised(x) * self.weight


class FromOne(RMSNorm):
    """Gemma's."""

    def forward(self, x: Tensor) -> Tensor:
        return self.normalised(x) * (1 + self.weight)


class FromTwo(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return self.normalised(x) * (2 + self.weight)


class Centred(RMSNorm):
    def normalised(self, x: Tensor) -> Tensor:
        return super().normalised(x - x.mean(-1, keepdim=True))


class HiddenEpsilon(RMSNorm):
    def normalised(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 10 * self.variance_epsilon)


class OverTokens(RMSNorm):
    def normalised(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean((1, 2), keepdim=True) + self.variance_epsilon)


class Scaled(nn.Embedding):
    """Gemma's."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2.5


class Offset(nn.Embedding):
    """OPT's, in short."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward((input + 2) % self.num_embeddings)


class Mixed(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 0.1 * self.weight.mean(0)


RECOGNISED = {
    "conv1d": (CONV1D, [Transposed, lambda: Transposed(WIDTH, 2 * WIDTH)]),
    "rms-norm": (RMS_NORM, [RMSNorm, FromOne, lambda: RMSNorm(0.1), lambda: nn.RMSNorm(WIDTH)]),
    "lookup": (LOOKUP, [lambda: Scaled(ROWS, WIDTH), lambda: Offset(ROWS, WIDTH)]),
}
FOREIGN = {
    "conv1d": (CONV1D, [Untransposed, BiasForgotten, BiasTwice, Squashed, lambda: nn.Linear(WIDTH, WIDTH)]),
    "rms-norm": (
        RMS_NORM,
        [FromTwo, Centred, HiddenEpsilon, OverTokens, lambda: nn.LayerNorm(WIDTH, bias=False)],
    ),
    "lookup": (LOOKUP, [lambda: nn.Embedding(ROWS, WIDTH), lambda: Scaled(ROWS, 4, scale_grad_by_freq=True)]),
    "embedding": (
        EMBEDDING,
        [lambda: Scaled(ROWS, WIDTH), lambda: nn.Embedding(ROWS, WIDTH, scale_grad_by_freq=True)],
    ),
}


def cases(table: dict[str, tuple[Any, list[Callable[[], nn.Module]]]]) -> list[Any]:
    return [
        pytest.param(rule, make, id=f"{name}-{number}")
        for name, (rule, makes) in table.items()
        for number, make in enumerate(makes)
    ]


@pytest.mark.parametrize(("rule", "make"), cases(RECOGNISED))
def test_a_layer_is_recognised_by_what_it_computes(rule: Any, make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    layer = make()
    assert rule.owned(layer).keys() == dict(layer.named_parameters()).keys()
    assert rule.owned(jolted(layer)).keys() == dict(layer.named_parameters()).keys()


@pytest.mark.parametrize(("rule", "make"), cases(FOREIGN))
def test_a_layer_that_computes_something_else_is_not(rule: Any, make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    assert rule.owned(jolted(make())) == {}


def test_a_weight_that_hides_its_orientation_is_not_recognised() -> None:
    layer = Transposed()
    layer.weight.data.zero_()
    assert CONV1D.owned(layer) == {}


@pytest.mark.parametrize(
    "make", [Transposed, RMSNorm, FromOne, lambda: RMSNorm(0.1), lambda: nn.RMSNorm(WIDTH)]
)
def test_what_is_recorded_is_exact(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    assert error(Around(jolted(make()))) < 1e-5


@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("kind", [Scaled, Offset])
def test_a_lookup_is_exact(kind: type[nn.Embedding], padding: int | None) -> None:
    torch.manual_seed(0)
    model = Around(nn.Linear(WIDTH, WIDTH), kind(ROWS, WIDTH, padding_idx=padding))
    ids = batch().inputs["input_ids"].clone()
    ids[0], ids[1, 0] = 3, 1  # 1 is where the offset meets the padding row
    assert error(model, MicroBatch({"input_ids": ids}, batch().labels)) < 1e-5


@pytest.mark.parametrize("kind", [Scaled, Offset])
def test_a_poisoned_row_of_a_lookup_is_left_out(kind: type[nn.Embedding]) -> None:
    torch.manual_seed(0)
    model = Around(nn.Linear(WIDTH, WIDTH), kind(ROWS, WIDTH))
    of = batch()
    of.inputs["input_ids"][of.inputs["input_ids"] == 5] = 6
    of.inputs["input_ids"][1, 0] = 5
    with torch.no_grad():
        model.words.weight[7 if kind is Offset else 5] = float("nan")
        of.inputs["input_ids"][[0, 2, 3]] %= 4  # nobody else meets it
    parameters = dict(model.named_parameters())
    sums = models.zeros(parameters)
    with ENGINE.recording(model, parameters, FlatClipper(0.5), "fp32") as session:
        assert session.accumulate(of, sums).dropped == 1
    assert models.flat(sums).isfinite().all()


def test_a_norm_over_heads_is_exact() -> None:
    """Queries and keys are normalised head by head, (b t h d), in either order."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.RMSNorm(3, eps=1e-6), nn.RMSNorm(3, eps=1e-6)

        def forward(self, x: Tensor) -> Tensor:
            heads = x.unflatten(-1, (2, 3))
            return self.q(heads).flatten(2) + self.k(heads.transpose(1, 2)).transpose(1, 2).flatten(2)

    torch.manual_seed(0)
    assert error(Around(jolted(Heads()))) < 1e-5


def test_tokens_of_all_examples_in_one_axis_are_told_apart() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.inner(x.reshape(-1, WIDTH))).view(x.shape)

    torch.manual_seed(0)
    assert error(Around(Flat())) < 1e-5


def test_planted_tokens_of_other_examples_are_caught() -> None:
    """Tokens in the batch axis, but token by token: the sums are right, and the guard sees to the norms."""

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            flat = x.transpose(0, 1).reshape(-1, WIDTH)
            return self.inner(flat).view(x.shape[1], x.shape[0], WIDTH).transpose(0, 1)

    torch.manual_seed(0)
    model = Around(TimeFirst())
    assert error(model, opened=ENGINE.recording) > 1e-2
    assert error(model) < 1e-5


def test_a_table_shared_by_all_examples_is_refused() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table(torch.arange(7)).mean(0)

    model = Around(Biased())
    refusal = pytest.raises(UnsupportedLayerError, match=r"'layer\.table' works on shape \(7,")
    with Tape(model, dict(model.named_parameters())) as tape, tape.recording(4), refusal:
        model(**batch().inputs)


def test_a_lookup_that_gives_more_than_rows_is_refused() -> None:
    model = Around(nn.Identity(), Mixed(ROWS, WIDTH))
    refusal = pytest.raises(UnsupportedLayerError, match=r"'words' \(Mixed\) gives more than rows")
    with Tape(model, dict(model.named_parameters())) as tape, tape.recording(4), refusal:
        model(**batch().inputs)


@pytest.mark.parametrize("trainable", [True, False])
def test_an_embedding_that_rescales_what_it_meets_is_refused(trainable: bool) -> None:
    """``max_norm`` rewrites the rows of the private tokens in place, even where nothing trains."""
    model = Around(nn.Identity(), nn.Embedding(ROWS, WIDTH, max_norm=1.0))
    wanted = dict(model.named_parameters() if trainable else model.head.named_parameters())
    with pytest.raises(PrivacyError, match="max_norm"):
        Tape(model, wanted)
