"""The language of ``list --filter``: what it means, and that it is nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dpft.errors import UsageError
from dpft.runs.fields import ALIASES, FIELDS, canonical, value_of
from dpft.runs.query import Filter, sort_runs
from dpft.runs.record import RunRecord

from .builders import make_record

NOW = datetime.now(UTC)
A = make_record(
    Path("runs"), "a" * 16, name="ample-acorn", epsilon=2.5, noise_multiplier=0.9,
    metrics={"accuracy": 0.85, "f1": 0.8}, baselines={"majority": 0.5}, tags=("baseline", "Größe"),
    created=(NOW - timedelta(hours=2)).isoformat(), seconds=60.0,
)  # fmt: skip
B = make_record(
    Path("runs"), "b" * 16, name="bold-birch", private=False, finetune_mode="ia3", dataset="qnli",
    metrics={"accuracy": 0.9}, created=(NOW - timedelta(days=9)).isoformat(), note="first try",
)  # fmt: skip
C = make_record(
    Path("runs"), "c" * 16, name="calm-cove", status="crashed", created=(NOW - timedelta(days=3)).isoformat()
)
RUNS = [A, B, C]


def found(text: str) -> str:
    wanted = Filter(text)
    return "".join(record.name[0] for record in RUNS if wanted(record))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("accuracy > 0.8 and epsilon <= 3", "a"),
        ("accuracy>0.8", "ab"),
        ("accuracy > 0.8 or status == 'crashed'", "abc"),
        ("0.8 < accuracy < 0.9", "a"),
        ("0.85 <= Accuracy", "ab"),
        ("mode == 'lora'", "ac"),
        ("mode == 'LoRA'", "ac"),
        ("mode != 'lora'", "b"),
        ("mode in ('ia3', 'full')", "b"),
        ("mode not in ['ia3']", "ac"),
        ("private", "ac"),
        ("not private", "b"),
        ("private == false", "b"),
        ("epsilon is none", "bc"),
        ("epsilon is not None", "a"),
        ("ε < 3", "a"),
        ("σ == 0.9", "a"),
        ("epsilon > 3", ""),  # those without an ε are in neither
        ("epsilon <= 3", "a"),
        ("not epsilon <= 3", "bc"),
        ("f1 >= 0.8", "a"),
        ("majority < accuracy", "a"),
        ("'baseline' in tags", "a"),
        ("'GRÖSSE' in tags", "a"),
        ("'base' in tags", ""),  # a whole tag
        ("'try' in note", "b"),
        ("age < '5h'", "a"),
        ("age > '7d'", "b"),
        ("'1d' < age", "bc"),
        ("id == 'aaaaaaaaaaaaaaaa'", "a"),
        ("name == 'bold-birch'", "b"),
        ("accuracy > -1", "ab"),
        ("seconds", "a"),
        ("not (mode == 'lora' and private)", "b"),
    ],
)
def test_what_it_means(text: str, names: str) -> None:
    assert found(text) == names


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("acuracy > 0.8", "unknown field 'acuracy'", "did you mean 'accuracy'?"),
        ("mode == lora", "unknown field 'lora'", "quotes: 'lora'"),
        ("mode = 'lora'", "cannot be read at character", "equal is '=='"),
        ("accuracy >", "cannot be read", "combine with and, or, not"),
        ("", "cannot be read", "and, or, not"),
        ("accuracy > 'x'", "compares a number with a text", "numbers without quotes"),
        ("name < 3", "compares a text with a number", "numbers without quotes"),
        ("epsilon < none", "cannot be asked for", "combine"),
        ("3 is epsilon", "cannot be asked for", "combine"),
        ("epsilon in 3", "nothing can be 'in'", "write field in"),
        ("age < 'soon'", "is no time span", "combine"),
        ("1", "is no condition", "combine"),
        ("'lora'", "is no condition", "combine"),
        ("accuracy + 1 > 2", "cannot stand in a filter", "combine"),
        ("accuracy > 0.5 if private else private", "is no condition", "combine"),
        ("name == f'{id}'", "cannot stand in a filter", "combine"),
        ("name == b'x'", "cannot stand in a filter", "combine"),
        ("(x := 3)", "is no condition", "combine"),
        ("lambda: 1", "is no condition", "combine"),
        ("[r for r in name]", "is no condition", "combine"),
        ("name.__class__ == 'x'", "cannot stand in a filter", "combine"),
        ("tags[0] == 'x'", "cannot stand in a filter", "combine"),
        ("__import__('os').system('true')", "is no condition", "combine"),
        ("print(name) == 'x'", "cannot stand in a filter", "combine"),
        ("x" * 3_000, "characters, more than", "combine"),
        ("(" * 300 + "private" + ")" * 300, "cannot be read", "combine"),
        ("not " * 60 + "private", "nested too deeply", "combine"),
        ("private\0", "cannot be read", "combine"),
    ],
)
def test_what_is_refused(text: str, problem: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        found(text)
    assert problem in caught.value.message
    assert remedy in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def test_nothing_is_ever_evaluated(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for text in (f"open({str(target)!r}, 'w')", f"private and open({str(target)!r}, 'w').close() is none"):
        with pytest.raises(UsageError):
            found(text)
    assert not target.exists()


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("accuracy", "abc"),
        ("accuracy:desc", "bac"),
        ("epsilon:asc", "abc"),
        ("epsilon:desc", "abc"),  # those without come last either way, as they were
        ("name:DESC", "cba"),
        ("age", "acb"),
        ("created", "bca"),
        ("mode", "bac"),
    ],
)
def test_order(by: str, names: str) -> None:
    assert "".join(record.name[0] for record in sort_runs(RUNS, by)) == names


@pytest.mark.parametrize(("by", "problem"), [("acuracy", "unknown column"), ("epsilon:down", "is no order")])
def test_an_order_that_is_none(by: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        sort_runs(RUNS, by)


def test_every_field_is_one_of_the_record() -> None:
    for field in FIELDS:
        value_of(A, field)
        assert canonical(field.replace("_", "-").upper()) == field
    assert set(ALIASES.values()) <= set(FIELDS)
    kept_apart = {"run_id", "metrics", "baselines", "run_dir", "schema_version"}
    kept_apart |= {"published_steps", "superseded_steps"}  # for resuming; what they mean is in the manifest
    assert set(RunRecord.model_fields) - kept_apart <= set(FIELDS)
    assert canonical("matthews", ["matthews"]) == "matthews"
