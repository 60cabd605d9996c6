"""The results grid's file, order, intervals and table; nothing is trained here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpft.privacy.schedule import schedule_for
from dpft.tables import MODES
from tests.benchmarks.grid import claimed, parse, waiting
from tests.benchmarks.grid_cells import EPSILONS, TASKS, Cell, cells, setting, spec_of
from tests.benchmarks.grid_results import Results, interval, lines_of_table, settings_in_words

ALL = list(cells(list(TASKS), list(MODES), EPSILONS, 3))


def line(cell: Cell, accuracy: float, **others: Any) -> dict[str, Any]:
    """What a run of ``cell`` writes."""
    usual = {
        "accuracy": accuracy,
        "total": 1000,
        "majority": 0.5,
        "steps": 8,
        "batch_size": 96,
        "sigma": None if cell.epsilon is None else 0.35,
        "learning_rate": 0.02,
        "warmup_fraction": 0.5,
        "max_grad_norm": None if cell.epsilon is None else 1.0,
        "precision": "bf16",
        "seconds": 20.0,
    }
    about = {"task": cell.task, "mode": cell.mode, "target": cell.epsilon, "seed": cell.seed}
    return {**about, **usual, **others}


def measured(accuracy: float = 0.8) -> Mapping[str, Any]:
    return {"accuracy": accuracy, "total": 1000, "majority": 0.5}


def test_there_are_all_cells_once_and_a_stop_leaves_whole_rounds() -> None:
    assert len(set(ALL)) == len(ALL) == 8 * 4 * 3 * 3
    assert {cell.seed for cell in ALL[:96]} == {0}
    assert [cell.task for cell in ALL[:24]] == ["sst2"] * 24
    assert len({cell.name for cell in ALL}) == len(ALL)


@pytest.mark.parametrize("rows", [8_999, 67_349, 67_350, 12_345])
def test_a_run_takes_exactly_the_steps_that_are_stated(rows: int) -> None:
    for cell in ALL[:96]:
        spec = spec_of(cell, rows, data_dir="glue", model="builtin:minilm", precision=None)
        schedule = schedule_for(rows, spec.optimisation, spec.privacy)
        chosen = setting(cell)
        assert (schedule.steps, schedule.expected_batch_size) == (chosen.steps, chosen.batch_size), cell
        assert spec.privacy.enabled == (cell.epsilon is not None)
        assert cell.epsilon is None or spec.privacy.target_epsilon == cell.epsilon
        ends = chosen.steps * chosen.batch_size // rows + 1  # of epochs, each of them scored
        assert ends <= (2 if cell.mode == "last-layer" else 1) or rows < TASKS[cell.task].rows


def test_what_is_in_the_file_is_not_run_again(tmp_path: Path) -> None:
    results = Results(tmp_path / "grid.jsonl")
    for cell in ALL[:5]:
        results.add(cell, measured())
    left = list(waiting(ALL[:9], Results(results.path), tmp_path))
    assert left == ALL[5:9]


def test_processes_share_a_file(tmp_path: Path) -> None:
    """What one has in hand the other leaves alone; what one has finished meanwhile the other sees."""
    results = Results(tmp_path / "grid.jsonl")
    mine, theirs = (waiting(ALL[:4], results, tmp_path) for _ in range(2))
    assert next(mine) == ALL[0]
    assert next(theirs) == ALL[1]
    results.add(ALL[0], measured())
    assert next(mine) == ALL[2]
    results.add(ALL[1], measured())
    assert next(theirs) == ALL[3]
    results.add(ALL[2], measured())
    assert list(mine) == []


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from filelock import FileLock\n"
        f"FileLock({str(tmp_path / 'claims' / (ALL[0].name + '.lock'))!r}).acquire()\n"
        "os._exit(9)"
    )
    (tmp_path / "claims").mkdir()
    subprocess.run([sys.executable, "-c", code], check=False)
    with claimed(ALL[0], Results(tmp_path / "grid.jsonl"), tmp_path) as free:
        assert free


def test_a_torn_line_costs_one_run_and_no_other(tmp_path: Path) -> None:
    results = Results(tmp_path / "grid.jsonl")
    results.add(ALL[0], measured())
    with results.path.open("a") as file:
        file.write(json.dumps(line(ALL[1], 0.7))[:40])
    results.add(ALL[2], measured())
    assert [results.has(cell) for cell in ALL[:4]] == [True, False, True, False]


def coverage(spread: float, runs: int, *, wrong: float = 1.0) -> float:
    """How often the interval holds the truth, where dev rows and runs both vary."""
    chance = np.random.default_rng(7)
    truth, rows, held, trials = 0.7, 400, 0, 1000
    for _ in range(trials):
        found = chance.binomial(rows, truth) / rows + spread * chance.standard_normal(runs)
        held += abs(found.mean() - truth) <= wrong * interval(list(found), rows)
    return held / trials


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("runs", [2, 3])
def test_the_interval_holds_the_truth_as_often_as_it_says(spread: float, runs: int) -> None:
    assert coverage(spread, runs) >= 0.93


def test_an_interval_that_is_too_narrow_is_seen() -> None:
    assert coverage(0.03, 3, wrong=0.6) < 0.93


def test_one_run_has_the_interval_of_its_dev_rows() -> None:
    assert interval([0.64], 900) == pytest.approx(1.95996 * math.sqrt(0.64 * 0.36 / 900), rel=1e-4)


def test_the_table_says_what_is_in_the_file() -> None:
    lines = [
        line(Cell("sst2", "lora", None, 0), 0.8),
        line(Cell("sst2", "lora", 8.0, 0), 0.72),
        line(Cell("sst2", "lora", 8.0, 1), 0.70),
        line(Cell("sst2", "lora", 3.0, 0), 0.51),
        line(Cell("mnli", "full", 8.0, 0), 0.4, majority=0.35, precision="fp32"),
    ]
    heads, _, majority, full, lora = lines_of_table(lines, list(TASKS), list(MODES))
    assert heads == "| mode | sst2 no DP | sst2 ε 8 | sst2 ε 3 | mnli ε 8 |"
    assert majority == "| majority class | 0.500 | 0.500 | 0.500 | 0.350 |"
    assert full == "| `full` | – | – | – | 0.400 ± 0.030¹ |"
    assert (
        lora
        == f"| `lora` | 0.800 ± 0.025¹ | 0.710 ± {interval([0.72, 0.7], 1000):.3f} | *0.510 ± 0.031*¹ | – |"
    )
    words = "\n".join(settings_in_words(lines))
    assert "1 to 2 runs a cell (5 in all;" in words
    assert "- sst2: `lora` 8 × 96 (50%, σ 0.3500 at ε 3, σ 0.3500 at ε 8)" in words
    assert "- `full`: – / 0.02, C 1, fp32" in words


def test_the_command_line_wants_data_to_train_with(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--out", "grid.jsonl"])
    assert "--data-dir is needed" in capsys.readouterr().err
    assert parse(["--out", "g", "--markdown", "--epsilons", "3", "no-dp"]).epsilons == [3.0, None]


def test_the_table_in_the_readme_is_the_one_that_its_runs_make() -> None:
    root = Path(__file__).parents[3]
    lines = Results(root / "tests/benchmarks/grid.jsonl").lines()
    shown = (root / "README.md").read_text(encoding="utf-8").splitlines()
    table = list(lines_of_table(lines, list(TASKS), list(MODES)))
    first = shown.index(table[0])
    assert shown[first : first + len(table)] == table
    assert f"{len(lines)} runs" in " ".join(shown[first - 8 : first])
