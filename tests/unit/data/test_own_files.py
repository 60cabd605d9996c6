"""Tasks made from options, and the rows that are set aside for validation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dpft.data.own_files import SET_ASIDE, VALIDATION, own_task, scored_on, task_of
from dpft.data.prepare import prepare
from dpft.data.sources import read_rows
from dpft.data.task import TRAIN
from dpft.errors import DataError, UsageError
from dpft.spec import DataSpec
from dpft.tables import TASKS
from tests.unit.data.samples import tiny_tokenizer

LABELS = ("no", "yes")
Rows = list[tuple[str, str]]
Splitter = Callable[[Path, Rows], set[str]]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return path


def some_rows(number: int) -> Rows:
    return [(f"text {i}", LABELS[i % 2]) for i in range(number)]


def spec(path: Path, **more: object) -> DataSpec:
    return DataSpec.model_validate({"dataset": "mine", "data_file": str(path), "labels": LABELS, **more})


def set_aside(path: Path, rows: Rows) -> set[str]:
    raw = read_rows(task_of(spec(write(path, rows))))
    validation, train = ({*raw.splits[name].texts[0]} for name in (VALIDATION, TRAIN))
    assert not validation & train
    assert validation | train == {text for text, _ in rows}
    return validation


def every_tenth(path: Path, rows: Rows) -> set[str]:
    """A fault: by position."""
    return {text for i, (text, _) in enumerate(rows) if i % 10 == 9}


def shuffled(path: Path, rows: Rows) -> set[str]:
    """A fault: by a shuffle with a fixed seed."""
    return {text for text, _ in random.Random(0).sample(rows, len(rows) // 10)}


def moves_nobody(path: Path, split: Splitter) -> bool:
    """Whether each row's side is its own affair: no other row's coming, going or place changes it."""
    rows = some_rows(300)
    whole = split(path, rows)
    without_first = split(path, rows[1:])
    backwards = split(path, rows[::-1])
    return without_first == whole - {rows[0][0]} and backwards == whole


def test_a_row_more_or_less_moves_no_other(tmp_path: Path) -> None:
    assert moves_nobody(tmp_path / "a.csv", set_aside)


@pytest.mark.parametrize("fault", [every_tenth, shuffled])
def test_splits_that_depend_on_other_rows_are_rejected(tmp_path: Path, fault: Splitter) -> None:
    assert not moves_nobody(tmp_path / "a.csv", fault)


def test_about_a_tenth_is_set_aside(tmp_path: Path) -> None:
    """Fixed texts and a fixed hash: this is one number, 4 standard deviations from a tenth at most."""
    number = 2000
    found = len(set_aside(tmp_path / "a.csv", some_rows(number)))
    assert abs(found - SET_ASIDE * number) < 4 * math.sqrt(number * SET_ASIDE * (1 - SET_ASIDE))


def test_equal_texts_stay_on_one_side_whatever_their_label(tmp_path: Path) -> None:
    rows = [(f"text {i % 40}", LABELS[i % 3 == 0]) for i in range(200)]
    set_aside(tmp_path / "a.csv", rows)  # asserts that no text is on both


def test_one_file_has_one_ledger_with_and_without_a_validation_file(tmp_path: Path) -> None:
    path, other = write(tmp_path / "a.csv", some_rows(100)), write(tmp_path / "b.csv", some_rows(3))
    carved = read_rows(task_of(spec(path)))
    given = read_rows(task_of(spec(path, validation_file=str(other))))
    assert carved.carved
    assert not given.carved
    assert carved.content_digest == given.content_digest
    changed = write(tmp_path / "a.csv", some_rows(101))
    assert read_rows(task_of(spec(changed))).content_digest != carved.content_digest


def test_too_few_rows_to_set_any_aside(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few rows") as caught:
        read_rows(task_of(spec(write(tmp_path / "a.csv", some_rows(1)))))
    assert "--validation-file" in caught.value.hint


def test_what_a_task_of_ones_own_scores() -> None:
    assert own_task("mine", {}, ("text",), "label", ("a", "b")).metrics == ("accuracy", "f1")
    assert own_task("mine", {}, ("text",), "label", ("a", "b", "c")).metrics == ("accuracy",)


def test_a_file_may_only_be_scored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", some_rows(20))
    raw = read_rows(scored_on(task_of(spec(path)), path))
    assert {name: len(split) for name, split in raw.splits.items()} == {VALIDATION: 20}


def test_other_tasks_are_the_tables() -> None:
    assert task_of(DataSpec(dataset="sst2")) is TASKS.get("sst2")


def test_a_refused_file_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    rows = [*some_rows(50), ("text", "maybe")]
    data = spec(write(tmp_path / "a.csv", rows))
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match="line 52"):
        prepare(task_of(data), tiny_tokenizer(), tokenizer_id="tiny", max_length=8, cache_dir=cache)
    assert not list(cache.rglob("*.arrow"))


def test_a_row_without_tokens_is_named_by_its_line(tmp_path: Path) -> None:
    """The tokenizer refuses it after rows were set aside: its line must still be the file's."""
    lines = [*some_rows(60), ("\u200b", "no")]
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.backend_tokenizer.normalizer = None
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("\u200b", "removed")
    with pytest.raises(DataError, match="line 62: the tokenizer makes no token"):
        prepare(
            task_of(spec(write(tmp_path / "a.csv", lines))),
            tokenizer,
            tokenizer_id="tiny",
            max_length=8,
            cache_dir=tmp_path / "cache",
        )


def test_a_stored_spec_says_which_columns(tmp_path: Path) -> None:
    data = spec(tmp_path / "a.csv")
    assert (data.text_columns, data.label_column) == (("text",), "label")
    assert DataSpec.model_validate_json(data.model_dump_json()) == data
    assert DataSpec(dataset="sst2").text_columns == ()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dataset": "sst2"}, "'sst2' is a built-in dataset"),
        ({"dataset": "../x"}, "cannot name a dataset"),
        ({"dataset": "a" * 41}, "cannot name a dataset"),
        ({"data_dir": "."}, "exclude each other"),
        ({"validation_file": "a.csv"}, "is the training file"),
        ({"text_columns": ("a", "b", "c")}, "3 text columns"),
        ({"text_columns": ("a", "a")}, "given twice"),
        ({"text_columns": ("label",)}, "given twice"),
        ({"labels": ()}, "2 or more different names, not 0"),
        ({"labels": ("a",)}, "2 or more different names, not 1"),
        ({"labels": ("a", "a")}, "2 or more different names"),
        ({"labels": ("a", "")}, "'' cannot name a label"),
        ({"labels": ("a", " b")}, "cannot name a label"),
        ({"labels": ("a", "b\n")}, "cannot name a label"),
        ({"labels": ("a", "/home/b")}, "cannot name a label"),
        ({"labels": ("a", "b" * 101)}, "cannot name a label"),
        ({"dataset": "sst2", "data_file": None}, "for no data file"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(more: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        DataSpec.model_validate({"dataset": "mine", "data_file": "a.csv", "labels": LABELS, **more})
    assert message in caught.value.message
    assert caught.value.hint
