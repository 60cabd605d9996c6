"""``list``, ``show`` and ``compare`` as they are used."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from dpft.cli.app import main
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from tests.unit.runs.builders import make_manifest, make_spec, private_parts

from .conftest import Command

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command on a terminal of some width; the lines it shows."""

    def call(width: int, *arguments: str, term: str = "xterm-256color") -> list[str]:
        stream = Terminal()
        for name, value in (("COLUMNS", str(width)), ("LINES", "24"), ("TERM", term)):
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        assert main([*arguments]) == 0
        return [line.rstrip() for line in ESCAPE.sub("", stream.getvalue()).splitlines()]

    return call


def made(name: str, *, private: bool = True, epsilon: float | None = 3.76968, **fields: Any) -> RunRecord:
    """A run that came to an end: a private one with a manifest."""
    spec = make_spec(name, private=private)
    with Store().create(spec) as run:
        for step, accuracy in enumerate((0.5, 0.7, 0.65, 0.85), start=1):
            run.append_metrics({"step": step, "validation_accuracy": accuracy})
        manifest = None
        if private and epsilon is not None:
            parts = private_parts(run.record.run_id)
            guarantee = parts["guarantee"].model_copy(update={"epsilon": epsilon})
            manifest = make_manifest(**{**parts, "guarantee": guarantee}).to_dict()
        status = "completed" if manifest else "failed"
        given = {"metrics": {"accuracy": 0.85}, "baselines": {"majority": 0.5}, "seconds": 60.0, **fields}
        return run.finish(status, manifest=manifest, **given)  # type: ignore[arg-type]


def names(outcome: Any) -> list[str]:
    return [run["name"] for run in outcome.json["runs"]]


class TestList:
    def test_filters_and_orders(self, dpft: Command) -> None:
        made("one", metrics={"accuracy": 0.7})
        made("two", epsilon=2.0, metrics={"accuracy": 0.9})
        made("three", private=False, metrics={"accuracy": 0.8})
        assert names(dpft("list", "--filter", "accuracy>0.75 and epsilon<=3", "--json")) == ["two"]
        assert names(dpft("list", "--sort", "epsilon", "--json")) == ["two", "one", "three"]
        assert names(dpft("list", "--sort", "accuracy:desc", "--json")) == ["two", "three", "one"]
        assert names(dpft("list", "--filter", "not private", "--json")) == ["three"]
        assert (
            dpft("list", "--filter", "accuracy > 0.99").out == "no run is like that: see 'dpft list --all'\n"
        )
        assert len(dpft("list", "--filter", "private", "-q").out.split()) == 2

    def test_columns(self, dpft: Command) -> None:
        made("one", tags=["a", "b"], note="größer")
        table = dpft("list", "--columns", "name,EPSILON,tags,note,delta,seconds,majority").out.splitlines()
        assert table[0].split() == ["name", "ε", "tags", "note", "δ", "time", "majority"]
        assert table[1] == "one  3.7697 a, b größer 1.00e-06 1 min 00 s   0.5000"
        wrong = dpft("list", "--columns", "name,epsilom")
        assert (wrong.code, wrong.err.count("\n")) == (2, 2)
        assert "did you mean 'epsilon'?" in wrong.err
        assert dpft("list", "--columns", ",").code == 2
        assert "trainable_parameters" in dpft("list", "--help").out

    @pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
    def test_it_fits_and_says_what_it_left_out(self, on_terminal: Any, width: int) -> None:
        made("a-name-of-some-length")
        lines = on_terminal(width, "list")
        assert max(cell_len(line) for line in lines) <= width
        text = " ".join(lines)
        assert ("no room for" in text) == (width < 80)
        assert "name" in lines[0]
        chosen = on_terminal(width, "list", "-c", "note,created,name,model,status")
        assert max(cell_len(line) for line in chosen) <= width

    def test_twenty_rows(self, dpft: Command) -> None:
        for number in range(22):
            with Store().create(make_spec(f"run-{number}")) as run:
                run.finish("failed", manifest=None)
        out = dpft("list").out
        assert len([line for line in out.splitlines() if "failed" in line]) == 20
        assert "2 older runs not shown: dpft list --all" in out
        assert "2 more runs not shown" in dpft("list", "--sort", "name").out
        assert dpft("list", "--all").out.count("failed") == 22

    def test_a_dataset_of_ones_own_can_be_asked_for(self, dpft: Command) -> None:
        made("one")
        assert dpft("list", "--dataset", "sst3").code == 2


class TestShow:
    def test_the_way_of_the_score(self, dpft: Command) -> None:
        made("one")
        assert "validation   ▁▅▄█  accuracy 0.5000 to 0.8500, best 0.8500, over 4 epochs" in dpft("show").out

    def test_on_a_dumb_terminal(self, on_terminal: Any) -> None:
        made("one")
        text = "\n".join(on_terminal(100, "show", term="dumb"))
        assert "_+=@" in text
        assert "▁" not in text

    def test_what_to_do_next(self, dpft: Command) -> None:
        assert "dpft verify one" in dpft("show", made("one").name).out
        failed = made("two", epsilon=None)
        assert "next        dpft rm two" in dpft("show", "two").out
        (failed.run_dir / "checkpoints").mkdir()
        out = dpft("show", "two").out
        assert "dpft train --resume two" in out
        assert "dpft rm" not in out


