"""Runs on files of one's own, from preparing to an export that is scored elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpft.runs.store import Store
from tests.conftest import BLAME, PRAISE

from .conftest import Command

pytestmark = pytest.mark.slow

ROWS = 90


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Reviews in a folder with a space in its name, some of them over two lines."""
    path = tmp_path / "meine Daten" / "отзывы.csv"
    path.parent.mkdir()
    lines = ["id,body,mood"]
    for number in range(ROWS):
        words = (PRAISE if number % 3 else BLAME)[number % 4]
        lines.append(
            f'{number},"{words}\n{"and fun " * (number % 7)}{number}",{"glad" if number % 3 else "sad"}'
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def options(file: Path, tiny_model: Path) -> list[object]:
    columns = ["--text-column", "body", "--label-column", "mood", "--labels", "sad,glad"]
    return ["--data-file", file, *columns, "-m", tiny_model, "--max-length", 16]


TRAINING = ("--batch-size", 20, "--epochs", 1, "--noise-multiplier", 3, "--name", "mine")


def test_a_run_from_its_file_to_an_export(
    dpft: Command, options: list[Any], file: Path, tmp_path: Path
) -> None:
    prepared = dpft("prepare", *options, "--json").json["datasets"][0]
    rows = {name: split["rows"] for name, split in prepared["splits"].items()}
    assert sum(rows.values()) == ROWS
    assert 0 < rows["validation"] < ROWS / 4

    (run,) = dpft("train", *options, *TRAINING, "--json").json["runs"]
    assert (run["dataset"], run["status"], set(run["metrics"])) == ("отзывы", "completed", {"accuracy", "f1"})
    manifest = json.loads((Path(run["run_dir"]) / "privacy.json").read_text())
    data, accesses = manifest["data"], {found["access"]: found for found in manifest["data_accesses"]}
    assert (data["rows"], data["labels"], data["dataset"]) == (rows["train"], ["sad", "glad"], "отзывы")
    assert accesses["validation split"]["classification"] == "dp"
    assert "not trained on" in accesses["validation split"]["detail"]
    assert accesses["evaluation"]["classification"] == "unaccounted"
    assert "reuse" in accesses["evaluation"]["detail"]
    assert "declared by the user" in accesses["label names"]["detail"]
    assert not any(place in json.dumps(manifest, ensure_ascii=False) for place in ("meine", "body", "mood"))
    assert dpft("verify", "mine").code == 0

    score = dpft("eval", "mine", "--json").json
    assert (score["rows"], score["metrics"]) == (rows["validation"], run["metrics"])
    assert dpft("eval", "mine", "-d", "отзывы", "--json").json == score
    other = tmp_path / "later.jsonl"
    other.write_text('{"text": "good fun", "label": 1}\n{"text": "dull", "label": "sad"}\n')
    elsewhere = ("--text-column", "text", "--label-column", "label")
    outcome = dpft("eval", "mine", "--data-file", other, *elsewhere, "--json")
    assert (outcome.json["rows"], outcome.json["dataset"]) == (2, "later")
    assert "training file" in dpft("eval", "mine", "--data-file", file).err

    folder = tmp_path / "shared"
    assert dpft("export", "mine", "--output", folder).code == 0
    assert dpft("verify", folder).code == 0
    base = ("-m", options[options.index("-m") + 1])
    assert dpft("eval", folder, *base).code == 2  # it does not hold its data
    assert (
        dpft("eval", folder, *base, "--data-file", other, "--json").json["metrics"] == outcome.json["metrics"]
    )

    wrong: dict[tuple[object, ...], tuple[int, str]] = {
        ("eval", "mine", "--data-file", other): (1, "no column 'body'"),
        ("eval", "mine", "--data-file", other, *elsewhere, "--labels", "glad,sad"): (
            2,
            "the run answers sad/glad",
        ),
        ("eval", "mine", "--data-file", other, "--text-column", "text", "--text-column", "x"): (2, "once"),
        ("eval", "mine", "--text-column", "text"): (2, "no effect without --data-file"),
        ("eval", "mine", "--labels", "a,b"): (2, "no effect without --data-file"),
        ("eval", "mine", "--data-file", tmp_path / "none.csv"): (3, "no file"),
        ("eval", "mine", "--data-file", other, "--data-dir", tmp_path): (2, "exclude each other"),
        ("eval", "mine", "--data-dir", tmp_path): (2, "not on a GLUE folder"),
        ("eval", "mine", "-d", "moods"): (2, "unknown dataset"),
        ("eval", "mine", "-d", "qnli", "--data-dir", tmp_path): (2, "the run answers sad/glad"),
    }
    for arguments, (code, message) in wrong.items():
        refused = dpft(*arguments, *(elsewhere if "none.csv" in str(arguments) else ()))
        assert (refused.code, message in refused.err) == (code, True), (arguments, refused.err)
    file.unlink()
    gone = dpft("eval", "mine")
    assert (gone.code, "no file" in gone.err) == (3, True)


def test_runs_with_and_without_a_validation_file_share_a_ledger(
    dpft: Command, options: list[Any], file: Path
) -> None:
    dev = file.with_name("dev.csv")
    dev.write_text("body,mood\ngood fun,glad\ndull,sad\n")
    plain = ("train", *options, *TRAINING[:-2])
    assert dpft(*plain).code == 0
    file.write_text("\n".join(["id,body,mood", *_backwards(file)]) + "\n")
    (plan,) = dpft(*plain, "--validation-file", dev, "--plan", "--json").json["runs"]
    assert plan["ledger"]["runs"] == 1
    assert plan["ledger"]["after"] > plan["ledger"]["before"] > 0


def _backwards(file: Path) -> list[str]:
    """The rows of :func:`file`, each of two lines, in another order."""
    lines = file.read_text().splitlines()[1:]
    return ["\n".join(lines[start : start + 2]) for start in range(len(lines) - 2, -1, -2)]


def test_a_resumed_run_keeps_its_file(
    dpft: Command, options: list[Any], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dpft.training.run.fit", interrupted)
        assert dpft("train", *options, *TRAINING).code == 130
    (record,) = Store().list()
    assert record.status == "interrupted"
    again = ("train", "--resume", "mine")
    refused = dpft(*again, "--labels", "glad,sad")
    assert (refused.code, "--labels is glad,sad" in refused.err) == (2, True)
    assert dpft(*again, "--data-file", file.with_name("dev.csv")).code == 2
    finished = dpft(*again, *options[:8], "--json")
    assert finished.json["runs"][0]["status"] == "completed"
