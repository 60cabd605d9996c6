"""The audit vector: canaries deliver C along their own axis, and the model is as it would be without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dpft.audit.bench import Bench, norm
from dpft.audit.subject import AUDIT_VECTOR, LONGEST
from dpft.engines import oracle
from dpft.engines.base import example_losses
from dpft.privacy.pieces import own_width
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


@pytest.mark.parametrize("tokens", [1, 64, 1 << 30])
def test_a_gain_follows_its_row_into_whichever_piece(at_any_precision: Bench, tokens: int) -> None:
    subject = at_any_precision.subject
    rows = np.concatenate([subject.rows.texts[4::-1], subject.rows.texts[5:9]])
    pieces = list(subject.pieces(rows, gain=torch.arange(1.0, 10.0), tokens=tokens))
    assert sum(piece.examples for piece in pieces) == 9
    gain_of = {int(row): float(gain) for row, gain in zip(rows, torch.arange(1.0, 10.0), strict=True)}
    text_of = {row: subject.batch(np.array([row])).inputs["input_ids"][0].tolist() for row in gain_of}
    for piece in pieces:
        for place in range(len(piece)):
            length = int(piece.inputs["attention_mask"][place].sum())
            text = piece.inputs["input_ids"][place, :length].tolist()
            (row,) = [row for row, known in text_of.items() if known == text]
            assert float(piece.inputs["audit_gain"][place]) == gain_of[row]
        if subject.precision == "bf16":
            widths = {own_width(int(n), LONGEST) for n in piece.inputs["attention_mask"].sum(1)}
            assert widths == {piece.inputs["input_ids"].shape[1]}


def test_kin_are_in_and_have_the_rows_width(bench: Bench) -> None:
    subject, lengths = bench.subject, bench.subject.rows.split.lengths
    row = int(subject.rows.canaries_in[0])
    kin = subject.kin(row)
    assert row not in kin
    assert bool(subject.rows.coins[kin].all())
    assert {own_width(int(length), LONGEST) for length in lengths[kin]} == {8}
    assert len(subject.typical) >= 5


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
