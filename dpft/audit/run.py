"""The story of an audit, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from dpft.audit.bench import Bench, Entropy, Parts
from dpft.audit.black_box import judge_losses, text_losses
from dpft.audit.chance import check_noise, check_noise_independence, check_sampler, check_tails
from dpft.audit.claim import Claim
from dpft.audit.conformance import (
    check_company,
    check_coverage,
    check_empty_batch,
    check_exactness,
    check_hostile,
    check_micro_batches,
    check_non_finite,
    check_normaliser,
    check_sensitivity,
)
from dpft.audit.faults import FAULTS, Fault
from dpft.audit.result import LAYERS, AuditResult, Check, Layer
from dpft.audit.simulate import Reference, simulate
from dpft.audit.subject import LONGEST, Subject, make_rows
from dpft.audit.white_box import canary_norm, judge, observe
from dpft.engines.base import Engine
from dpft.errors import PrivacyError, RoundingError, UsageError
from dpft.privacy.plan import PrivatePlan, make_plan
from dpft.spec import ModelSpec, OptimisationSpec, PrivacySpec, TuningSpec, check_keeps_apart
from dpft.tables import ENGINES, MODES
from dpft.training.observer import Observer
from dpft.training.precision import chosen
from dpft.training.rounding import check_rounding
from dpft.tuning.base import load_model, load_tokenizer, locate
from dpft.tuning.mode import Mode

__all__ = ["CONFORMANCE", "AuditSpec", "PlantedResult", "SelfTest", "audit", "lay_out", "self_test"]

CONFORMANCE: tuple[tuple[str, Callable[[Bench], Check]], ...] = (
    ("exactness", check_exactness),
    ("coverage", check_coverage),
    ("sensitivity", check_sensitivity),
    ("company", check_company),
    ("hostile example", check_hostile),
    ("non-finite example", check_non_finite),
    ("micro-batches", check_micro_batches),
    ("normaliser", check_normaliser),
    ("empty batch", check_empty_batch),
    ("noise per tensor", check_noise),
    ("noise independence", check_noise_independence),
    ("noise tails", check_tails),
    ("sampler", check_sampler),
)
"""Layer 1, in order."""

_MOST_TOGETHER = 16  # rows of one micro-batch, in checks that put examples together
_REPORTS = 4  # of progress through the steps


@dataclass(frozen=True)
class AuditSpec:
    """What to audit, and how hard.

    Attributes:
        model: the pretrained model.
        tuning: the fine-tune mode.
        privacy: what is promised; σ, or a target ε for which σ is calibrated over the audited steps.
        labels: label names of the task.
        sample_rate: q, in (0, 1]; met as nearly as whole batches allow.
        learning_rate: of the training steps; None for the mode's default.
        steps: T of the white-box run, at least 2.
        canaries: m, at least 32.
        texts: ordinary examples beside the canaries, at least 32.
        layers: which layers.
        precision: at which the run trains, "fp32" or "bf16"; None for what ``auto`` stands for here.
        max_length: of the run's texts, and
        micro_batch_tokens: of its micro-batches: at bf16 these shapes are looked at too; None without a run.
        run_id: the run whose settings these are.
    """

    model: ModelSpec
    tuning: TuningSpec
    privacy: PrivacySpec
    labels: tuple[str, ...] = ("0", "1")
    sample_rate: float = 0.125
    learning_rate: float | None = None
    steps: int = 64
    canaries: int = 512
    texts: int = 64
    layers: Sequence[Layer] = LAYERS
    precision: Literal["fp32", "bf16"] | None = None
    max_length: int | None = None
    micro_batch_tokens: int | None = None
    run_id: str | None = None

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--steps", self.steps, 2),
            ("--canaries", self.canaries, 32),
            ("texts", self.texts, 32),
        ):
            if not value >= least:
                raise UsageError(f"{name} is {value}", hint=f"give at least {least}: fewer show nothing")
        if self.precision not in (None, "fp32", "bf16"):
            raise UsageError(f"unknown precision {self.precision!r}", hint="choose from: fp32, bf16")
        check_keeps_apart(self.privacy, self.precision or "fp32")
        if not 0 < self.sample_rate <= 1:
            raise UsageError(f"the sample rate is {self.sample_rate}", hint="give a number in (0, 1]")
        if not self.privacy.enabled:
            raise UsageError(
                "there is no promise to audit: the run is not private",
                hint="choose a run with a privacy claim",
            )


@dataclass(frozen=True)
class PlantedResult:
    """What the audit made of one planted fault; ``fault`` is None for the clean parts."""

    fault: Fault | None
    result: AuditResult

    @property
    def caught_by(self) -> list[str]:
        """Checks that failed."""
        return [check.name for check in self.result.failed]

    @property
    def right(self) -> bool:
        """A fault is caught by every check that must notice it; the clean parts by none."""
        return self.result.ok if self.fault is None else set(self.fault.expected) <= {*self.caught_by}


@dataclass(frozen=True)
class SelfTest:
    """All planted faults, the clean parts first."""

    planted: Sequence[PlantedResult]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the audit can be relied on to find these faults."""
        return all(planted.right for planted in self.planted)

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return {
            "ok": self.ok,
            "planted": [
                {
                    "fault": planted.fault.name if planted.fault is not None else None,
                    "caught": not planted.result.ok,
                    "as_expected": planted.right,
                    "expected": list(planted.fault.expected) if planted.fault is not None else [],
                    "caught_by": planted.caught_by,
                    "seconds": planted.result.seconds,
                }
                for planted in self.planted
            ],
            "seconds": self.seconds,
        }


