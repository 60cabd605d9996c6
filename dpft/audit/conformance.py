"""Layer 1, first half: what one example can do to a step. No chance decides these checks.

They look at the clipped sums and released gradients of the production parts, where the noise is replaced by
zeros or left out of the question; so each holds or is broken, whatever was drawn.
"""

from __future__ import annotations

import numpy as np
import torch

from dpft.audit.bench import Bench, Silent, distance, norm
from dpft.audit.pvalues import variance_p_value
from dpft.audit.result import Check
from dpft.audit.subject import AUDIT_VECTOR
from dpft.engines.base import MicroBatch, PieceReport
from dpft.errors import PrivacyError
from dpft.tables import CLIPPERS
from dpft.training.preflight import check_engine

__all__ = [
    "check_company",
    "check_coverage",
    "check_empty_batch",
    "check_exactness",
    "check_hostile",
    "check_micro_batches",
    "check_non_finite",
    "check_normaliser",
    "check_sensitivity",
]

DELIVERED = 1 + 1e-6
"""What one example may contribute, in units of the sensitivity."""

_FLOAT32_PER_MEMBER = 4e-7  # rounding of a float32 sum, for each member of norm C that was added before
_SAME = 1e-4  # in units of the sensitivity: equal but for rounding
_HOSTILE = (1e6, 1e20)
_COMPANIES = (0, 1, 6)
_EMPTY_EXAMPLES, _EMPTY_DRAWS = 8, 300

EMPTY_ALPHA = 1e-4 / 3


def check_exactness(bench: Bench) -> Check:
    """Norms and clipped sums against one-example-at-a-time autograd, on the user's mode."""
    subject = bench.subject
    rows = np.concatenate([subject.rows.texts[:3], subject.rows.canaries_in[:1]])
    try:
        check_engine(
            bench.parts.engine,
            subject.model,
            subject.parameters,
            subject.batch(rows),
            CLIPPERS.get(bench.privacy.clipping),
        )
    except PrivacyError as error:
        return Check("exactness", "conformance", "fail", error.message)
    return Check("exactness", "conformance", "pass", "norms and clipped sums equal plain autograd's")


def check_coverage(bench: Bench) -> Check:
    """Every trainable parameter is clipped, noised and moved; no other has a gradient."""
    subject, plan = bench.subject, bench.plan(steps=1)
    _forget_all(bench)
    with bench.session(plan) as session:
        bench.take_step(plan, session, pieces=bench.pieces)
        stray = [
            name
            for name, p in subject.model.named_parameters()
            if name not in subject.parameters and (p.grad is not None or p.requires_grad)
        ]
        found = bench.gradients()
    _forget_all(bench)
    still = [name for name in subject.parameters if name not in found or not bool(found[name].any())]
    count = len(subject.parameters)
    if stray or still:
        which = f"{(stray or still)[0]} and {len(stray) + len(still) - 1} more"
        return Check(
            "coverage", "conformance", "fail", f"outside the private step: {which}", len(stray + still), 0
        )
    return Check(
        "coverage",
        "conformance",
        "pass",
        f"all {count} trainable tensors are released with noise, no other",
        0,
        0,
    )


def check_sensitivity(bench: Bench) -> Check:
    """‖sum(D + x) - sum(D)‖ ≤ S for some sets D; x is a text, an amplified text or a canary."""
    subject, typical = bench.subject, bench.subject.typical
    worst = 0.0
    plan = bench.plan()
    with bench.session(plan) as session:
        for row, gain in ((typical[0], 1.0), (typical[1], 1e3), (subject.rows.canaries_in[0], 1.0)):
            for size in _COMPANIES:
                company = subject.kin(int(row))[:size]
                base = bench.sums(session, bench.together(company))
                gains = torch.ones(len(company) + 1)
                gains[-1] = gain
                more = bench.together(np.append(company, row), gains)
                moved = distance(bench.sums(session, more), base) / bench.claim.sensitivity
                worst = max(worst, moved - len(company) * _FLOAT32_PER_MEMBER)
    return _bounded("sensitivity", worst, "adding one example moves the clipped sum by at most")


