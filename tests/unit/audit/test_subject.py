"""The audit vector: canaries deliver C along their own axis, and the model is as it would be without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dpft.audit.bench import Bench, norm
from dpft.audit.subject import AUDIT_VECTOR
from dpft.engines import oracle
from dpft.engines.base import example_losses
from dpft.tuning.base import load_tokenizer

from .conftest import SpecMaker


def delivered(bench: Bench, rows: list[int], gain: float = 1.0) -> dict[str, torch.Tensor]:
    with bench.session(bench.plan()) as session:
        return bench.sums(session, [bench.subject.batch(np.array(rows), gain=gain)])


def test_a_canary_delivers_the_clipping_norm_along_its_own_axis(bench: Bench) -> None:
    inside = [int(row) for row in bench.subject.rows.canaries_in[:3]]
    sums = delivered(bench, inside)
    expected = torch.zeros(65, 1)
    expected[[row + 1 for row in inside]] = bench.claim.sensitivity
    torch.testing.assert_close(sums.pop(AUDIT_VECTOR), expected, rtol=1e-6, atol=0)
    assert norm(sums) == 0.0


def test_rows_that_are_out_contribute_exactly_nothing(bench: Bench) -> None:
    out = np.flatnonzero(~bench.subject.rows.coins)
    assert {bool(row < 64) for row in out} == {True, False}
    assert norm(delivered(bench, out.tolist())) == 0.0


def test_texts_have_the_gradient_that_they_have_without_the_audit_vector(bench: Bench) -> None:
    subject = bench.subject
    rows = subject.rows.texts[:3]
    batch = subject.batch(rows)
    bare = {name.removeprefix("model."): p for name, p in subject.parameters.items() if name != AUDIT_VECTOR}
    plain = type(batch)({k: v for k, v in batch.inputs.items() if not k.startswith("audit_")}, batch.labels)
    expected = oracle.per_example_gradients(subject.model.model, bare, plain)
    found = oracle.per_example_gradients(subject.model, subject.parameters, batch)
    for ours, theirs in zip(found, expected, strict=True):
        assert not ours[AUDIT_VECTOR].any()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[f"model.{name}"], value, rtol=1e-5, atol=1e-9)
    with torch.no_grad():
        losses = [
            example_losses(m, b, "fp32") for m, b in ((subject.model, batch), (subject.model.model, plain))
        ]
    assert torch.equal(*losses)


def test_gain_scales_gradients_and_leaves_values(bench: Bench) -> None:
    subject, rows = bench.subject, bench.subject.rows.texts[:2]
    usual, amplified = (subject.batch(rows, gain=gain) for gain in (1.0, 1000.0))
    with torch.no_grad():
        assert torch.equal(
            example_losses(subject.model, usual, "fp32"), example_losses(subject.model, amplified, "fp32")
        )
    one, many = (
        oracle.per_example_gradients(subject.model, subject.parameters, b) for b in (usual, amplified)
    )
    for small, large in zip(one, many, strict=True):
        assert norm(large) == pytest.approx(1000 * norm(small), rel=1e-4)


def test_coins_are_fair_and_fresh(bench: Bench, tiny_model: Path, spec_of: SpecMaker) -> None:
    from dpft.audit.bench import Entropy
    from dpft.audit.subject import make_rows

    tokenizer = load_tokenizer(spec_of().model)
    coins = [
        make_rows(tokenizer, canaries=2000, texts=40, labels=2, generator=Entropy().generator()).coins
        for _ in range(2)
    ]
    assert not np.array_equal(*coins)
    for drawn in coins:
        assert abs(drawn[:2000].mean() - 0.5) < 0.056  # five standard deviations


def test_made_up_texts_hold_no_special_token_inside(bench: Bench, spec_of: SpecMaker) -> None:
    tokenizer = load_tokenizer(spec_of().model)
    split = bench.subject.rows.split
    inner = np.ones(len(split.input_ids), dtype=bool)
    inner[split.offsets[:-1]] = inner[split.offsets[1:] - 1] = False
    assert not set(split.input_ids[inner].tolist()) & set(tokenizer.all_special_ids)
    assert set(split.input_ids[~inner].tolist()) == {tokenizer.cls_token_id, tokenizer.sep_token_id}
