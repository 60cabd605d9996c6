"""What ``dpft doctor`` looks at: does this machine, and this model in this mode, keep what a run promises?

The checks are those that ``train`` makes before its first step (:mod:`dpft.training.preflight`), on more
texts and with figures; and some that it cannot afford, such as a whole private step. No data is read: all
texts are made up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PldAccountant
from dpft.engines import oracle
from dpft.engines.base import Engine, MicroBatch
from dpft.errors import EntropyError, PrivacyError, RoundingError, UnsupportedLayerError
from dpft.privacy.clipping import Clipper
from dpft.privacy.noise import KEY_BYTES, KeyStream
from dpft.privacy.plan import make_plan
from dpft.privacy.step import step
from dpft.privacy.tape import Tape
from dpft.runs.health import Check, attempt
from dpft.spec import OptimisationSpec, RunSpec
from dpft.tables import CLIPPERS, ENGINES
from dpft.training.assemble import tuned_model
from dpft.training.loop import make_optimizer
from dpft.training.memory import Memory, measure
from dpft.training.observer import Observer
from dpft.training.precision import at, settled
from dpft.training.preflight import LENGTHS, check_reachable, compare_engine, synthetic_batch
from dpft.training.rounding import check_rounding
from dpft.tuning.base import load_tokenizer

__all__ = ["Diagnosis", "Layers", "check_environment", "diagnose"]

_LABELS = ("no", "yes")
_LONG = (48, 31, 17, 5, 1)  # lengths of the second batch; its first row is one token over and over
_ADAM_BYTES = 8  # for each number that trains: two moments, float32
_SLACK = 1e-6  # what one example delivers has norm at most C(1 + this)
# AES-256 of a zero block under the zero key (McGrew & Viega 2005, test case 13: the hash subkey).
_KNOWN_BLOCK = "dc95c078a2408989ad48a21492842087"
_KNOWN_EVENT, _KNOWN_DELTA, _KNOWN_EPSILON = MechanismEvent(0.1, 3.0, 512), 1e-6, 3.7697


@dataclass(frozen=True)
class Layers:
    """How many trainable parameters a layer rule (or a kind of layer) is for.

    Attributes:
        rule: name in ``tables.RULES``; of other engines, the class of the layer.
        parameters: tensors.
        numbers: in them.
    """

    rule: str
    parameters: int
    numbers: int


@dataclass(frozen=True)
class Diagnosis:
    """What was found of a model in its mode.

    Attributes:
        checks: in the order they were made.
        layers: by rule, most numbers first.
        notes: what is slow, in sentences.
        trainable_parameters: numbers that train.
        all_parameters: numbers in all.
        memory: micro-batches by size; None where the engine failed.
        precision: at which it was looked at.
    """

    checks: tuple[Check, ...]
    layers: tuple[Layers, ...]
    notes: tuple[str, ...]
    trainable_parameters: int
    all_parameters: int
    memory: Memory | None
    precision: str


def check_environment() -> list[Check]:
    """Randomness and accounting, on this machine with these versions."""
    return [
        attempt("entropy", _entropy, private=True),
        attempt("accounting", _accounting, private=True),
    ]


def _entropy() -> str:
    if KeyStream(bytes(KEY_BYTES)).bytes(16).hex() != _KNOWN_BLOCK:
        raise EntropyError("AES-256 does not give its known answer", hint="reinstall cryptography")
    if KeyStream().bytes(32) == KeyStream().bytes(32):
        raise EntropyError("the operating system gave the same key twice", hint="check its random generator")
    return f"{KeyStream.description}; known answer given"


def _accounting() -> str:
    found = PldAccountant(interval=1e-3).epsilon([_KNOWN_EVENT], _KNOWN_DELTA)
    if not _KNOWN_EPSILON - 1e-3 <= found <= _KNOWN_EPSILON + 1e-2:
        raise PrivacyError(
            f"ε of a known mechanism is {found:.4f}, not {_KNOWN_EPSILON}",
            hint="install the version of dp-accounting that dpft asks for",
        )
    return f"ε of a known mechanism is {found:.4f}, as it should be"


def diagnose(spec: RunSpec, observer: Observer | None = None) -> Diagnosis:
    """Load the model of ``spec``, put it in its mode, and look.

    Args:
        spec: as of a run; its dataset is not read.
        observer: hears what is being done.

    Raises:
        DpftError: the model cannot be loaded or tuned so.
    """
    observer = observer or Observer()
    observer.working(f"loading {spec.model.checkpoint}")
    patient = _Patient(spec, observer)
    found = patient.examined()
    if spec.hardware.precision != "auto" or patient.rounds is None:
        return found
    found = _Patient(at("fp32", spec), observer).examined()  # as training would
    return replace(found, notes=(*found.notes, f"training would be at fp32: {patient.rounds}"))


class _Patient:
    """A model in its mode, on the table."""

    def __init__(self, spec: RunSpec, observer: Observer) -> None:
        self.observer = observer
        self.tokenizer = load_tokenizer(spec.model)
        tuned = tuned_model(spec, _LABELS, self.tokenizer)
        self.model: Any = tuned.model.eval()
        self.spec = settled(spec, self.model)
        self.parameters = tuned.parameters
        self.engine: Engine = ENGINES.get(spec.privacy.engine)
        self.notes: tuple[str, ...] = ()
        self.rounds: str | None = None

    def examined(self) -> Diagnosis:
        """All checks; the costly ones only if the engine is exact."""
        self.observer.working("comparing with each example alone")
        checks = [
            attempt("reach", self._reach, private=True),
            attempt("norms", self._norms, private=True),
        ]
        works = all(check.ok for check in checks)
        if works:
            checks.append(attempt("bound", self._bound, private=True))
            if self.spec.hardware.precision == "bf16":
                checks.append(attempt("rounding", self._rounding, private=True))
            self.observer.working("taking a private step")
            checks.append(attempt("moves", self._moves, private=True))
        else:
            checks += [
                Check(name, None, "the engine is not exact here", private=True) for name in ("bound", "moves")
            ]
        memory = None
        if works:
            self.observer.working("measuring micro-batches")
            memory = self._memory()
        return Diagnosis(
            checks=tuple(checks),
            layers=self._layers(),
            notes=self.notes,
            trainable_parameters=sum(p.numel() for p in self.parameters.values()),
            all_parameters=sum(p.numel() for p in self.model.parameters()),
            memory=memory,
            precision=self.spec.hardware.precision,
        )

    def _batch(self, lengths: tuple[int, ...] = LENGTHS, *, repeated: bool = False) -> MicroBatch:
        return synthetic_batch(
            self.model,
            token_types="token_type_ids" in self.tokenizer.model_input_names,
            labels=len(_LABELS),
            pad_token_id=int(self.tokenizer.pad_token_id or 0),
            lengths=lengths,
            repeated=repeated,
        )

    def _clipper(self, max_grad_norm: float) -> Clipper:
        clipper: Clipper = CLIPPERS.get(self.spec.privacy.clipping)(max_grad_norm)
        return clipper

    def _reach(self) -> str:
        check_reachable(self.model, self.parameters, self._batch())
        return f"the output depends on all {len(self.parameters)} trainable parameters"

    def _norms(self) -> str:
        longest = self.spec.data.max_length
        long = tuple(min(length, longest) for length in _LONG)
        norm_error = sum_error = 0.0
        for batch in (self._batch(), self._batch(long, repeated=True)):
            found = compare_engine(self.engine, self.model, self.parameters, batch, self._clipper)
            self.notes = tuple(dict.fromkeys((*self.notes, *found.notes)))
            norm_error, sum_error = max(norm_error, found.norm_error), max(sum_error, found.sum_error)
            if not found.holds:
                raise PrivacyError(
                    f"against each example alone, norms differ by {found.norm_error:.2g} and the clipped sum "
                    f"by {found.sum_error:.2g} (relative), most at {found.worst!r}",
                    hint="choose another model, --finetune-mode or --engine",
                )
        return (
            f"equal to each example alone: norms to {norm_error:.1g}, clipped sums to {sum_error:.1g} "
            f"(texts of 1 to {max(long)} tokens, padding, repeated tokens)"
        )

    def _bound(self) -> str:
        """At the precision that was asked for, each example on its own."""
        batch = self._batch()
        _, norms = oracle.clipped_sum(oracle.per_example_gradients(self.model, self.parameters, batch), 1.0)
        clipper = self._clipper(float(norms.min()) / 2)
        worst = 0.0
        with self.engine.session(
            self.model, self.parameters, clipper, self.spec.hardware.precision
        ) as session:
            for row in range(len(batch)):
                sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in self.parameters.items()}
                session.accumulate(_rows(batch, [row]), sums)
                delivered = math.sqrt(sum(float(value.double().square().sum()) for value in sums.values()))
                worst = max(worst, delivered / clipper.sensitivity)
        if not worst <= 1 + _SLACK:
            raise PrivacyError(
                f"an example contributes {worst:.8g} times the clipping norm",
                hint="give --precision fp32, or choose another --engine",
            )
        precision = self.spec.hardware.precision
        return f"an example contributes at most {worst:.7f} of the clipping norm, at {precision}"

    def _rounding(self) -> str:
        """At bf16, each example in several companies."""
        batch = self._batch()
        try:
            check_rounding(
                self.engine,
                self.model,
                self.parameters,
                self._clipper(1.0),
                longest=self.spec.data.max_length,
                token_budget=self.spec.hardware.micro_batch_tokens,
                extra_tokens=self.spec.tuning.num_prepend_tokens or 0,
                token_types="token_type_ids" in batch.inputs,
                pad_token_id=int(self.tokenizer.pad_token_id or 0),
                labels=len(_LABELS),
            )
        except RoundingError as error:
            self.rounds = error.message  # not itself: it holds on to all that was at work
            raise
        return "bf16 rounds an example alike alone and in company, to the last bit of its loss"

    def _moves(self) -> str:
        """A private step on the made-up texts; afterwards the model is as it was."""
        batch = self._batch()
        before = {name: p.detach().clone() for name, p in self.parameters.items()}
        rate = self.spec.optimisation.learning_rate
        optimisation = OptimisationSpec(learning_rate=rate, batch_size=len(batch), epochs=1)
        privacy = self.spec.privacy.model_copy(
            update={"noise_multiplier": 1.0, "target_epsilon": None, "target_delta": None, "public_n": None}
        )
        plan = make_plan(len(batch), optimisation, privacy)
        assert plan.clipper is not None
        optimizer, _ = make_optimizer(self.parameters, optimisation, 1)
        try:
            with self.engine.session(
                self.model, self.parameters, plan.clipper, self.spec.hardware.precision
            ) as session:

                def accumulate(piece: MicroBatch, sums: Mapping[str, Tensor]) -> None:
                    session.accumulate(piece, sums)

                step(plan, self.parameters, lambda rows: [_rows(batch, rows.tolist())], accumulate)
                optimizer.step()
            still = [name for name, p in self.parameters.items() if torch.equal(before[name], p)]
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(before[name])
                    parameter.grad = None
        if still:
            raise PrivacyError(
                f"{len(still)} trainable parameters did not move, {still[0]} among them",
                hint="choose another --finetune-mode",
            )
        return f"one private step moved all {len(self.parameters)} trainable parameters"

    def _memory(self) -> Memory:
        length = self.spec.data.max_length
        sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in self.parameters.items()}
        adam = _ADAM_BYTES * sum(value.numel() for value in sums.values())
        with self.engine.session(
            self.model, self.parameters, self._clipper(1.0), self.spec.hardware.precision
        ) as session:

            def run(examples: int) -> None:
                session.accumulate(self._batch((length,) * examples), sums)

            return measure(run, length, extra_bytes=adam)

    def _layers(self) -> tuple[Layers, ...]:
        rules = _rules(self.engine, self.model, self.parameters)
        tensors, numbers = Counter(rules.values()), Counter[str]()
        for name, rule in rules.items():
            numbers[rule] += self.parameters[name].numel()
        return tuple(Layers(rule, tensors[rule], count) for rule, count in numbers.most_common())


def _rules(engine: Engine, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """What differentiates each parameter, by name."""
    if engine.name != "dpft":
        return dict(_owners(model, parameters))
    try:
        return Tape(model, parameters).rules
    except UnsupportedLayerError:
        return dict.fromkeys(parameters, "none (one example at a time)")
    except PrivacyError:  # a layer that mixes examples; the checks say which
        return dict.fromkeys(parameters, "refused")


def _owners(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, str]]:
    for name in parameters:
        yield name, type(model.get_submodule(name.rpartition(".")[0])).__name__


def _rows(batch: MicroBatch, rows: list[int]) -> MicroBatch:
    return MicroBatch({key: value[rows] for key, value in batch.inputs.items()}, batch.labels[rows])
