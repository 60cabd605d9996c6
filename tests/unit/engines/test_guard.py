"""What the fast engine cannot see goes through the model one example at a time, and is exact."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dpft.engines import guard, oracle
from dpft.engines.base import MicroBatch
from dpft.engines.bookkeeping import ENGINE
from dpft.engines.one_by_one import OneByOneSession
from dpft.errors import PrivacyError
from dpft.privacy.clipping import FlatClipper
from dpft.training.preflight import check_engine
from tests import models

WIDTH, ROWS = 6, 13


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Around(nn.Module):
    """A classifier with ``layer`` in its middle."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.words = nn.Embedding(ROWS, WIDTH)
        self.layer = layer
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, input_ids: Tensor) -> Output:
        return Output(self.head(torch.tanh(self.layer(self.words(input_ids))).mean(1)))


def batch(rows: int = 4, length: int = 5) -> MicroBatch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, ROWS, (rows, length), generator=generator)
    return MicroBatch({"input_ids": ids}, torch.arange(rows) % 3)


def outcome(
    model: nn.Module, of: MicroBatch | None = None, opened: Any = ENGINE.session
) -> tuple[float, tuple[str, ...]]:
    """The largest relative difference from the oracle, and the session's notes."""
    of = of or batch()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    truth = oracle.per_example_gradients(model, parameters, of)
    _, norms = oracle.clipped_sum(truth, 1.0)
    clipper = FlatClipper(float(norms.median()))
    expected, _ = oracle.clipped_sum(truth, clipper)
    sums = models.zeros(parameters)
    with opened(model, parameters, clipper, "fp32") as session:
        report = session.accumulate(of, sums)
        notes = session.notes
    assert report.norms is not None
    wrong = (models.flat(sums) - models.flat(expected)).norm() / models.flat(expected).norm()
    return max(float(((report.norms - norms).abs() / norms).max()), float(wrong)), notes


# -- a layer without a rule: run again, example by example


class Gate(nn.Module):
    """Bare parameters, a rule's layer inside, two inputs and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.randn(WIDTH))
        self.shift = nn.Parameter(torch.randn(()))

    def both(self, x: Tensor, *, places: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(self.inner(x) * self.scale) + places, x * self.shift

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.both(x, places=torch.arange(x.shape[1])[None, :, None] / 9)
        return first * second


class Pair(nn.Module):
    """Calls a layer with keywords, a value that all examples share, and takes a tuple from it."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.randn(WIDTH))

        def forward(self, x: Tensor, *, mix: Tensor, flag: bool = True) -> tuple[Tensor, Tensor]:
            return torch.einsum("btd,ts->bsd", x * self.scale, mix), x / (1 + self.scale.square())

    def __init__(self) -> None:
        super().__init__()
        self.layer = self.Layer()

    def forward(self, x: Tensor) -> Tensor:
        mix = torch.arange(x.shape[1] ** 2, dtype=x.dtype).view(x.shape[1], x.shape[1]) / 25
        first, second = self.layer(x, mix=mix)
        return first + second