def check_company(bench: Bench) -> Check:
    """sum(D + x) = sum(D) + sum({x}): who else is drawn, and how long they are, changes nobody's part."""
    subject, typical = bench.subject, bench.subject.typical
    by_length = sorted(subject.rows.texts, key=lambda row: int(subject.rows.split.lengths[row]))
    worst = 0.0
    plan = bench.plan()
    with bench.session(plan) as session:
        for row in {int(typical[0]), int(by_length[0]), int(subject.rows.canaries_in[0])}:
            company = np.array([*by_length[-3:], *subject.kin(row)[:4]])
            company = np.unique(company[company != row])
            alone, base, more = (
                bench.sums(session, bench.together(rows))
                for rows in (np.array([row]), company, np.append(company, row))
            )
            apart = {name: alone[name].double() + base[name].double() for name in more}
            worst = max(worst, distance(more, apart) / bench.claim.sensitivity)
    return Check(
        "company",
        "conformance",
        "fail" if not worst <= _SAME else "pass",
        f"what an example adds differs by {worst:.2g}·C in other company",
        worst,
        _SAME,
    )


def check_hostile(bench: Bench) -> Check:
    """An example whose gradient is a million times the clipping norm, or 10²⁰ times, delivers no more."""
    subject, claim = bench.subject, bench.claim
    worst = 0.0
    plan = bench.plan()
    with bench.session(plan) as session:
        for row in (*subject.rows.texts[:2], subject.rows.canaries_in[0]):
            alone = np.array([row])
            (piece,) = bench.together(alone)
            plain = session.accumulate(piece, bench.zeros()).norms
            usual = float(plain[0]) if plain is not None and float(plain[0]) > 0 else 1.0
            for times in _HOSTILE:
                amplified = bench.together(alone, times * claim.sensitivity / usual)
                worst = max(worst, norm(bench.sums(session, amplified)) / claim.sensitivity)
    return _bounded("hostile example", worst, "an example of norm 10⁶·C or 10²⁰·C delivers at most")


def check_non_finite(bench: Bench) -> Check:
    """A NaN or infinite example contributes exactly what its absence would, and is counted."""
    subject = bench.subject
    rows = subject.typical[:5]
    worst, dropped = 0.0, []
    plan = bench.plan()
    with bench.session(plan) as session:
        without = bench.sums(session, bench.together(np.delete(rows, 2)))
        for poison in (float("nan"), float("inf")):
            gains = torch.ones(len(rows))
            gains[2] = poison
            sums = bench.zeros()
            pieces = bench.together(rows, gains)
            dropped.append(sum(_dropped(session.accumulate(piece, sums), piece) for piece in pieces))
            worst = max(worst, distance(sums, without) / bench.claim.sensitivity)
            alone = bench.zeros()  # nothing finite is left of this micro-batch
            (piece,) = bench.together(rows[2:3], poison)
            dropped.append(_dropped(session.accumulate(piece, alone), piece))
            worst = max(worst, norm(alone) / bench.claim.sensitivity)
    failed = not worst <= _SAME or set(dropped) != {1}
    return Check(
        "non-finite example",
        "conformance",
        "fail" if failed else "pass",
        f"a NaN example moves the sum by {worst:.2g}·C; "
        f"it is {'' if set(dropped) == {1} else 'not '}counted as dropped",
        worst,
        _SAME,
    )


def _dropped(report: PieceReport, piece: MicroBatch) -> int:
    return report.of_first(piece.examples).dropped


def check_micro_batches(bench: Bench) -> Check:
    """The sum does not depend on how a batch is cut."""
    subject = bench.subject
    rows = np.concatenate([subject.rows.texts[:9], subject.rows.canaries_in[:3]])
    plan = bench.plan()
    with bench.session(plan) as session:
        whole = bench.sums(session, bench.together(rows))
        worst = max(
            distance(whole, bench.sums(session, subject.pieces(rows, tokens=tokens)))
            / bench.claim.sensitivity
            for tokens in (1, 2 * int(subject.lengths.max()))
        )
    return Check(
        "micro-batches",
        "conformance",
        "fail" if not worst <= _SAME else "pass",
        f"cutting a batch otherwise moves its sum by {worst:.2g}·C",
        worst,
        _SAME,
    )