class TestCompare:
    @pytest.fixture
    def pair(self) -> list[str]:
        made("one", metrics={"accuracy": 0.7}, note="a|b")
        made("two", epsilon=2.0, metrics={"accuracy": 0.9})
        return ["one", "two"]

    def test_only_what_differs(self, dpft: Command, pair: list[str]) -> None:
        out = dpft("compare", *pair).out
        heads = [line.split("  ")[0] for line in out.splitlines()]
        assert out.splitlines()[0].split() == pair
        assert {"accuracy", "ε", "note"} <= set(heads)
        assert "mode" not in heads
        assert re.search(r"^accuracy +0\.7000 +0\.9000 \*$", out, re.MULTILINE)
        assert re.search(r"^ε +3\.7697 +2\.0000 \*$", out, re.MULTILINE)
        assert re.search(r"\d+ equal rows not shown: --all", out)
        assert re.search(r"^mode +lora +lora$", dpft("compare", *pair, "--all").out, re.MULTILINE)

    def test_for_programs(self, dpft: Command, pair: list[str]) -> None:
        document = dpft("compare", *pair, "--json").json
        assert [run["name"] for run in document["runs"]] == pair
        rows = {row["field"]: row for row in document["rows"]}
        assert rows["accuracy"] == {"field": "accuracy", "values": [0.7, 0.9], "best": [1]}
        assert rows["epsilon"] == {"field": "epsilon", "values": [3.76968, 2.0], "best": [1]}
        table = [*csv.reader(io.StringIO(dpft("compare", *pair, "--csv").out))]
        assert table[0] == ["field", *pair]
        assert ["epsilon", "3.76968", "2.0"] in table
        assert ["note", "a|b", ""] in table
        lines = dpft("compare", *pair, "--md").out.splitlines()
        assert "| accuracy | 0.7000 | **0.9000** |" in lines
        assert "| note | a\\|b | — |" in lines
        assert len({re.sub(r"\\\|", "", line).count("|") for line in lines}) == 1
        assert len(dpft("compare", *pair, "-q").out.split()) == 2

    def test_what_it_wants(self, dpft: Command, pair: list[str]) -> None:
        alone = dpft("compare", "one", "@2")
        assert (alone.code, "only run one" in alone.err) == (2, True)
        assert dpft("compare", "one", "nobody").code == 3
        assert dpft("compare", *pair, "--csv", "--md").code == 2
        assert dpft("compare").code == 2

    @pytest.mark.parametrize("width", [40, 80])
    def test_it_fits_every_terminal(self, on_terminal: Any, width: int) -> None:
        wanted = [
            made(f"run-of-name-{number}", metrics={"accuracy": number / 10}).name for number in range(5)
        ]
        lines = on_terminal(width, "compare", *wanted)
        assert max(cell_len(line) for line in lines) <= width
        assert [name for name in wanted if name not in "\n".join(lines)] == []

    def test_a_run_without_a_manifest(self, dpft: Command) -> None:
        made("one")
        made("two", epsilon=None)
        rows = {row["field"]: row for row in dpft("compare", "one", "two", "--json").json["rows"]}
        assert rows["epsilon"]["values"] == [3.76968, None]
        assert rows["epsilon"]["best"] == []


@pytest.mark.parametrize("command", ["train", "list", "rm", "gc", "budget", "compare"])
def test_help_flows_to_the_width_and_tells_each_option(
    dpft: Command, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    out = dpft(command, "--help").out
    lines = [line.strip() for line in out.partition("╭")[0].splitlines()]
    *_, words = [part.split("\n") for part in "\n".join(lines).strip().split("\n\n")]
    assert all(len(line) + len(following.split()[0]) > 90 for line, following in pairwise(words))
    assert "Example: dpft" in out


def test_a_stream_that_lacks_letters_spells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made("one", note="größer")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["show", "one"]) == 0
    stream.flush()
    text = stream.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    for part in ("eps <= 3.7697 at delta <= 1.00e-06", "sigma 3.0000", "validation   _+=@", "gro?er"):
        assert part in text
    assert "one - sst2 - lora - completed" in text


def test_the_same_files_whatever_is_looked_at(dpft: Command) -> None:
    made("one")
    made("two")
    home = Path(Store().home)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    for command in (
        ["list"],
        ["show", "one"],
        ["compare", "one", "two"],
        ["gc", "--dry-run"],
        ["tag", "one"],
    ):
        assert dpft(*command).code == 0
        json.loads(dpft(*command, "--json").out)
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
