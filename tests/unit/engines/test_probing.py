"""When the guard probes: first of all, until there is something to compare with, and after a step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dpft.engines.base import MicroBatch, Session
from dpft.engines.bookkeeping import ENGINE, BookkeepingSession
from dpft.privacy.clipping import FlatClipper
from dpft.privacy.gradients import Norms, OuterGradient, PerExampleGradient
from dpft.privacy.tape import Tape
from tests import models
from tests.unit.engines.test_guard import WIDTH, Around, Output, batch


class Shy(Around):
    """An adapter whose second factor starts at zero: nothing reaches the first one yet."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.down, self.up = nn.Linear(WIDTH, 2), nn.Linear(2, WIDTH, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, input_ids: Tensor) -> Output:
        hidden = self.words(input_ids)
        return Output(self.head(torch.tanh(hidden + self.up(self.down(hidden))).mean(1)))


class Faulty(OuterGradient):
    """Planted: the norm of a gradient is a hundredth of what is delivered; its sum is right."""

    def _compute_norms(self) -> Norms:
        norms = OuterGradient._compute_norms(self)
        return Norms(norms.square * 1e-4, norms.square_magnitude * 1e-4)

    def settle(self) -> Faulty:
        return self


@pytest.fixture
def planted_norm(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Parameter], None]:
    """Give one parameter a gradient whose norms are wrong."""
    original = Tape.add

    def plant(of: nn.Parameter) -> None:
        def add(tape: Tape, parameter: nn.Parameter, gradient: PerExampleGradient) -> None:
            if parameter is of and isinstance(gradient, OuterGradient):
                gradient = Faulty(gradient.activations, gradient.output_gradients)
            original(tape, parameter, gradient)

        monkeypatch.setattr(Tape, "add", add)

    return plant


def contribution(session: Session, parameters: dict[str, nn.Parameter], of: MicroBatch) -> float:
    sums = models.zeros(parameters)
    session.accumulate(of, sums)
    return float(models.flat(sums).norm())


def move(parameter: nn.Parameter) -> None:
    with torch.no_grad():
        parameter.add_(torch.randn_like(parameter))


def test_what_a_start_at_zero_hid_is_probed_once_the_weights_have_moved(
    planted_norm: Callable[[nn.Parameter], None],
) -> None:
    torch.manual_seed(0)
    model = Shy()
    parameters = {name: p for name, p in model.named_parameters() if name.startswith(("down.w", "up."))}
    planted_norm(model.down.weight)
    few = models.rows_of(batch(), slice(0, 1))
    with ENGINE.recording(model, parameters, FlatClipper(1e-4), "fp32") as session:
        session.accumulate(batch(), models.zeros(parameters))
        move(model.up.weight)
        assert contribution(session, parameters, few) > 2e-4  # what the fault does
    with torch.no_grad():
        model.up.weight.zero_()
    with ENGINE.session(model, parameters, FlatClipper(1e-4), "fp32") as session:
        session.accumulate(batch(), models.zeros(parameters))
        assert session.notes == ()  # nothing of it is to be seen
        move(model.up.weight)
        assert contribution(session, parameters, few) <= 1e-4 * (1 + 1e-6)
        assert "'down.weight'" in session.notes[0]


def test_a_poisoned_first_example_does_not_hide_a_fault(
    planted_norm: Callable[[nn.Parameter], None],
) -> None:
    torch.manual_seed(0)
    model = Around(nn.Linear(WIDTH, WIDTH))
    model.words.weight.data[5] = float("nan")
    poisoned, clean = batch(), batch()
    poisoned.inputs["input_ids"][0, 0] = 5
    clean.inputs["input_ids"][clean.inputs["input_ids"] == 5] = 6
    parameters = dict(model.layer.named_parameters())
    planted_norm(model.layer.weight)
    few = models.rows_of(clean, slice(0, 1))
    with ENGINE.session(model, parameters, FlatClipper(1e-4), "fp32") as session:
        for _ in range(2):  # while there is nothing to compare with, each example goes on its own
            sums = models.zeros(parameters)
            report = session.accumulate(models.rows_of(poisoned, slice(0, 1)), sums)
            assert report.dropped == 1
            assert not models.flat(sums).any()
            assert session.notes == ()
        assert contribution(session, parameters, few) <= 1e-4 * (1 + 1e-6)
        assert "'weight'" in session.notes[0]


def test_two_probes_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Around(nn.Linear(WIDTH, WIDTH))
    parameters = dict(model.named_parameters())
    probes: list[int] = []
    original = BookkeepingSession.gradients
    monkeypatch.setattr(
        BookkeepingSession, "gradients", lambda self, few: probes.append(len(few)) or original(self, few)
    )
    with ENGINE.session(model, parameters, FlatClipper(1.0), "fp32") as session:
        for step in range(4):
            for _ in range(2):
                session.accumulate(batch(), models.zeros(parameters))
                assert len(probes) == min(step + 1, 2)
            move(model.layer.weight)