def check_normaliser(bench: Bench) -> Check:
    """Without noise, a step's gradient is its clipped sum over the *expected* batch size."""
    plan = bench.plan(kind=Silent)
    expected, worst = bench.claim.expected_batch_size, 0.0
    sizes: list[int] = []
    with bench.session(plan) as session:
        while len(sizes) < 12 and len({*sizes} - {expected}) < 3:
            bench.clear()
            draw = bench.take_step(plan, session, pieces=bench.pieces)
            found = {name: gradient * expected for name, gradient in bench.gradients().items()}
            sums = bench.sums(session, bench.pieces(draw.indices))
            away = distance(sums, found) if found.keys() == sums.keys() else float("inf")
            worst = max(worst, away / max(norm(sums), bench.claim.sensitivity))
            sizes.append(len(draw.indices))
    bench.clear()
    return Check(
        "normaliser",
        "conformance",
        "fail" if not worst <= _SAME else "pass",
        f"gradient × B differs from the clipped sum by {worst:.2g} (batches of {min(sizes)} to {max(sizes)}, "
        f"B = {expected})",
        worst,
        _SAME,
    )


def check_empty_batch(bench: Bench) -> Check:
    """An empty Poisson draw is a step: its sum is exactly zero, it is noised, and it is counted."""
    wrong = _silent_empties(bench)
    plan = bench.plan(examples=_EMPTY_EXAMPLES, batch_size=1)
    noise, empty, taken = [], 0, 0
    while taken < _EMPTY_DRAWS:
        bench.clear()
        draw = bench.parts.step(plan, bench.audit_vector, lambda indices: (), _nothing)
        taken += 1
        if len(draw.indices) == 0:
            empty += 1
            gradient = bench.subject.parameters[AUDIT_VECTOR].grad
            if gradient is not None:
                noise.append(gradient.double().flatten().numpy())
    bench.clear()
    scale = bench.claim.noise_multiplier * bench.claim.sensitivity  # B is 1 here
    p_value = variance_p_value(np.concatenate(noise) / scale) if noise else 0.0
    if not empty:
        wrong = wrong or f"no empty batch in {taken} draws, a third of which should be empty"
    elif len(noise) < empty:
        wrong = wrong or f"{empty - len(noise)} of {empty} empty batches released nothing"
    elif plan.steps_taken != taken:
        wrong = wrong or f"{taken} steps were taken, {plan.steps_taken} were counted"
    elif not p_value >= EMPTY_ALPHA:
        wrong = wrong or f"the noise of empty batches is not N(0, (σC)²): p = {p_value:.1g}"
    return Check(
        "empty batch",
        "conformance",
        "fail" if wrong else "pass",
        wrong
        or f"{empty} empty batches of {taken} steps: summed to zero, noised (p = {p_value:.2g}), counted",
        p_value,
        EMPTY_ALPHA,
        EMPTY_ALPHA,
    )


def _silent_empties(bench: Bench) -> str:
    plan = bench.plan(examples=_EMPTY_EXAMPLES, batch_size=1, kind=Silent)
    for _ in range(30):
        bench.clear()
        draw = bench.parts.step(plan, bench.audit_vector, lambda indices: (), _nothing)
        gradient = bench.subject.parameters[AUDIT_VECTOR].grad
        if len(draw.indices) == 0 and gradient is not None and bool(gradient.any()):
            return "an empty batch does not sum to zero"
    return ""


def _nothing(piece: object, sums: object) -> None:
    """What is in a batch that is not empty is not this check's business."""


def _bounded(name: str, measured: float, sentence: str) -> Check:
    failed = not measured <= DELIVERED
    return Check(
        name, "conformance", "fail" if failed else "pass", f"{sentence} {measured:.7g}·C", measured, DELIVERED
    )


def _forget_all(bench: Bench) -> None:
    for parameter in bench.subject.model.parameters():
        parameter.grad = None
