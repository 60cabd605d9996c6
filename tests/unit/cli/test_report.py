"""``dpft report``, in this process."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dpft.runs.store import Store
from tests.unit.report.shelf import shelve
from tests.unit.runs.builders import make_spec

from .conftest import Command


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written without -o goes here."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_the_default_is_a_page_of_all_completed_runs(dpft: Command) -> None:
    store = Store()
    ids = [shelve(store, name).run_id for name in ("one", "two")]
    with store.create(make_spec("going-on")):
        answer = dpft("report", "--json")
    place = Path("report.html").absolute()
    assert answer.code == 0
    assert answer.json == {
        "path": str(place),
        "runs": ids[::-1],
        "format": "html",
        "chosen": "All 2 completed runs",
    }
    page = place.read_text(encoding="utf-8")
    assert "All 2 completed runs" in page
    assert "going-on" not in page
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_only_the_newest_unless_all_are_asked_for(dpft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpft.cli.report._NEWEST", 2)
    ids = [shelve(Store(), f"run-{number}").run_id for number in range(3)]
    answer = dpft("report", "--json")
    assert answer.json["runs"] == [ids[2], ids[1]]
    for text in (answer.json["chosen"], Path("report.html").read_text()):
        assert "The newest 2 of 3 completed runs" in text
    quiet = dpft("report", "--all", "-o", "all.html", "-q")
    assert (quiet.out.split(), quiet.err) == (ids[::-1], "")


def test_chosen_runs_come_once_in_the_order_given_whatever_their_status(dpft: Command) -> None:
    store = Store()
    first, second = shelve(store, "first"), shelve(store, "second")
    with store.create(make_spec("going-on")) as run:
        found = dpft("report", "going-on", "@3", "first", second.run_id[:8], "-q", "-o", "x.htm")
        assert found.out.split() == [run.record.run_id, first.run_id, second.run_id]
    assert "running" in Path("x.htm").read_text()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["-o", "x.md"], "md"),
        (["-o", "x.MARKDOWN"], "md"),
        (["--format", "md"], "md"),
        (["-o", "x.html"], "html"),
        (["-o", "x"], "html"),
        (["-o", "x.txt", "--format", "md"], "md"),
    ],
)
def test_the_ending_says_the_format(dpft: Command, arguments: list[str], kind: str) -> None:
    shelve(Store(), "one")
    answer = dpft("report", *arguments, "--json").json
    assert answer["format"] == kind
    assert Path(answer["path"]).read_text().startswith({"md": "## ", "html": "<!doctype html>"}[kind])


def test_standard_output_has_the_report_and_nothing_else(dpft: Command) -> None:
    shelve(Store(), "one")
    shown = dpft("report", "--format", "md", "-o", "-")
    assert shown.out.startswith("## ")
    assert list(Path().iterdir()) == []


def test_a_file_is_replaced_only_by_force_and_as_a_whole(
    dpft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelve(Store(), "one")
    Path("report.html").write_text("mine")
    refused = dpft("report")
    assert (refused.code, Path("report.html").read_text()) == (2, "mine")
    assert "--overwrite" in refused.err
    assert dpft("report", "-o", "report.pdf").code == 2

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        failed = dpft("report", "--force")
    assert (failed.code, Path("report.html").read_text()) == (1, "mine")
    assert "No space left" in failed.err
    assert "DPFT_HOME" not in failed.err
    assert [path.name for path in Path().iterdir()] == ["report.html"]
    assert dpft("report", "--force").code == 0
    assert Path("report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nobody"], 3, "no run 'nobody'"),
        (["-o", "missing/report.html"], 3, "there is no folder"),
        (["-o", "."], 2, "is a folder"),
        (["--format", "pdf"], 2, "choose one of: html, md"),
        (["--format", "md", "-o", "x.html"], 2, "is not a name for --format md"),
        (["one", "--all"], 2, "exclude each other"),
        (["-o", "-", "--json"], 2, "cannot both go to standard output"),
    ],
)
def test_wrong_input_is_told_in_a_line(dpft: Command, arguments: list[str], code: int, words: str) -> None:
    shelve(Store(), "one")
    found = dpft("report", *arguments)
    assert found.code == code
    assert words in found.err + found.out
    assert list(Path().iterdir()) == []


def test_without_a_completed_run_it_says_how_to_begin(dpft: Command) -> None:
    found = dpft("report")
    assert found.code == 3
    assert "dpft train" in found.err
    assert dpft("report", "--json").json["error"]["exit_code"] == 3