def audit(
    spec: AuditSpec, observer: Observer | None = None, *, parts: Parts | None = None, seed: int | None = None
) -> AuditResult:
    """Audit the production step, on the user's model and mode.

    Args:
        spec: what to audit.
        observer: hears what is being done.
        parts: what makes up a step; None (always, outside tests) for production.
        seed: of all chance; None (always, outside tests) for the operating system's.

    Raises:
        DpftError: the subject cannot be put together; a violation is a result, and raises nothing.
    """
    observer = observer or Observer()
    bench = lay_out(spec, observer, parts=parts, entropy=Entropy(seed))
    return _Audit(spec, bench, observer).go()


def self_test(
    spec: AuditSpec,
    observer: Observer | None = None,
    *,
    faults: Sequence[Fault] = FAULTS,
    seed: int | None = None,
) -> SelfTest:
    """Plant each fault around the production parts, and see whether the audit notices.

    Raises:
        DpftError: the subject cannot be put together.
    """
    observer = observer or Observer()
    began = time.monotonic()
    spec = replace(spec, layers=[layer for layer in LAYERS if layer != "black-box"])
    bench = lay_out(spec, observer, entropy=Entropy(seed))
    clean = _Audit(spec, bench, observer)
    planted = [PlantedResult(None, clean.go())]
    for fault in faults:
        observer.working(f"planting: {fault.name}")
        faulty = replace(bench, parts=fault.plant(bench.parts))
        planted.append(PlantedResult(fault, _Audit(spec, faulty, Observer(), clean.reference).go()))
    return SelfTest(planted, time.monotonic() - began)


def lay_out(
    spec: AuditSpec, observer: Observer, *, parts: Parts | None = None, entropy: Entropy | None = None
) -> Bench:
    """Load the model, tune it, append the audit vector, make up a dataset, settle σ and the claim.

    Raises:
        DpftError: of the kind that says what cannot be loaded, tuned or promised.
    """
    entropy = entropy or Entropy()
    observer.working(f"loading {spec.model.checkpoint}")
    examples, batch = _size(spec)
    tokenizer = load_tokenizer(spec.model)
    rows = make_rows(
        tokenizer,
        canaries=spec.canaries,
        texts=examples - spec.canaries,
        labels=len(spec.labels),
        generator=entropy.generator(),
    )
    mode: Mode = MODES.get(spec.tuning.mode)
    base = load_model(spec.model, spec.labels, tokenizer.pad_token_id)
    model = mode.apply(base, spec.tuning).eval()
    observer.working("settling the claim")
    plan = _production_plan(spec, examples, batch)
    event = plan.planned_event
    privacy = spec.privacy.model_copy(
        update={"target_epsilon": None, "noise_multiplier": event.noise_multiplier}
    )
    claim = Claim.of(
        examples=examples,
        expected_batch_size=batch,
        sensitivity=plan.clipper.sensitivity,
        noise_multiplier=event.noise_multiplier,
        steps=spec.steps,
        delta=plan.schedule.delta,
    )
    subject = Subject.of(
        model,
        spec.tuning,
        rows,
        pad_token_id=int(tokenizer.pad_token_id or 0),
        labels=len(spec.labels),
        sensitivity=claim.sensitivity,
        precision=spec.precision or chosen(spec.tuning, spec.privacy, model),
    )
    engine: Engine = ENGINES.get(spec.privacy.engine)
    bench = Bench(parts or Parts(engine), subject, claim, privacy, entropy)
    with engine.session(subject.model, subject.parameters, plan.clipper, subject.precision):
        pass  # what cannot be clipped at all is refused as it is in training
    if subject.precision == "bf16":
        observer.working("looking at how bf16 rounds here")
        try:
            _check_rounding(spec, subject, model, plan)
        except RoundingError as error:
            if spec.precision is None:
                return lay_out(replace(spec, precision="fp32"), observer, parts=parts, entropy=entropy)
            other = "audit the run on a machine and with versions like those that trained it"
            raise RoundingError(error.message, hint=other if spec.run_id else error.hint) from error
    return bench


