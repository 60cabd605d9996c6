"""Clean production parts pass in every mode; each planted fault is found, by the check that is for it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from dpft.audit import run, subject
from dpft.audit.bench import Bench, Entropy, Parts
from dpft.audit.conformance import _dropped
from dpft.audit.faults import FAULTS, Fault
from dpft.audit.result import NO_VIOLATION, VIOLATION, AuditResult
from dpft.audit.run import CONFORMANCE, _ask, _Audit, audit, lay_out, self_test
from dpft.audit.simulate import simulate
from dpft.audit.white_box import canary_norm, judge, observe
from dpft.errors import PrivacyError, RoundingError, UsageError
from dpft.privacy.pieces import as_they_come, by_own_length, rows_of
from dpft.spec import ModelSpec
from dpft.tables import CLIPPERS, ENGINES, MODES
from dpft.training.observer import Observer

from .conftest import SpecMaker

SEED = 1
NAMED_BY_THE_BRIEF = {
    "noise halved", "noise × 0.9", "no noise", "noise repeated", "clipping off", "sample rate doubled",
    "batches shuffled", "empty batches skipped", "head not clipped", "divided by the realised batch",
}  # fmt: skip


def failures(result: AuditResult) -> dict[str, str]:
    return {check.name: check.detail for check in result.failed}


@pytest.mark.statistical
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", MODES.names())
def test_clean_parts_pass_in_every_mode(spec_of: SpecMaker, mode: str, precision: str) -> None:
    """All that depends on the mode; the rest is asked once, below."""
    laid_out = lay_out(spec_of(mode, precision=precision), Observer(), entropy=Entropy(SEED))
    apart = {"empty batch", "noise independence", "noise tails", "sampler"}
    found = [_ask(name, check, laid_out) for name, check in CONFORMANCE if name not in apart]
    assert {check.name: check.detail for check in found if check.verdict != "pass"} == {}


@pytest.mark.statistical
@pytest.mark.parametrize("clipping", [name for name in CLIPPERS if name != "flat"])
def test_clean_parts_pass_with_every_clipper(spec_of: SpecMaker, clipping: str) -> None:
    result = audit(spec_of("ia3", privacy={"clipping": clipping}), seed=SEED)
    assert failures(result) == {}


@pytest.fixture(scope="module")
def whole(spec_of: SpecMaker) -> AuditResult:
    return audit(spec_of("last-layer"), seed=SEED)


def test_a_clean_audit_asks_everything_and_finds_nothing(whole: AuditResult) -> None:
    assert failures(whole) == {}
    assert whole.verdict == NO_VIOLATION
    assert [check.name for check in whole.checks[: len(CONFORMANCE)]] == [name for name, _ in CONFORMANCE]
    assert {check.layer for check in whole.checks} == {"conformance", "white-box", "black-box"}
    assert [check.layer for check in whole.checks if check.verdict == "informational"] == ["black-box"]


def test_false_alarms_are_rare_and_stated(whole: AuditResult) -> None:
    assert 1e-3 <= whole.false_alarm_rate <= 1.5e-3
    chanceless = {"exactness", "sensitivity", "hostile example", "normaliser", "noise tails", "accounting"}
    for check in whole.checks:
        if check.name in chanceless:
            assert check.false_alarm_rate == 0.0


def test_the_document_is_plain_and_says_no_more_than_was_shown(whole: AuditResult) -> None:
    text = json.dumps(whole.to_json(), allow_nan=False)
    assert "verified" not in text
    document = json.loads(text)
    assert document["ok"] is True
    assert document["verdict"] == "no violation found"
    assert document["claim"]["sample_rate"] == 0.125
    assert len({check["name"] for check in document["checks"]}) == len(document["checks"])


def test_the_weights_are_put_back(bench: Bench, spec_of: SpecMaker) -> None:
    before = {name: p.detach().clone() for name, p in bench.subject.parameters.items()}
    _Audit(spec_of(layers=("white-box",)), bench, Observer()).go()
    assert all(bool((before[name] == p).all()) for name, p in bench.subject.parameters.items())


# -- planted faults


def by_name(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


def test_every_fault_that_must_be_planted_is() -> None:
    assert {fault.name for fault in FAULTS} >= NAMED_BY_THE_BRIEF


@pytest.mark.statistical
@pytest.mark.parametrize("name", [fault.name for fault in FAULTS])
def test_each_planted_fault_is_caught_by_name(at_any_precision: Bench, name: str) -> None:
    """Only the checks that must notice it are asked; all of them do."""
    bench, fault = at_any_precision, by_name(name)
    faulty = replace(bench, parts=fault.plant(bench.parts), entropy=Entropy(SEED))
    asked = [(check, function) for check, function in CONFORMANCE if check in fault.expected]
    found = [_ask(check, function, faulty) for check, function in asked]
    assert [check.verdict for check in found] == ["fail"] * len(asked)
    others = set(fault.expected) - {check for check, _ in asked}
    if others:
        canary = canary_norm(bench)
        reference = simulate(bench.claim, 64, canary, Entropy(SEED).generator())
        seen = observe(faulty, learning_rate=1e-3)
        verdicts = {check.name: check.verdict for check in judge(faulty, seen, reference, canary)}
        assert {verdicts[name] for name in others} == {"fail"}


@pytest.mark.slow
def test_planted_padding_in_common_is_noticed_at_bf16(
    spec_of: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(spec_of(precision="bf16"), model=ModelSpec(checkpoint="builtin:minilm"))
    bench = lay_out(spec, Observer(), entropy=Entropy(SEED))
    asked = [dict(CONFORMANCE)[name] for name in ("sensitivity", "company", "micro-batches")]
    assert [check(bench).verdict for check in asked] == ["pass", "pass", "pass"]

    def in_common(lengths: Any, longest: int, tokens: int, extra: int) -> Any:
        return as_they_come(lengths + extra, tokens)

    def to_the_longest_drawn(lengths: Any, longest: int, tokens: int, extra: int) -> Any:
        own = by_own_length(lengths, longest, tokens, extra)
        return lambda rows: (replace(piece, width=int(lengths[rows].max())) for piece in own(rows))

    monkeypatch.setattr(subject, "by_own_length", in_common)
    assert [check(bench).verdict for check in asked[1:]] == ["fail", "fail"]
    monkeypatch.setattr(subject, "by_own_length", to_the_longest_drawn)
    assert dict(CONFORMANCE)["company"](bench).verdict == "fail"


def test_a_poisoned_example_is_counted_once_though_its_copies_fill_the_batch(
    at_any_precision: Bench,
) -> None:
    bench = at_any_precision
    rows = bench.subject.typical[:3]
    gains = torch.tensor([float("nan"), 1.0, 1.0])
    with bench.session(bench.plan()) as session:
        pieces = list(bench.together(rows, gains))
        reports = [session.accumulate(piece, bench.zeros()) for piece in pieces]
    assert sum(piece.fill for piece in pieces) == (1 if bench.subject.precision == "bf16" else 0)
    assert sum(_dropped(report, piece) for report, piece in zip(reports, pieces, strict=True)) == 1


def test_where_rounding_tells_there_is_no_audit_at_bf16(
    spec_of: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, longest: int, token_budget: int, **more: object) -> None:
        looked_at.append(longest)
        rows.append(rows_of(longest, token_budget))
        if longest == 48:
            raise RoundingError("rounds by its company", hint="give --precision fp32")

    looked_at: list[int] = []
    rows: list[int] = []
    monkeypatch.setattr(run, "check_rounding", refuse)
    lay_out(spec_of(), Observer())
    assert looked_at == []
    of_run = {"precision": "bf16", "max_length": 48, "micro_batch_tokens": 512, "run_id": "a" * 16}
    with pytest.raises(PrivacyError) as caught:
        lay_out(spec_of(**of_run), Observer())
    assert looked_at == [subject.LONGEST, 48]
    assert rows == [16, 8]  # the most that the audit's own checks put together; the run's 512 tokens
    assert "like those that trained it" in caught.value.hint
    monkeypatch.setattr(run, "chosen", lambda *_: "bf16")
    monkeypatch.setattr(run, "LONGEST", 48)
    assert lay_out(spec_of(precision=None), Observer()).subject.precision == "fp32"  # as training would be


def test_what_training_refuses_is_not_audited(spec_of: SpecMaker) -> None:
    with pytest.raises(PrivacyError, match="'opacus' at precision bf16"):
        spec_of(precision="bf16", privacy={"engine": "opacus"})
    with pytest.raises(UsageError, match="unknown precision"):
        spec_of(precision="auto")


@pytest.mark.statistical
def test_each_check_passes_where_it_is_not_broken(bench: Bench) -> None:
    """The checks are not all alarms of one kind: a sampling fault leaves clipping alone, and so on."""
    alone = {
        "empty batches skipped": "empty batch",
        "noise from float32": "noise tails",
    }
    for name, only in alone.items():
        faulty = replace(bench, parts=by_name(name).plant(bench.parts), entropy=Entropy(SEED))
        failed = {check for check, function in CONFORMANCE if _ask(check, function, faulty).verdict == "fail"}
        assert failed == {only}


def test_a_step_that_refuses_is_a_failed_check(bench: Bench) -> None:
    def refuses(*arguments: object) -> None:
        from dpft.errors import PrivacyError

        raise PrivacyError("out of order")

    faulty = replace(bench, parts=replace(bench.parts, step=refuses))
    found = _ask("normaliser", dict(CONFORMANCE)["normaliser"], faulty)
    assert found.verdict == "fail"
    assert "out of order" in found.detail


@pytest.mark.statistical
def test_self_test_tells_which_check_caught_what(spec_of: SpecMaker) -> None:
    blind = Fault("a fault nobody looks for", lambda parts: parts, ("sampler",))
    found = self_test(spec_of("last-layer"), faults=(by_name("sample rate doubled"), blind), seed=SEED)
    clean, doubled, unseen = found.planted
    assert clean.right
    assert doubled.right
    assert doubled.caught_by[0] == "sampler"
    assert doubled.result.verdict == VIOLATION
    assert not unseen.right
    assert not found.ok
    assert found.to_json()["planted"][2] == {
        "fault": "a fault nobody looks for",
        "caught": False,
        "as_expected": False,
        "expected": ["sampler"],
        "caught_by": [],
        "seconds": unseen.result.seconds,
    }


# -- what is asked for


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"steps": 1}, "--steps is 1"),
        ({"canaries": 8}, "--canaries is 8"),
        ({"sample_rate": 0.0}, "sample rate is 0.0"),
        ({"sample_rate": float("nan")}, "sample rate is nan"),
        ({"privacy": {"enabled": False}}, "not private"),
    ],
)
def test_an_audit_that_shows_nothing_is_refused(
    spec_of: SpecMaker, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        spec_of(**changes)


@pytest.mark.parametrize("rate", [1.0, 0.3, 0.0152, 0.001])
def test_the_asked_sample_rate_is_met(spec_of: SpecMaker, rate: float) -> None:
    from dpft.audit.run import _size

    examples, batch = _size(spec_of(sample_rate=rate))
    assert examples >= 96
    assert batch / examples == pytest.approx(rate, rel=0.01)


def test_production_parts_are_the_default() -> None:
    from dpft.privacy.plan import make_plan
    from dpft.privacy.step import step

    parts = Parts(ENGINES.get("dpft"))
    assert parts.make_plan is make_plan
    assert parts.step is step


@pytest.mark.statistical
def test_one_tensor_without_noise_is_named(bench: Bench) -> None:
    """All others are noised as they should be, and the one is of two numbers."""
    from dpft.audit.faults import _PlanAround, _poisson, _with_plan

    (bias,) = [
        name for name in bench.subject.parameters if name.endswith("classifier.modules_to_save.default.bias")
    ]

    class Forgetful(_PlanAround):
        def release(self, draw: Any, sums: Any) -> dict[str, Any]:
            released = super().release(draw, sums)
            return {name: value * (name != bias) for name, value in released.items()}

    fault = _with_plan(lambda plan: Forgetful(plan, _poisson(plan)))
    found = _ask("noise", dict(CONFORMANCE)["noise per tensor"], replace(bench, parts=fault(bench.parts)))
    assert found.verdict == "fail"
    assert bias in found.detail
