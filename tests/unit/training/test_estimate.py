"""What a run is said to take: exact where time is exact, from nothing private, and without a trace."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dpft.engines.base import PieceReport
from dpft.privacy.plan import make_plan
from dpft.privacy.sampling import micro_batches
from dpft.runs.ledger import Ledger
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.training.estimate import Probe, pieces_of
from dpft.training.run import plan_run

A_TOKEN, A_SCORED_TOKEN = 0.001, 0.0001  # seconds, on the clock below


class Clock:
    """Time passes where something is computed, and nowhere else."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Model:
    """Takes a tenth of a millisecond per token, forwards."""

    config = SimpleNamespace(is_encoder_decoder=False)

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def get_input_embeddings(self) -> Any:
        return SimpleNamespace(num_embeddings=50)

    def modules(self) -> list[nn.Module]:
        return []

    def eval(self) -> None: ...

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> None:
        self.clock.now += A_SCORED_TOKEN * input_ids.numel()


class Session:
    """Takes a millisecond per token."""

    clipper, notes = None, ()

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def accumulate(self, batch: Any, sums: Any) -> PieceReport:
        self.clock.now += A_TOKEN * batch.inputs["input_ids"].numel()
        return PieceReport(torch.zeros(len(batch)), None, 0)


def spec(**privacy: Any) -> RunSpec:
    return RunSpec(
        data=DataSpec(dataset="demo", max_length=32),
        model=ModelSpec(),
        tuning=TuningSpec(mode="lora"),
        privacy=PrivacySpec(**{"noise_multiplier": 5.0, "target_epsilon": None, **privacy}),
        optimisation=OptimisationSpec(learning_rate=1e-3, batch_size=20, epochs=3.0),
        hardware=HardwareSpec(precision="fp32", micro_batch_tokens=64),
    )


def seconds(asked: RunSpec, lengths: Any, kind: type[Probe] = Probe) -> float:
    clock = Clock()
    rows, validation = np.asarray(lengths, dtype=np.int32), np.full(10, 8, dtype=np.int32)
    splits = {
        "train": SimpleNamespace(lengths=rows, rows=len(rows)),
        "validation": SimpleNamespace(lengths=validation, rows=10),
    }
    assembled: Any = SimpleNamespace(
        data=SimpleNamespace(splits=splits),
        model=Model(clock),
        parameters={"w": nn.Parameter(torch.zeros(3))},
        tokenizer=SimpleNamespace(model_input_names=["input_ids"]),
        task=SimpleNamespace(labels=("no", "yes")),
        pad_token_id=0,
    )
    plan = make_plan(len(rows), asked.optimisation, asked.privacy)
    found = kind(asked, assembled, plan, Session(clock), clock).seconds()  # type: ignore[arg-type]
    assert plan.steps_taken == 0
    return found


def test_memory_is_seen_at_a_piece_of_the_most_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """At bf16, in 60 tokens: one text of width 32, but two of width 24."""
    taken: list[int] = []
    accumulate = Session.accumulate

    def noted(self: Session, batch: Any, sums: Any) -> PieceReport:
        taken.append(batch.inputs["input_ids"].numel())
        return accumulate(self, batch, sums)

    monkeypatch.setattr(Session, "accumulate", noted)
    hardware = HardwareSpec(precision="bf16", micro_batch_tokens=60)
    seconds(spec().model_copy(update={"hardware": hardware}), [20] * 90 + [31] * 10)
    assert taken[0] == max(taken) == 48


@pytest.mark.parametrize("privacy", [{}, {"enabled": False}])
def test_where_time_is_exact_so_is_the_estimate(privacy: dict[str, Any]) -> None:
    rows = np.arange(100) % 20 + 4
    steps = math.ceil(3 * 100 / 20)
    tokens = sum(piece.tokens for piece in pieces_of(rows, 20, 64))
    assert seconds(spec(**privacy), rows) == pytest.approx(
        steps * tokens * A_TOKEN + 3 * 80 * A_SCORED_TOKEN
    )  # after each of three epochs, ten texts of 8 tokens are scored


def test_with_a_declared_number_nothing_follows_from_the_data() -> None:
    asked = spec(public_n=100)
    few, many = np.full(100, 5), np.arange(101) % 28 + 4
    assert seconds(asked, few) == seconds(asked, many)
    assert seconds(spec(), few) < seconds(asked, few)  # all texts count as long as they may be


def test_planted_probe_of_private_lengths_shows() -> None:
    class Leaking(Probe):
        def _lengths(self, split: Any) -> Any:
            return split.lengths.astype(np.int64)

    asked = spec(public_n=100)
    assert seconds(asked, np.full(100, 5), Leaking) != seconds(asked, np.full(100, 25), Leaking)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 120), st.integers(1, 300))
def test_pieces_are_an_average_steps(lengths: list[int], examples: int, budget: int) -> None:
    pieces = pieces_of(np.asarray(lengths), examples, budget)
    assert sum(piece.examples for piece in pieces) == examples
    assert all(piece.tokens <= budget or piece.examples == 1 for piece in pieces)
    sizes = [piece.length for piece in pieces]
    assert sizes == sorted(sizes, reverse=True)
    if examples == len(lengths):  # a step of everyone is known exactly
        rows = np.asarray(lengths)
        real = [len(p) * int(rows[p].max()) for p in micro_batches(np.arange(examples), rows, budget)]
        assert [piece.tokens for piece in pieces] == real


@pytest.mark.parametrize(
    ("mode", "privacy"),
    [
        ("lora", {}),
        ("soft-prompt", {"public_n": 60}),
        ("last-layer", {"enabled": False}),
        ("full", {"engine": "opacus"}),
    ],
)
def test_a_real_model_is_measured_without_a_trace(
    mode: str, privacy: dict[str, Any], tiny_model: Any, glue_dir: Any
) -> None:
    asked = RunSpec(
        data=DataSpec(dataset="sst2", data_dir=str(glue_dir), max_length=24),
        model=ModelSpec(checkpoint=str(tiny_model)),
        tuning=TuningSpec(mode=mode, num_prepend_tokens=4 if mode == "soft-prompt" else None),
        privacy=PrivacySpec(**{"noise_multiplier": 5.0, "target_epsilon": None, **privacy}),
        optimisation=OptimisationSpec(learning_rate=1e-3, batch_size=10, epochs=1.0),
        hardware=HardwareSpec(precision="fp32", micro_batch_tokens=256),
    )
    plain, probed = plan_run(asked), plan_run(asked, probe=True)
    assert plain.estimate is None
    assert probed.estimate is not None
    assert 0 < probed.estimate.seconds < 600
    assert probed.estimate.peak_memory_bytes is None or probed.estimate.peak_memory_bytes > 1e6
    assert (plain.planned_epsilon, plain.steps, plain.ledger) == (
        probed.planned_epsilon,
        probed.steps,
        probed.ledger,
    )
    assert Store().list() == []
    assert Ledger(Store().home, warn=print).fingerprints() == ()