def _check_rounding(spec: AuditSpec, subject: Subject, model: Any, plan: PrivatePlan) -> None:
    """What training does before its first step at bf16, in the audit's shapes and, of a run, in the run's.

    Raises:
        RoundingError: an example's rounding depends on its company.
    """
    shapes = [(LONGEST, _MOST_TOGETHER * (LONGEST + subject.extra_tokens))]
    if spec.max_length is not None and spec.micro_batch_tokens is not None:
        shapes.append((spec.max_length, spec.micro_batch_tokens))
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for longest, token_budget in shapes:
        check_rounding(
            ENGINES.get(spec.privacy.engine),
            model,
            parameters,
            plan.clipper,
            longest=longest,
            token_budget=token_budget,
            extra_tokens=subject.extra_tokens,
            token_types=subject.rows.split.token_type_ids is not None,
            pad_token_id=subject.pad_token_id,
            labels=subject.labels,
        )


def _size(spec: AuditSpec) -> tuple[int, int]:
    """Rows and expected batch of the synthetic dataset: enough rows, and a rate near the asked one."""
    least = spec.canaries + spec.texts
    batch = max(1, math.ceil(spec.sample_rate * least))
    return max(least, round(batch / spec.sample_rate)), batch


def _production_plan(spec: AuditSpec, examples: int, batch: int) -> PrivatePlan:
    optimisation = OptimisationSpec(
        learning_rate=1.0, batch_size=batch, epochs=(spec.steps - 0.5) * batch / examples
    )
    plan = make_plan(examples, optimisation, spec.privacy)
    assert isinstance(plan, PrivatePlan)
    assert plan.schedule.steps == spec.steps
    return plan


class _Audit:
    """One audit while it is made."""

    def __init__(
        self, spec: AuditSpec, bench: Bench, observer: Observer, reference: Reference | None = None
    ) -> None:
        self.spec, self.bench, self.observer, self.reference = spec, bench, observer, reference
        self._checks: list[Check] = []

    def go(self) -> AuditResult:
        """Ask everything."""
        began = time.monotonic()
        with _preserved(self.bench.subject):
            if "conformance" in self.spec.layers:
                for name, check in CONFORMANCE:
                    self.observer.working(f"conformance: {name}")
                    self._checks.append(_ask(name, check, self.bench))
            if {"white-box", "black-box"} & {*self.spec.layers}:
                self._train()
        spec = self.spec
        return AuditResult(
            model=locate(spec.model).public_id,
            finetune_mode=spec.tuning.mode,
            engine=self.bench.parts.engine.name,
            clipping=spec.privacy.clipping,
            precision=self.bench.subject.precision,
            claim=self.bench.claim,
            canaries=spec.canaries,
            checks=tuple(self._checks),
            seconds=round(time.monotonic() - began, 3),
            run_id=spec.run_id,
        )

    def _train(self) -> None:
        bench = self.bench
        canary = canary_norm(bench)
        if self.reference is None:
            self.observer.working("simulating the claimed mechanism")
            self.reference = simulate(bench.claim, self.spec.canaries, canary, bench.entropy.generator())
        before = text_losses(bench)
        mode: Mode = MODES.get(self.spec.tuning.mode)
        try:
            seen = observe(
                bench,
                learning_rate=self.spec.learning_rate or mode.defaults.learning_rate,
                progressed=self._progressed,
            )
        except PrivacyError as error:
            detail = f"the step refused: {error.message}"
            self._checks.append(Check("training", "white-box", "fail", detail))
            return
        if "white-box" in self.spec.layers:
            self._checks += judge(bench, seen, self.reference, canary)
        if "black-box" in self.spec.layers:
            self._checks.append(judge_losses(bench, before, text_losses(bench)))

    def _progressed(self, step: int) -> None:
        if step % math.ceil(self.spec.steps / _REPORTS) == 0:
            self.observer.working(f"white-box: step {step} of {self.spec.steps}")


def _ask(name: str, check: Callable[[Bench], Check], bench: Bench) -> Check:
    """A check's answer; a refusal of the production code is a failure to do what is claimed."""
    try:
        return check(bench)
    except PrivacyError as error:
        return Check(name, "conformance", "fail", f"the step refused: {error.message}")


@contextmanager
def _preserved(subject: Subject) -> Iterator[None]:
    """Put the weights back afterwards, so that audits of one subject do not depend on each other."""
    before = {name: p.detach().clone() for name, p in subject.parameters.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                subject.parameters[name].copy_(value)
                subject.parameters[name].grad = None
