from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dpft.errors import PrivacyError, UsageError
from dpft.runs import statement
from dpft.runs.manifest import UNJUDGED, Manifest, manifest_sha256, safetensors_header
from dpft.runs.manifest_consistency import RULES
from dpft.runs.manifest_parts import (
    DELTA_CHOSEN,
    DELTA_FROM_DECLARED_ROWS,
    DELTA_FROM_ROWS,
    Definition,
    Event,
    Guarantee,
    Randomness,
    Release,
    Sampling,
    Setting,
    Tuning,
    standard_releases,
    validation_access,
)

from .builders import (
    RUN_ID,
    accesses,
    make_manifest,
    ordinary_parts,
    private_parts,
    stopped_parts,
    unclaimed_parts,
)

GROUPS = [
    "statement", "private", "identity", "setting", "definition", "guarantee", "mechanism", "sampling",
    "events", "data_accesses", "tuning", "releases", "data", "base_model", "randomness", "software",
    "evidence",
]  # fmt: skip
ALL_PARTS = [private_parts, ordinary_parts, unclaimed_parts, stopped_parts]


def test_the_groups_come_in_order_the_sentence_first() -> None:
    assert list(make_manifest().to_dict()) == GROUPS
    assert list(Manifest.json_schema()["properties"]) == GROUPS
    assert Manifest.json_schema()["required"][0] == "statement"


@pytest.mark.parametrize("parts", ALL_PARTS)
def test_nothing_is_null_or_infinite(parts: Any) -> None:
    text = Manifest(**parts()).to_json()
    assert "null" not in text
    assert "Infinity" not in text
    assert "NaN" not in text


def test_golden_sentence_of_a_whole_run() -> None:
    assert make_manifest().statement == (
        "Whether any one example (one row of sst2/train: a sentence and its label) was in the training data "
        "is protected from anyone who sees the released adapter, by differential privacy with ε ≤ 3.7697 and "
        "δ ≤ 1.00e-06 under add-or-remove-one adjacency; this does not cover: validation metrics."
    )


def test_golden_sentence_of_an_interrupted_run_with_leaks_and_checkpoints() -> None:
    parts = private_parts(steps=100, planned=512)
    parts |= {
        "setting": Setting(release="checkpoints"),
        "definition": Definition(example="one row of sst2/train", adjacency="replace-one"),
        "events": (
            Event(sample_rate=0.1, noise_multiplier=3.0, steps=60, adjacency="replace-one"),
            Event(sample_rate=0.1, noise_multiplier=3.0, steps=40, adjacency="replace-one"),
        ),
        "guarantee": Guarantee(
            epsilon=1.00001, delta=7.4240e-6, delta_rule=DELTA_CHOSEN, planned_epsilon=2.0, accountant="pld"
        ),
        "data_accesses": accesses("unaccounted"),
        "releases": standard_releases(claimed=True, rows_public=False, checkpoints=True),
        "data": parts["data"].model_copy(update={"rows_public": False}),
    }
    assert Manifest(**parts).statement == (
        "Which content any one example (one row of sst2/train) of the training data had is protected from "
        "anyone who sees the released adapter and its checkpoints, by differential privacy with ε ≤ 1.0001 "
        "and δ ≤ 7.43e-06 under replace-one adjacency, for the 100 of 512 planned steps that were taken; "
        "this does not cover: evaluation, validation metrics, number of examples."
    )


def test_golden_sentences_where_nothing_is_claimed() -> None:
    assert Manifest(**unclaimed_parts()).statement == "no valid (ε, δ) claimed"
    assert Manifest(**stopped_parts()).statement == (
        "Nothing was released: the run ended before its first noisy step, so no weights depend on any "
        "example."
    )
    assert Manifest(**ordinary_parts()).statement == (
        "This model was trained without differential privacy: nothing is promised about what it reveals of "
        "its training examples."
    )


def test_the_sentence_fails_closed() -> None:
    assert statement.statement_for(private=True, steps=3, epsilon=1.0) == "no valid (ε, δ) claimed"
    assert statement.statement_for(private=True, steps=3, delta=1e-6) == "no valid (ε, δ) claimed"


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_epsilon_is_rounded_up(epsilon: float) -> None:
    shown = statement.round_up_epsilon(epsilon)
    assert re.fullmatch(r"\d+\.\d{4}", shown)
    assert float(shown) >= epsilon
    assert float(shown) - epsilon <= 1e-4 * (1 + 1e-9) + 1e-15 * epsilon


@given(st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True))
def test_delta_is_rounded_up(delta: float) -> None:
    shown = statement.round_up_delta(delta)
    assert re.fullmatch(r"\d\.\d\de[-+]\d+", shown)
    assert float(shown) >= delta
    assert float(shown) <= delta * 1.01 or delta < 1e-300


@pytest.mark.parametrize(
    ("delta", "shown"),
    [(9.991e-6, "1.00e-05"), (1e-6, "1.00e-06"), (0.5, "5.00e-01"), (1.001e-6, "1.01e-06")],
)
def test_delta_examples(delta: float, shown: str) -> None:
    assert statement.round_up_delta(delta) == shown


