"""What is read of a run for a report; and what is not."""

from __future__ import annotations

import json

import pytest

from dpft.accounting import MechanismEvent
from dpft.accounting.pld import PLD
from dpft.report.gather import ReportedRun, gather
from dpft.runs.record import RunRecord
from dpft.runs.store import Store

from .shelf import ROWS, STEPS, shelve


def read(record: RunRecord) -> ReportedRun:
    return gather(Store(), [record])[0]


def test_a_private_run() -> None:
    run = read(shelve(Store()))
    assert (run.epsilon, run.delta, run.problem) == (3.76968, 1e-6, None)
    assert [score.step for score in run.scores] == [128, 256, STEPS]
    assert run.interval is not None
    assert run.interval[0] < 0.75 < run.interval[1]
    assert run.interval == run.scores[-1].interval


def test_a_run_that_does_not_say_how_many_rows_has_no_interval() -> None:
    run = read(shelve(Store(), rows=None))
    assert run.interval is None
    assert all(score.interval is None for score in run.scores)


@pytest.mark.parametrize("kind", ["ordinary", "unclaimed", "stopped"])
def test_no_epsilon_where_none_is_claimed(kind: str) -> None:
    run = read(shelve(Store(), kind=kind))
    assert (run.epsilon, run.delta, run.spent, run.problem) == (None, None, (), None)


def test_epsilon_over_steps_is_never_below_the_truth_and_ends_as_claimed() -> None:
    run = read(shelve(Store()))
    assert run.manifest is not None
    event = run.manifest.events[0]  # type: ignore[index]
    assert [point.step for point in run.spent] == sorted({point.step for point in run.spent})
    assert (run.spent[0].step, run.spent[-1].step) == (1, STEPS)
    assert run.spent[-1].epsilon == run.epsilon
    assert [point.epsilon for point in run.spent] == sorted(point.epsilon for point in run.spent)
    for point in run.spent[1:-1:3]:
        exact = PLD.epsilon([MechanismEvent(event.sample_rate, event.noise_multiplier, point.step)], 1e-6)
        assert exact <= point.epsilon


def test_a_manifest_that_was_altered_claims_nothing() -> None:
    record = shelve(Store())
    path = record.run_dir / "privacy.json"
    document = json.loads(path.read_text())
    document["guarantee"]["epsilon"] = 0.5  # its sentence says 3.7697 still
    path.write_text(json.dumps(document))
    run = read(record)
    assert run.epsilon is None
    assert run.spent == ()
    assert "dpft verify" in str(run.problem)


def test_a_record_that_says_less_than_the_manifest_claims_nothing() -> None:
    record = shelve(Store()).revise(epsilon=0.5)
    run = read(record)
    assert run.epsilon is None
    assert "epsilon" in str(run.problem)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_a_damaged_manifest_is_told(content: str) -> None:
    record = shelve(Store())
    (record.run_dir / "privacy.json").write_text(content)
    assert "damaged" in str(read(record).problem)


def test_a_run_without_a_manifest_is_told() -> None:
    record = shelve(Store())
    (record.run_dir / "privacy.json").unlink()
    assert "no manifest" in str(read(record).problem)


def test_later_scores_replace_those_of_lost_steps_and_bad_lines_are_passed_over() -> None:
    record = shelve(Store())
    lines = [
        '{"step": 10, "validation_accuracy": 0.5}',
        '{"step": 20, "validation_accuracy": 0.6}',
        '{"step": 30, "validation_accuracy": 0.9}',
        '{"step": 20, "validation_accuracy": 0.61, "validation_f1": 0.7, "validation_rows": 100}',
        '{"step": true, "validation_accuracy": 0.1}',
        '{"step": 40, "validation_accuracy": 7}',
        '{"step": 40, "validation_accuracy": null}',
        "[3]",
        "torn {",
    ]
    (record.run_dir / "metrics.jsonl").write_text("\n".join(lines))
    scores = read(record).scores
    assert [(score.step, score.accuracy) for score in scores] == [(10, 0.5), (20, 0.61)]
    assert (scores[1].metrics["f1"], scores[1].rows) == (0.7, 100)
    assert ROWS != 100


def test_a_local_model_without_a_manifest_is_named_by_its_folder() -> None:
    record = shelve(Store(), checkpoint="/srv/models/bert").revise(status="failed")
    (record.run_dir / "privacy.json").unlink()
    assert read(record).model == "bert"
