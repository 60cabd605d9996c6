"""How long a run will take, and how much memory: from a few measured micro-batches of made-up text.

The model, mode, engine, clipper, noise and optimizer are the run's own. Of the data, only lengths play a
part: the micro-batches that are timed are as long as those of an average step. So the estimate tells
something of the private texts' lengths (as a run's duration does); where the number of examples is private,
too, every text is taken to have the full length, and nothing depends on the training data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dpft.data.prepare import PreparedSplit
from dpft.engines.base import MicroBatch, Session
from dpft.privacy.pieces import by_own_length
from dpft.privacy.plan import OrdinaryPlan, PrivatePlan, make_plan
from dpft.privacy.sampling import micro_batches
from dpft.privacy.step import step
from dpft.runs.store import Store
from dpft.spec import RunSpec
from dpft.training.assemble import Assembled, open_session
from dpft.training.evaluation import resting
from dpft.training.facts import facts_of
from dpft.training.loop import begin, epoch_ended
from dpft.training.memory import peak_bytes, reset_peak
from dpft.training.observer import Estimate, Observer, RunFacts
from dpft.training.preflight import synthetic_batch
from dpft.training.spending import Spending

__all__ = ["Piece", "Probe", "estimate", "foreseen", "pieces_of"]

_MOST_PIECES = 4
_SECONDS = 10.0  # for the timed step, about
_COPY_BYTES = 4  # for each number that trains: its value before the first step, float32

Clock = Callable[[], float]


@dataclass(frozen=True)
class Piece:
    """The shape of a micro-batch: so many examples, padded to so many tokens."""

    examples: int
    length: int

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.examples * self.length


def foreseen(
    spec: RunSpec, assembled: Assembled, plan: PrivatePlan | OrdinaryPlan, observer: Observer, *, probe: bool
) -> RunFacts:
    """What is known of a run that is only planned.

    Args:
        spec: what was asked for.
        assembled: data and model; after a probe its parameters are no longer those it was loaded with.
        plan: of the run; no step of it is taken.
        observer: hears what is being done.
        probe: whether to measure time and memory.

    Raises:
        DpftError: what would stop the run before its first step.
    """
    facts = facts_of(spec, assembled, plan, run_id="", name=spec.name or "")
    effect = Spending(spec, assembled.data, plan, Store(), observer).effect()
    if probe:
        observer.working("timing a few micro-batches")
    return replace(facts, ledger=effect, estimate=estimate(spec, assembled, plan) if probe else None)


def estimate(spec: RunSpec, assembled: Assembled, plan: PrivatePlan | OrdinaryPlan) -> Estimate:
    """Take two steps of a throw-away plan, time the second, and extrapolate.

    Args:
        spec: of the run.
        assembled: data and model; its parameters are changed.
        plan: of the run; it is only read.
    """
    reset_peak()
    with open_session(spec, assembled, plan.clipper) as session:
        probe = Probe(spec, assembled, plan, session)
        seconds = probe.seconds()
    peak = peak_bytes()
    copies = _COPY_BYTES * sum(parameter.numel() for parameter in assembled.parameters.values())
    return Estimate(seconds=seconds, peak_memory_bytes=None if peak is None else peak + copies)


def pieces_of(lengths: npt.NDArray[np.integer], examples: int, token_budget: int) -> list[Piece]:
    """The micro-batches of an average step.

    Args:
        lengths: tokens of every example there is.
        examples: how many are in the step; their lengths are evenly spaced quantiles of ``lengths``.
        token_budget: tokens of a micro-batch.

    Returns:
        Longest first, as a step has them.
    """
    drawn = _drawn(lengths, examples)
    return [
        Piece(len(rows), int(drawn[rows].max()))
        for rows in micro_batches(np.arange(examples), drawn, token_budget)
    ]


def _drawn(lengths: npt.NDArray[np.integer], examples: int) -> npt.NDArray[np.integer]:
    """``examples`` evenly spaced quantiles of ``lengths``, ascending."""
    ranks = ((np.arange(examples) + 0.5) * len(lengths) / examples).astype(np.int64)
    return np.sort(lengths)[ranks]


class Probe:
    """A step, and a forward pass, timed.

    Args:
        spec: of the run.
        assembled: data and model.
        plan: of the run.
        session: the engine at work on the model.
        clock: seconds, from anywhere.
    """

    def __init__(
        self,
        spec: RunSpec,
        assembled: Assembled,
        plan: PrivatePlan | OrdinaryPlan,
        session: Session,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._spec, self._assembled, self._plan = spec, assembled, plan
        self._session, self._clock = session, clock

    def seconds(self) -> float:
        """From the first step to the last score."""
        pieces = self._pieces(self._assembled.data.splits["train"], self._plan.schedule.expected_batch_size)
        worst = self._pieces(self._assembled.data.splits["train"], 1)[0].length
        warm_up = Piece(max(1, self._spec.hardware.micro_batch_tokens // max(1, worst)), worst)
        warm_up = max(warm_up, *pieces, key=lambda piece: piece.tokens)
        fixed, rates, chosen = self._timed_step(pieces, warm_up)
        a_step = fixed + sum(piece.tokens * rates[_nearest(chosen, at)] for at, piece in enumerate(pieces))
        steps = self._plan.schedule.steps
        scorings = sum(epoch_ended(self._plan, taken) for taken in range(1, steps + 1))
        return steps * a_step + scorings * self._scoring()

    def _pieces(self, split: PreparedSplit, examples: int) -> list[Piece]:
        """Of a step with so many examples; of one, the longest there is."""
        lengths = self._lengths(split)
        budget = self._spec.hardware.micro_batch_tokens
        lengths = lengths if examples > 1 else lengths.max(keepdims=True)
        if self._spec.hardware.precision != "bf16" or not self._spec.privacy.enabled:
            return pieces_of(lengths, examples, budget)
        extra = self._spec.tuning.num_prepend_tokens or 0
        drawn = _drawn(lengths, examples) - extra
        cut = by_own_length(drawn, self._spec.data.max_length, budget, extra)
        return [Piece(len(piece.rows), (piece.width or 0) + extra) for piece in cut(np.arange(examples))]

    def _lengths(self, split: PreparedSplit) -> npt.NDArray[np.int64]:
        own = split.lengths.astype(np.int64)
        if self._plan.schedule.declared:
            own = np.full(1, self._spec.data.max_length, dtype=np.int64)
        return own + (self._spec.tuning.num_prepend_tokens or 0)

    def _timed_step(self, pieces: Sequence[Piece], warm_up: Piece) -> tuple[float, list[float], list[int]]:
        """Seconds of a step that no micro-batch takes; seconds per token of a few; and which these are."""
        privacy = self._spec.privacy.model_copy(
            update={"noise_multiplier": 1.0, "target_epsilon": None, "target_delta": None, "public_n": None}
        )
        optimisation = self._spec.optimisation.model_copy(update={"batch_size": 2, "epochs": 2.0})
        plan = make_plan(2, optimisation, privacy)
        learner = begin(self._assembled.parameters, optimisation, 2)
        took: list[float] = []

        def accumulate(batch: MicroBatch, sums: Mapping[str, Tensor]) -> None:
            began = self._clock()
            self._session.accumulate(batch, sums)
            took.append(self._clock() - began)

        def take(batches: Sequence[MicroBatch]) -> float:
            took.clear()
            began = self._clock()
            step(plan, self._assembled.parameters, lambda rows: iter(batches), accumulate)
            learner.step()
            return self._clock() - began - sum(took)

        take([self._batch(warm_up)])
        chosen = _spread(len(pieces), min(_MOST_PIECES, max(1, int(_SECONDS / max(took[0], 1e-6)))))
        fixed = take([self._batch(pieces[at]) for at in chosen])
        rates = [seconds / pieces[at].tokens for seconds, at in zip(took, chosen, strict=True)]
        return fixed, rates, chosen

    @torch.no_grad()
    def _scoring(self) -> float:
        """Seconds of one pass over the validation split."""
        name = next(name for name in self._assembled.data.splits if name != "train")
        split = self._assembled.data.splits[name]
        pieces = pieces_of(self._lengths(split), split.rows, self._spec.hardware.micro_batch_tokens)
        middle = pieces[len(pieces) // 2]
        batch = self._batch(middle)
        with resting(self._assembled.model):
            began = self._clock()
            self._assembled.model(**batch.inputs)
            rate = (self._clock() - began) / middle.tokens
        return rate * sum(piece.tokens for piece in pieces)

    def _batch(self, piece: Piece) -> MicroBatch:
        """Made-up text; virtual tokens are the model's own, and none of the text."""
        length = max(1, piece.length - (self._spec.tuning.num_prepend_tokens or 0))
        return synthetic_batch(
            self._assembled.model,
            token_types="token_type_ids" in self._assembled.tokenizer.model_input_names,
            labels=len(self._assembled.task.labels),
            pad_token_id=self._assembled.pad_token_id,
            lengths=(length,) * piece.examples,
        )


def _spread(count: int, most: int) -> list[int]:
    """Up to ``most`` of ``count`` positions, evenly.

    >>> _spread(10, 4), _spread(2, 4), _spread(9, 1)
    ([1, 3, 6, 8], [0, 1], [4])
    """
    few = min(count, most)
    return [int((index + 0.5) * count / few) for index in range(few)]


def _nearest(positions: Sequence[int], at: int) -> int:
    """Which of ``positions`` is next to ``at``."""
    return min(range(len(positions)), key=lambda index: abs(positions[index] - at))