def test_a_non_private_manifest_has_no_epsilon_and_no_noise() -> None:
    text = Manifest(**ordinary_parts()).to_json()
    for word in ("epsilon", "ε", "delta", "noise", "sample_rate", "sampling", "events", "guarantee"):
        assert word not in text, word


@pytest.mark.parametrize(
    "change",
    [
        {"guarantee": private_parts()["guarantee"]},
        {"events": private_parts()["events"]},
        {"events": ()},
        {"definition": private_parts()["definition"]},
        {"sampling": private_parts()["sampling"]},
        {"mechanism": private_parts()["mechanism"]},
        {"tuning": Tuning(composed_epsilon=1.0)},
        {"randomness": Randomness(noise_generator="ChaCha20")},
        {"releases": standard_releases(claimed=True, rows_public=True)},
        {"data_accesses": (validation_access("dp"),)},
    ],
)
def test_a_non_private_manifest_cannot_claim(change: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError):
        Manifest(**{**ordinary_parts(), **change})


def with_part(group: str, **fields: Any) -> dict[str, Any]:
    parts = private_parts()
    return {**parts, group: parts[group].model_copy(update=fields)}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in private_parts().items() if name not in names}


@pytest.mark.parametrize(
    "parts",
    [
        without("guarantee"),
        without("definition"),
        without("sampling"),
        without("events"),
        {**private_parts(), "events": ()},
        {**private_parts(), "sampling": unclaimed_parts()["sampling"]},
        {**private_parts(), "mechanism": ordinary_parts()["mechanism"]},
        {**private_parts(), "randomness": Randomness()},
        {**private_parts(), "events": (Event(sample_rate=0.1, noise_multiplier=2.0, steps=512),)},
        {**private_parts(), "events": (Event(sample_rate=0.1, noise_multiplier=3.0, steps=513),)},
        with_part("definition", adjacency="replace-one"),
        with_part("definition", example="one row of qnli/train"),
        with_part("data", split="validation"),
        {**private_parts(), "data_accesses": accesses("public")[:-1]},
        {**private_parts(), "data_accesses": accesses("public") * 2},
        {**private_parts(), "releases": private_parts()["releases"][1:]},
        {**private_parts(), "releases": private_parts()["releases"][:-1]},
        {**private_parts(), "statement": "Perfectly private."},
        {**private_parts(), "data": private_parts()["data"].model_copy(update={"rows_public": False})},
        with_part("mechanism", noise_standard_deviation=0.29),
        with_part("mechanism", sensitivity=0.2),
        with_part("mechanism", expected_batch_size=999),
        with_part("data", rows=9_999),
        with_part("data", rows=None),
        with_part("data", rows_declared=10_000),
        with_part("data", rows=None, rows_public=False, rows_declared=10_000, fingerprint="ab" * 32),
        with_part("guarantee", delta_rule="as it pleased"),
        with_part("guarantee", delta_rule=DELTA_FROM_ROWS),
        with_part("guarantee", delta_rule=DELTA_FROM_DECLARED_ROWS, delta=1 / 20_000),
        with_part("guarantee", delta=1e-4),
        {**stopped_parts(), "releases": (Release(item="adapter", protection="dp"),)},
        {**unclaimed_parts(), "releases": (Release(item="adapter", protection="dp"),)},
    ],
)
def test_parts_that_contradict_each_other_are_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError):
        Manifest(**parts)


def test_contradictions_are_let_pass_for_whoever_looks_for_them() -> None:
    document = make_manifest().to_dict()
    document["mechanism"]["expected_batch_size"] = 999
    del document["statement"]
    found = Manifest.model_validate(document, context=UNJUDGED)
    assert found.statement == make_manifest().statement
    for name, rule in RULES.items():
        assert len(list(rule(found))) == (1 if name == "sample rate and steps" else 0)


def test_n_may_be_declared_and_kept() -> None:
    parts = with_part("data", rows=None, rows_public=False, rows_declared=10_000)
    parts["releases"] = standard_releases(claimed=True, rows_public=False, rows_declared=True)
    parts["guarantee"] = parts["guarantee"].model_copy(
        update={"delta_rule": DELTA_FROM_DECLARED_ROWS, "delta": 1 / 20_000}
    )
    manifest = Manifest(**parts)
    assert "number of examples" not in manifest.not_covered
    with pytest.raises(PrivacyError, match="kept in another"):
        Manifest(**{**parts, "releases": standard_releases(claimed=True, rows_public=False)})
    with pytest.raises(PrivacyError, match="rows_declared"):
        Manifest(**{**ordinary_parts(), "data": parts["data"], "releases": ()})


