"""Row 12: labels, vocabulary and lengths come from options or the base model, never from the private rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpft.data.prepare import prepare
from dpft.data.sources import read_rows
from dpft.data.task import Task
from dpft.data.tasks.qnli import TASK

from .samples import tiny_tokenizer, write_tsv

ROWS = [
    ("is it good", "the film says good", "entailment"),
    ("is it bad", "the food says", "not_entailment"),
    ("of what", "a very good film", "entailment"),
]


def folder(root: Path, rows: list[tuple[str, str, str]]) -> Path:
    header = ("index", "question", "sentence", "label")
    for file in ("train.tsv", "dev.tsv"):
        numbered = [(number, *row) for number, row in enumerate(rows)]
        write_tsv(root / "QNLI" / file, header, numbered)
    return root


def labels_by_question(root: Path, rows: list[tuple[str, str, str]]) -> dict[str, int]:
    split = read_rows(TASK, folder(root, rows)).splits["train"]
    return dict(zip(split.texts[0], split.labels, strict=True))


def changed_by_a_neighbour(tmp_path: Path) -> bool:
    """Whether taking one row away, or reading the rest in another order, changes what is left."""
    whole = labels_by_question(tmp_path / "whole", ROWS)
    neighbours = {
        "without-first": ROWS[1:],
        "without-second": [ROWS[0], ROWS[2]],
        "reversed": ROWS[::-1],
    }
    return any(
        label != whole[question]
        for name, rows in neighbours.items()
        for question, label in labels_by_question(tmp_path / name, rows).items()
    )


class InOrderOfAppearance(dict[str, int]):
    """The usual bug: a label's number is when it was first seen."""

    def __contains__(self, label: object) -> bool:
        return True

    def __missing__(self, label: str) -> int:
        self[label] = len(self)
        return self[label]


def test_a_neighbour_changes_no_label(tmp_path: Path) -> None:
    assert not changed_by_a_neighbour(tmp_path)


def test_planted_label_map_learnt_from_the_rows_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Task, "label_codes", property(lambda task: InOrderOfAppearance()))
    assert changed_by_a_neighbour(tmp_path)


def test_length_and_vocabulary_are_those_asked_for(tmp_path: Path) -> None:
    """One long row of unknown words, there or not: the other rows' tokens stay, and so does the length."""
    long = ("zebra " * 40, "quagga " * 40, "entailment")
    tokens = []
    for name, rows in (("with", [*ROWS, long]), ("without", ROWS)):
        data = prepare(
            TASK,
            tiny_tokenizer(),
            tokenizer_id="tiny",
            max_length=16,
            cache_dir=tmp_path / f"cache-{name}",
            data_dir=folder(tmp_path / name, rows),
        )
        split = data.splits["train"]
        assert data.max_length == 16
        assert int(split.lengths.max()) <= 16
        tokens.append(split.input_ids[: split.offsets[len(ROWS)]].tolist())
    assert tokens[0] == tokens[1]
