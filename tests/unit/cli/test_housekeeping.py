"""``rm``, ``restore``, ``gc``, ``tag``, ``note`` and completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from dpft.cli.complete import resumable_references, trashed_references
from dpft.runs.store import Store
from tests.test_house import HEAVY
from tests.unit.runs.builders import make_spec

from .conftest import Command


def failed(name: str) -> Path:
    with Store().create(make_spec(name)) as run:
        return run.finish("failed", manifest=None, steps=3).run_dir


class TestRemove:
    def test_there_and_back(self, dpft: Command) -> None:
        place = failed("mine")
        failed("other")
        outcome = dpft("rm", "mine")
        assert (outcome.code, outcome.err) == (0, "")
        assert f"moved to the trash: mine ({place.name[:8]}, sst2, lora)" in outcome.out
        assert "dpft restore mine" in outcome.out
        assert "removing a run refunds nothing" in outcome.out
        assert (place.exists(), (Store().home / "trash" / place.name).is_dir()) == (False, True)
        assert "mine" not in dpft("list", "--all").out
        assert dpft("show", "mine").code == 3
        assert [run["name"] for run in dpft("list", "--trash", "--json").json["runs"]] == ["mine"]
        assert dpft("restore", "mien").code == 3
        assert "did you mean mine" in dpft("restore", "mien").err
        assert "restored: mine" in dpft("restore", place.name[:6]).out
        assert "mine" in dpft("list").out
        assert "the trash is empty" in dpft("list", "--trash").out
        assert dpft("restore", "mine").code == 3

    def test_documents(self, dpft: Command) -> None:
        place = failed("mine")
        document = dpft("rm", "@latest", "mine", "--json").json
        assert document["removed"] == [{"run_id": place.name, "name": "mine"}]
        assert document["refunded"] is False
        (run,) = dpft("restore", "@latest", "--json").json["runs"]
        assert (run["name"], run["run_dir"]) == ("mine", str(place))
        assert dpft("rm", "mine", "-q").out.strip() == place.name
        assert dpft("restore", "mine", "-q").out.strip() == place.name

    def test_all_or_none(self, dpft: Command) -> None:
        failed("mine")
        assert dpft("rm", "mine", "nobody").code == 3
        with Store().create(make_spec("busy")):
            outcome = dpft("rm", "mine", "busy", "-y")
            assert outcome.code == 5
            assert "busy is being trained" in outcome.err
        assert [record.name for record in Store().list() if record.name == "mine"] == ["mine"]

    def test_names_taken_meanwhile(self, dpft: Command) -> None:
        failed("mine")
        dpft("rm", "mine")
        failed("mine")
        refused = dpft("restore", "mine")
        assert (refused.code, "--name" in refused.err) == (2, True)
        assert dpft("restore", "mine", "--name", "mine-too").code == 0
        assert dpft("restore", "a", "b", "--name", "x").code == 2

    @pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 130), (None, 130)])
    def test_on_a_terminal_it_asks(
        self, dpft: Command, monkeypatch: pytest.MonkeyPatch, answer: bool | None, code: int
    ) -> None:
        failed("mine")
        asked: list[str] = []

        def confirm(question: str, **more: Any) -> bool:
            asked.append(question)
            if answer is None:
                raise typer.Abort
            return answer

        monkeypatch.setattr("typer.confirm", confirm)
        assert dpft("rm", "mine").code == 0  # nobody is there
        dpft("restore", "mine")
        for stream in (sys.stdin, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("dpft.cli.rm.sys", Streams())
        outcome = dpft("rm", "mine")
        assert (outcome.code, asked) == (code, ["move mine to the trash?"])
        assert bool(Store().list()) != bool(answer)
        if not answer:
            assert "nothing was changed" in outcome.err
            assert dpft("rm", "mine", "-y").code == 0
            assert len(asked) == 1


class Streams:
    """Stands in for ``sys`` where a terminal is asked for."""

    class _Terminal:
        def isatty(self) -> bool:
            return True

    stdin = stderr = _Terminal()


class TestCollectGarbage:
    def test_it_says_what_and_then_does_it(self, dpft: Command) -> None:
        failed("mine")
        dpft("rm", "mine")
        assert dpft("gc").out == "nothing to delete\n"  # not that old
        wanted = dpft("gc", "--older-than", "0d", "--dry-run")
        assert "would be freed; nothing was deleted" in wanted.out
        assert len(Store().trash.runs()) == 1
        document = dpft("gc", "--older-than", "0d", "--dry-run", "--json").json
        assert (document["dry_run"], [item["kind"] for item in document["items"]]) == (True, ["trash"])
        assert document["bytes"] > 0
        done = dpft("gc", "--older-than", "0m")
        assert re.search(r"trash +[\d.]+ k?B +trash/[0-9a-f]{16} +removed today", done.out)
        assert "freed" in done.out
        assert Store().trash.runs() == []

    @pytest.mark.parametrize("age", ["", "30", "d", "-1d", "1y", "1.5d", "99999999d"])
    def test_ages(self, dpft: Command, age: str) -> None:
        outcome = dpft("gc", f"--older-than={age}")
        assert outcome.code == 2
        assert "write 30m, 12h, 7d or 2w" in outcome.err

    def test_prepared_data_is_told_of(self, dpft: Command) -> None:
        folder = Path(os.environ["DPFT_CACHE"]) / "prepared" / "sst2-ab"
        folder.mkdir(parents=True)
        (folder / "train.arrow").write_bytes(b"x" * 5000)
        assert "5.0 kB of prepared data" in dpft("gc").out
        assert folder.is_dir()
        assert dpft("gc", "--prepared").code == 0
        assert not folder.exists()


class TestLabels:
    def test_tags(self, dpft: Command) -> None:
        failed("mine")
        assert dpft("tag", "mine").out == "mine: no tags\n"
        assert dpft("tag", "mine", "+baseline", "+q=1", "+größer").out == "mine: baseline, q=1, größer\n"
        assert dpft("tag", "mine", "-q=1", "+x_y", "-q").out == "baseline\ngrößer\nx_y\n"
        assert dpft("tag", "mine", "-x_y", "+x_y", "--json").json["tags"] == ["baseline", "größer", "x_y"]
        assert [r["name"] for r in dpft("list", "--filter", "'x_y' in tags", "--json").json["runs"]] == [
            "mine"
        ]
        for wrong, remedy in (
            ("x", "+x"),
            ("-absent", "it has baseline, größer, x_y; leave out -absent"),
            ("+a/b", "letters"),
            ("+", "+TAG"),
        ):
            outcome = dpft("tag", "mine", wrong)
            assert (outcome.code, remedy in outcome.err) == (2, True)
        assert "Example: dpft tag" in dpft("tag", "--help").out

    def test_notes(self, dpft: Command) -> None:
        failed("mine")
        assert dpft("note", "mine").out == "mine: no note\n"
        assert dpft("note", "@latest", "größer, gleiche 予算").out == "mine: größer, gleiche 予算\n"
        assert "größer, gleiche 予算" in dpft("show", "mine").out
        assert dpft("note", "mine", "", "--json").json["note"] == ""
        assert dpft("note", "mine", "\x1b[2J").code == 2

    def test_a_running_run_keeps_its_own(self, dpft: Command) -> None:
        with Store().create(make_spec("busy")):
            assert dpft("tag", "busy", "+x").code == 5
            assert dpft("note", "busy", "x").code == 5


def complete(words: str) -> tuple[list[str], list[str]]:
    """What Bash is offered, and the heavy modules that were imported for it."""
    code = (
        "import atexit, sys; "
        "atexit.register(lambda: print(*{n.partition('.')[0] for n in sys.modules}, file=sys.stderr)); "
        "from dpft.cli.app import main; sys.exit(main())"
    )
    environment = {
        **os.environ,
        "_DPFT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    modules = done.stderr.split()
    ours = {*HEAVY, "tinydb", "yaml"} - {"pydantic"}  # which newer versions of Typer import by themselves
    return done.stdout.split(), [name for name in ours if name in modules]


@pytest.mark.slow
def test_completion_in_a_shell() -> None:
    place = failed("mine")
    offered = ["@latest", "mine", place.name[:8]]
    for command in (
        "show",
        "eval",
        "export",
        "verify",
        "rm",
        "compare mine",
        "tag",
        "note",
        "train --resume",
    ):
        assert complete(f"dpft {command} ") == (offered, []), command
    assert complete("dpft audit m") == (["mine"], [])
    assert complete("dpft list --sort eps") == (["epsilon"], [])
    assert complete("dpft list --columns name,acc") == (["name,accuracy"], [])
    assert complete("dpft compa")[0] == ["compare"]


def test_completion_of_removed_runs_and_of_those_that_can_go_on(dpft: Command) -> None:
    assert trashed_references("") == []
    place = failed("mine")
    dpft("rm", "mine")
    assert [name for name, _ in trashed_references("")] == ["mine", place.name[:8]]
    assert resumable_references("") == []
    Store().create(make_spec("killed")).close()  # still marked as running
    with Store().create(make_spec("alive")):
        assert [name for name, _ in resumable_references("ki")] == ["killed"]
        assert resumable_references("al") == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"runs": 7}', b'{"runs": {"1": 7}}', b"\xff"])
def test_a_tab_on_a_damaged_registry_offers_nothing(damage: bytes) -> None:
    failed("mine")
    (Store().home / "registry.json").write_bytes(damage)
    assert resumable_references("") == []
    assert (Store().home / "registry.json").read_bytes() == damage


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_each_shell(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dpft"],
        env={**os.environ, "_DPFT_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "_DPFT_COMPLETE=complete_" in done.stdout