class Doubling(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Flat(nn.Module):
    """Tokens in the batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.twice = nn.LayerNorm(WIDTH), Doubling(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(self.norm(x).reshape(-1, WIDTH)).view(x.shape)


@pytest.mark.parametrize("length", [3, 4, 5, 8])  # 4 examples: shared values of every awkward size
@pytest.mark.parametrize("kind", [Gate, Pair, Flat, lambda: Doubling(WIDTH, WIDTH)])
def test_a_layer_without_a_rule_is_exact_and_said_to_be_slow(kind: type[nn.Module], length: int) -> None:
    torch.manual_seed(0)
    error, notes = outcome(Around(kind()), batch(length=length))
    assert error < 1e-5
    (note,) = notes
    assert note.startswith("exact but slow: no rule knows")
    assert "layer" in note


def test_planted_gradient_of_a_neighbour_is_caught() -> None:
    """A layer run again with its examples exchanged: the sums are right, the norms are those of others."""
    from dpft.privacy.rules import reexecution

    torch.manual_seed(0)
    model = Around(Gate())
    original = reexecution._differentiate
    with pytest.MonkeyPatch.context() as planted:
        planted.setattr(
            reexecution,
            "_differentiate",
            lambda *arguments: {k: v.roll(1, 0) for k, v in original(*arguments).items()},
        )
        error, _ = outcome(model, opened=ENGINE.recording)
        guarded, notes = outcome(model)
    assert error > 1e-3  # a hundred times what is allowed
    assert guarded < 1e-5
    assert "norms differ" in notes[0]


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5) * self.scale


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x * self.scale


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.9 * x.mean(0, keepdim=True)) * self.scale


def test_a_session_that_has_ended_holds_on_to_its_notes_only() -> None:
    model = Around(Gate())
    parameters = dict(model.named_parameters())
    with ENGINE.session(model, parameters, FlatClipper(1.0), "fp32") as session:
        fast = weakref.ref(session._fast)
        session.accumulate(batch(), models.zeros(parameters))
        notes = session.notes
    assert fast() is None
    assert session.notes == notes
    assert "Gate" in notes[0]


@pytest.mark.parametrize("kind", [Noisy, Remembering, Mixing])
def test_a_layer_that_is_no_function_of_one_example_is_not_run_again(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = Around(kind())
    with ENGINE.session(model, dict(model.named_parameters()), FlatClipper(1.0), "fp32") as session:
        session.accumulate(batch(), models.zeros(dict(model.named_parameters())))
        (note,) = session.notes
    assert "does not answer for an example alone as it does in a batch" in note
    assert "each example goes through the model on its own" in note


@pytest.mark.parametrize(
    ("kind", "match"),
    [(Mixing, "answers an example differently in company"), (Remembering, "changes 'layer")],
)
def test_the_preflight_refuses_it(kind: type[nn.Module], match: str) -> None:
    torch.manual_seed(0)
    model = Around(kind())
    with pytest.raises(PrivacyError, match=match):
        check_engine(ENGINE, model, dict(model.named_parameters()), batch())


# -- what no layer shows: one example at a time


class SharedTable(nn.Module):
    """A table without a batch axis, whose size is that of one micro-batch."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.norm(self.table.weight).sum(0)


class RelativePositions(nn.Module):
    """T5's: (t t) positions, looked up once for all examples."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Embedding(8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1])
        return x + self.bias((place[:, None] - place).abs() % 8).mean(0)


@pytest.mark.parametrize("rows", [2, 3, 4, 8])  # as many as the micro-batch, as the probe, or twice as many
@pytest.mark.parametrize("make", [SharedTable, lambda rows: RelativePositions()])
@pytest.mark.parametrize("block", [7, 1 << 18])
def test_what_all_examples_share_goes_one_at_a_time(
    make: type[SharedTable], rows: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_BLOCK", block)
    torch.manual_seed(0)
    error, notes = outcome(Around(make(rows)), batch(rows=4, length=4))
    assert error < 1e-5
    assert "each example goes through the model on its own" in notes[0]


def test_planted_table_of_the_micro_batchs_size_is_mistaken_without_the_guard() -> None:
    """Why the guard exists: four rows of a table pass for four examples, and the norms are wrong."""
    torch.manual_seed(0)
    model = Around(SharedTable(4))
    parameters = {"layer.norm.weight": model.layer.norm.weight}
    truth = oracle.per_example_gradients(model, parameters, batch())
    _, norms = oracle.clipped_sum(truth, 1.0)
    with ENGINE.recording(model, parameters, FlatClipper(1.0), "fp32") as session:
        report = session.accumulate(batch(), models.zeros(parameters))
    assert report.norms is not None
    assert ((report.norms - norms).abs() / norms).max() > 1e-2


class Peeking(Around):
    def forward(self, input_ids: Tensor) -> Output:
        logits = super().forward(input_ids).logits
        return Output(logits + F.linear(logits, self.head.weight[:, :3]))


class Bare(Around):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.temperature = nn.Parameter(torch.randn(3))

    def forward(self, input_ids: Tensor) -> Output:
        return Output(super().forward(input_ids).logits * self.temperature)


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Peeking, "'head.weight' is used in ways that its layer does not show"), (Bare, "temperature (Bare)")],
)
def test_a_weight_read_past_its_layer_goes_one_at_a_time(kind: type[Around], why: str) -> None:
    torch.manual_seed(0)
    error, notes = outcome(kind(nn.Linear(WIDTH, WIDTH)))
    assert error < 1e-5
    assert why in notes[0]


def test_where_every_layer_has_a_rule_nothing_is_slow() -> None:
    torch.manual_seed(0)
    error, notes = outcome(Around(nn.Linear(WIDTH, WIDTH)))
    assert error < 1e-5
    assert notes == ()


class Largest(TorchDispatchMode):
    """The most elements of a float64 tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dtype == torch.float64:
            self.elements = max(self.elements, made.numel())
        return made


def test_the_probe_copies_no_embedding_to_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_BLOCK", 50)
    torch.manual_seed(0)
    model = Around(nn.Linear(WIDTH, WIDTH))
    parameters = dict(model.named_parameters())
    with ENGINE.session(model, parameters, FlatClipper(0.5), "fp32") as session, Largest() as largest:
        session.accumulate(batch(), models.zeros(parameters))
        assert session.notes == ()
    assert 0 < largest.elements <= 50 < ROWS * WIDTH


def test_one_at_a_time_drops_what_is_not_finite() -> None:
    torch.manual_seed(0)
    model = Around(nn.Linear(WIDTH, WIDTH))
    model.words.weight.data[5] = float("nan")
    whole = batch()
    whole.inputs["input_ids"][whole.inputs["input_ids"] == 5] = 6
    parameters = dict(model.named_parameters())
    poisoned = MicroBatch({"input_ids": whole.inputs["input_ids"].clone()}, whole.labels)
    poisoned.inputs["input_ids"][1, 0] = 5
    session = OneByOneSession(model, parameters, FlatClipper(0.5), "fp32")
    sums, reference = models.zeros(parameters), models.zeros(parameters)
    report = session.accumulate(poisoned, sums)
    session.accumulate(models.rows_of(whole, [0, 2, 3]), reference)
    assert report.dropped == 1
    assert torch.equal(models.flat(sums), models.flat(reference))


def test_a_poisoned_first_example_does_not_make_the_session_slow() -> None:
    torch.manual_seed(0)
    model = Around(nn.Linear(WIDTH, WIDTH))
    model.words.weight.data[5] = float("nan")
    of = batch()
    of.inputs["input_ids"][0, 0] = 5
    parameters = dict(model.named_parameters())
    with ENGINE.session(model, parameters, FlatClipper(0.5), "fp32") as session:
        assert session.accumulate(of, models.zeros(parameters)).dropped >= 1
        assert session.notes == ()


def test_a_micro_batch_of_nothing_but_poison_contributes_nothing() -> None:
    torch.manual_seed(0)
    model = Around(Gate())  # with a parameter that is a single number
    model.words.weight.data[5] = float("nan")
    of = batch()
    of.inputs["input_ids"][:, 0] = 5
    parameters = dict(model.named_parameters())
    sums = models.zeros(parameters)
    with ENGINE.recording(model, parameters, FlatClipper(0.5), "fp32") as session:
        assert session.accumulate(of, sums).dropped == 4
    assert not models.flat(sums).any()
