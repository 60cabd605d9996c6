"""Every wrong input is one line with a remedy and an exit code, and leaves everything stored as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from .wrong_input_cases import CASES
from .wrong_inputs import Case, Outcome, complaints, run, table


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_is_one_line_with_a_remedy(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    assert complaints(case, run(case, folder)) == []


def test_there_are_enough() -> None:
    assert len(CASES) >= 30
    assert len({case.name for case in CASES}) == len(CASES)


CASE = CASES[0]
GOOD = Outcome(
    2, "", "error: no such command 'trian'\nhint: did you mean 'train'? see 'dpft --help'\n", {}, {}
)


@pytest.mark.parametrize(
    ("outcome", "complaint"),
    [
        (Outcome(1, "", GOOD.err, {}, {}), "exit code 1"),
        (Outcome(2, "{}", GOOD.err, {}, {}), "on stdout"),
        (Outcome(2, "", GOOD.err.splitlines()[0], {}, {}), "no remedy"),
        (Outcome(2, "", "Traceback\n" + GOOD.err, {}, {}), "more than an error and a hint"),
        (Outcome(2, "", GOOD.err, {"a": b""}, {}), "stored was changed: a"),
        (Outcome(2, "", "error: internal error: KeyError\nhint: did you mean 'train'?", {}, {}), "'trian'"),
    ],
)
def test_what_would_not_do_is_told(outcome: Outcome, complaint: str) -> None:
    assert complaints(CASE, GOOD) == []
    assert complaint in "; ".join(complaints(CASE, outcome))


def test_the_table() -> None:
    lines = [*table(iter([(CASE, GOOD)]))]
    assert lines[-1].startswith("| 1 | a command misspelt | no such command 'trian' | did you mean 'train'?")
    assert lines[-1].endswith("| 2 | all |")
