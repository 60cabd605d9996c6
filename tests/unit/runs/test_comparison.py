from __future__ import annotations

from pathlib import Path
from typing import Any

from dpft.runs.comparison import Row, Subject, compare, not_comparable
from dpft.runs.curves import validation_curve

from .builders import make_record, make_spec

CLAIM = {"guarantee": {"replace_one_epsilon": 6.5}, "mechanism": {"expected_batch_size": 256}}


def subject(number: int, manifest: dict[str, Any] | None = None, **fields: Any) -> Subject:
    return Subject(make_record(Path("runs"), f"{number:016x}", **fields), make_spec(), manifest)


def rows(*subjects: Subject) -> dict[str, Row]:
    return {row.field: row for row in compare(subjects)}


def test_the_best_of_each_is_marked() -> None:
    found = rows(
        subject(1, CLAIM, epsilon=3.0, delta=1e-5, metrics={"accuracy": 0.8, "f1": 0.7}, seconds=9.0),
        subject(2, epsilon=2.0, delta=1e-5, metrics={"accuracy": 0.9}, seconds=12.0),
        subject(3, private=False, metrics={"accuracy": 0.9}, seconds=9.0),
    )
    assert (found["epsilon"].values, found["epsilon"].best) == ((3.0, 2.0, None), (1,))
    assert found["accuracy"].best == (1, 2)
    assert found["seconds"].best == (0, 2)
    assert found["f1"].best == ()  # nothing to be better than
    assert found["replace_one_epsilon"].values == (6.5, None, None)
    assert found["expected_batch_size"].values == (256, None, None)
    assert found["steps"].best == ()


def test_what_cannot_be_compared_is_not_marked() -> None:
    pair = [
        subject(1, epsilon=3.0, delta=1e-5, metrics={"accuracy": 0.8}),
        subject(2, epsilon=2.0, delta=1e-3, metrics={"accuracy": 0.9}, dataset="qnli"),
    ]
    found = rows(*pair)
    assert found["epsilon"].best == found["accuracy"].best == ()
    assert "datasets differ" in not_comparable(pair)
    assert "δ's differ" in not_comparable(pair)
    assert not_comparable([pair[0], pair[0]]) == ""


def test_what_differs() -> None:
    found = rows(subject(1, tags=("a",)), subject(2, status="crashed"))
    assert {name for name, row in found.items() if row.differs} == {"status", "tags"}  # ids and times apart
    assert found["tags"].values == (["a"], None)
    assert {"learning_rate", "lora_r", "max_length", "max_grad_norm", "micro_batch_tokens"} <= found.keys()
    assert found["lora_r"].to_json() == {"field": "lora_r", "values": [8, 8], "best": []}


def test_the_validation_curve(tmp_path: Path) -> None:
    assert validation_curve(tmp_path) == ("accuracy", [])
    lines = [
        '{"step": 1, "validation_f1": 0.1, "validation_accuracy": 0.5}',
        "not json",
        "[]",
        '{"step": 2, "validation_accuracy": null}',
        '{"step": 3, "validation_accuracy": NaN}',
        '{"step": 3, "validation_accuracy": 0.75}',
        '{"step": 4, "validation_acc',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert validation_curve(tmp_path) == ("accuracy", [0.5, 0.75])
    (tmp_path / "metrics.jsonl").write_text('{"validation_f1": 1}\n')
    assert validation_curve(tmp_path) == ("f1", [1.0])