@pytest.mark.parametrize("epsilon", [math.inf, -math.inf, math.nan, -1e-9])
def test_epsilon_must_be_finite_and_not_negative(epsilon: float) -> None:
    with pytest.raises(PrivacyError, match="epsilon"):
        Guarantee(epsilon=epsilon, delta=1e-6, delta_rule="given", accountant="pld")
    with pytest.raises(PrivacyError, match="epsilon"):
        Guarantee(
            epsilon=1.0,
            delta=1e-6,
            delta_rule="given",
            accountant="pld",
            second_accountant="rdp",
            second_epsilon=epsilon,
        )


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, math.nan, math.inf])
def test_delta_must_be_between_0_and_1(delta: float) -> None:
    with pytest.raises(PrivacyError, match="delta"):
        Guarantee(epsilon=1.0, delta=delta, delta_rule="given", accountant="pld")


def test_epsilon_may_reach_its_target_and_not_pass_it() -> None:
    given = {"delta": 1e-6, "delta_rule": "given", "accountant": "pld", "target_epsilon": 8.0}
    assert Guarantee(epsilon=8.0, **given).epsilon == 8.0
    with pytest.raises(PrivacyError, match="above its target"):
        Guarantee(epsilon=math.nextafter(8.0, 9.0), **given)


def test_an_accountant_must_be_one_that_verify_can_call() -> None:
    with pytest.raises(UsageError, match="accountant"):
        Guarantee(epsilon=1.0, delta=1e-6, delta_rule="given", accountant="moments")
    with pytest.raises(PrivacyError, match="second"):
        Guarantee(epsilon=1.0, delta=1e-6, delta_rule="given", accountant="pld", second_epsilon=1.0)


@pytest.mark.parametrize(
    "field",
    [{"sample_rate": 0.0}, {"sample_rate": 1.1}, {"noise_multiplier": 0.0}, {"noise_multiplier": math.inf}],
)
def test_events_are_recomputable(field: dict[str, float]) -> None:
    with pytest.raises(PrivacyError):
        Event(**{"sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 1, **field})
    with pytest.raises(ValidationError):
        Event(sample_rate=0.1, noise_multiplier=1.0, steps=0)


def test_a_broken_assumption_has_a_reason_and_a_kept_one_has_none() -> None:
    with pytest.raises(PrivacyError):
        Sampling(actual="shuffled", assumptions_hold=False)
    with pytest.raises(PrivacyError):
        Sampling(actual="poisson", assumptions_hold=True, why_not="no reason")


def test_no_seed_fits_in() -> None:
    with pytest.raises(ValidationError, match="seed"):
        Randomness(noise_generator="ChaCha20", seed=42)  # type: ignore[call-arg]


def test_releases_and_warning_are_told() -> None:
    document = make_manifest().to_dict()
    releases = {item["item"]: item for item in document["releases"]}
    assert releases["adapter"]["protection"] == "dp"
    assert releases["validation metrics"]["detail"] == "not protected by this guarantee"
    assert releases["training loss of each step"]["protection"] == "local-only"
    assert releases["number of examples"]["protection"] == "public"
    assert document["tuning"]["ledger"] == "not consulted"
    assert "compose" in document["tuning"]["warning"]
    evaluation = next(item for item in document["data_accesses"] if item["access"] == "evaluation")
    assert "reporting only" in evaluation["detail"]


def test_the_header_is_made_from_the_manifest() -> None:
    digest = f'"manifest_sha256":"{manifest_sha256(make_manifest().to_dict())}"}}'
    assert safetensors_header(make_manifest()) == (
        f'{{"run_id":"{RUN_ID}","private":true,"epsilon":3.76968,"delta":1e-06,"unit":"example",'
        '"adjacency":"add-or-remove-one",' + digest
    )
    ordinary = json.loads(safetensors_header(Manifest(**ordinary_parts())))
    assert ordinary.pop("manifest_sha256") != digest
    assert ordinary == {"run_id": RUN_ID, "private": False}
    unclaimed = json.loads(safetensors_header(Manifest(**unclaimed_parts())))
    assert len(unclaimed.pop("manifest_sha256")) == 64
    assert unclaimed == {"run_id": RUN_ID, "private": True, "statement": "no valid (ε, δ) claimed"}


def test_the_digest_sees_every_change_and_no_layout() -> None:
    document = make_manifest().to_dict()
    shuffled = json.loads(json.dumps(dict(reversed(document.items())), indent=7))
    assert manifest_sha256(shuffled) == manifest_sha256(document)
    steps = document["events"][0]["steps"]
    for other in (steps + 1, float(steps), str(steps)):
        changed = {**document, "events": [{**document["events"][0], "steps": other}]}
        assert manifest_sha256(changed) != manifest_sha256(document)


def test_record_fields() -> None:
    assert make_manifest().record_fields() == {
        "run_id": RUN_ID,
        "private": True,
        "epsilon": 3.76968,
        "delta": 1e-6,
        "noise_multiplier": 3.0,
        "steps": 512,
        "sample_rate": 0.1,
    }
    assert Manifest(**ordinary_parts()).record_fields() == {"run_id": RUN_ID, "private": False}
    assert "sample_rate" not in Manifest(**stopped_parts()).record_fields()


def test_a_sentence_of_a_newer_minor_is_kept() -> None:
    parts = private_parts()
    parts["identity"] = parts["identity"].model_copy(update={"schema_version": "1.9"})
    assert Manifest(**parts, statement="Better prose.").statement == "Better prose."
