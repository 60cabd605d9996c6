"""``dpft plan``: what it answers, how it draws, and that nothing heavy is needed for it."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from dpft.accounting import MechanismEvent, guarantee
from dpft.accounting.pld import PLD
from dpft.cli import render
from dpft.cli.app import main
from dpft.cli.views import plan as view
from dpft.cli.views.chart import Axis, chart, ticks
from dpft.privacy.schedule import derive_schedule
from dpft.runs.ledger import Ledger
from dpft.runs.secret import keyed_fingerprint
from dpft.spec import OptimisationSpec
from dpft.training.prospect import Curve, Frontier, Prospect

from .conftest import Command

QUICK = ("--examples", 4000, "--noise-multiplier", 6)
EVENT = MechanismEvent(0.0625, 6.0, 48)
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_a_plan(dpft: Command) -> None:
    document = dpft("plan", *QUICK, "--json").json
    assert set(document) == {"plan"}
    plan = document["plan"]
    found = guarantee([EVENT], 1 / 8000)
    assert plan["status"] == "planned"
    assert (plan["examples"], plan["batch_size"], plan["epochs"], plan["steps"]) == (4000, 250, 3.0, 48)
    assert (plan["sample_rate"], plan["noise_multiplier"], plan["delta"]) == (0.0625, 6.0, 1 / 8000)
    assert plan["epsilon"] == found.epsilon
    assert plan["epsilon_replace_one"] == found.epsilon_replace_one
    assert plan["epsilon_rdp"] == found.epsilon_rdp
    assert not {"target_epsilon", "ledger"} & set(plan)
    text = dpft("plan", *QUICK).out
    assert "4,000 examples" in text
    assert "dpft train -d DATASET --batch-size 250 --epochs 3 --noise-multiplier 6" in text
    own = dpft("plan", "-d", "demo", "--batch-size", 250, "--noise-multiplier", 6, "--target-delta", 1e-6).out
    assert "dpft train -d demo --target-delta 1e-06 --batch-size 250" in own


def test_a_target_is_kept(dpft: Command) -> None:
    plan = dpft("plan", "-n", 4000, "--target-epsilon", 0.3, "--target-delta", 1e-6, "--json").json["plan"]
    assert 0.29 < plan["epsilon"] <= 0.3
    assert (plan["target_epsilon"], plan["delta"]) == (0.3, 1e-6)


def test_the_frontier_as_json_and_as_a_table(dpft: Command) -> None:
    document = dpft("plan", *QUICK, "--frontier", "--json").json
    curves = document["frontier"]
    assert set(curves) == {"noise_multiplier", "epsilon", "by_batch_size", "by_epochs"}
    assert len(curves["noise_multiplier"]) == len(curves["epsilon"]) >= 10
    assert 6.0 in curves["noise_multiplier"]
    assert set(curves["by_batch_size"]) == {"batch_size", "steps", "epsilon"}
    assert set(curves["by_epochs"]) == {"epochs", "steps", "epsilon"}
    text = dpft("plan", *QUICK, "--frontier").out
    stated = f"{curves['epsilon'][curves['noise_multiplier'].index(6.0)]:.4f}"
    assert [line.split() for line in text.splitlines() if line.endswith("planned")][1:] == [
        [value, "48", stated, "planned"] for value in ("6", "250", "3")
    ]
    assert "\x1b" not in text


def test_what_a_target_affords(dpft: Command) -> None:
    asked = (*QUICK, "--target-epsilon", 0.3)
    document = dpft("plan", *asked, "--afford-epochs", "--json").json
    found = document["affordable"]
    assert set(found) >= {"epochs", "steps", "epsilon"}
    assert found["epsilon"] == document["plan"]["epsilon"] <= 0.3
    assert found["steps"] == document["plan"]["steps"]
    assert PLD.epsilon([EVENT.with_steps(found["steps"] + 1)], 1 / 8000) > 0.3
    again = dpft("plan", *QUICK, "--epochs", found["epochs"], "--json").json["plan"]
    assert (again["steps"], again["epsilon"]) == (found["steps"], found["epsilon"])
    by_batch = dpft("plan", *asked, "--afford-batch-size", "--json").json["affordable"]
    assert by_batch["epochs"] == 3.0
    assert by_batch["epsilon"] <= 0.3
    text = dpft("plan", *asked, "--afford-epochs").out
    assert f"{found['epochs']:.12g} epochs at batch size 250: {found['steps']} steps" in text


def test_nothing_is_affordable(dpft: Command) -> None:
    asked = ("plan", "-n", 100, "--noise-multiplier", 1, "--target-epsilon", 0.01, "--afford-epochs")
    document = dpft(*asked, "--json").json
    assert set(document) == {"affordable"}
    assert (document["affordable"]["epochs"], document["affordable"]["steps"]) == (0, 0)
    assert "nothing: one step would pass ε 0.01" in dpft(*asked).out


def charge(fingerprint: str, **changes: Any) -> None:
    given: dict[str, Any] = {
        "run_id": f"{1:016x}", "name": "run-1", "dataset": "demo", "source": "built-in", "mode": "lora",
        "event": EVENT.to_dict(), "delta": 1e-6,
    }  # fmt: skip
    Ledger().charge(fingerprint=fingerprint, **{**given, **changes}).settle(48)


@pytest.mark.parametrize("named", [False, True])
def test_what_was_spent_counts(dpft: Command, named: bool) -> None:
    from dpft.data.sources import read_rows
    from dpft.tables import TASKS

    whose = ("--examples", 4000, "--fingerprint", "demo") if named else ("-d", "demo")
    asked = ("plan", *whose, "--noise-multiplier", 6)
    if not named:
        untouched = dpft(*asked, "--json").json["plan"]["ledger"]
        assert (untouched["runs"], untouched["before"]) == (0, 0.0)
        assert not (Path(os.environ["DPFT_HOME"]) / "secret.key").exists()
    charge(keyed_fingerprint(read_rows(TASKS.get("demo")).content_digest))
    plan = dpft(*asked, "--json").json["plan"]
    assert plan["examples"] == 4000
    assert plan["ledger"] == {
        "runs": 1,
        "unprotected_runs": 0,
        "delta": 1e-6,
        "before": PLD.epsilon([EVENT], 1e-6),
        "after": PLD.epsilon([EVENT.with_steps(96)], 1e-6),
    }
    afford = (*asked, "--target-epsilon", plan["ledger"]["after"], "--afford-epochs")
    found = dpft(*afford, "--json").json["affordable"]
    assert (found["steps"], found["epsilon"], found["delta"]) == (48, plan["ledger"]["after"], 1e-6)
    too_little = dpft(*asked, "--target-epsilon", 0.1, "--afford-epochs")
    assert "nothing" in too_little.out
    assert "was spent before" in too_little.out


def test_no_target_holds_beside_an_unprotected_run(dpft: Command) -> None:
    charge("ab" * 32, event=None, delta=None)
    asked = ("plan", *QUICK, "--fingerprint", "abab", "--target-epsilon", 3)
    refused = dpft(*asked, "--afford-epochs")
    assert refused.code == 4
    assert "without protection" in refused.err


def test_a_folder_is_counted(dpft: Command, glue_dir: Path) -> None:
    asked = ("plan", "-d", "sst2", "--data-dir", glue_dir, "--noise-multiplier", 6, "--batch-size", 20)
    assert dpft(*asked, "--json").json["plan"]["examples"] == 60
    own = glue_dir / "SST-2" / "train.tsv"
    columns = ("--text-column", "sentence", "--labels", "0,1")
    asked = ("plan", "-d", "mine", "--data-file", own, *columns, "--noise-multiplier", 6)
    rows = dpft(*asked, "--json").json["plan"]["examples"]
    assert 40 <= rows < 60  # some are set aside to score


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "either --examples or a dataset"),
        (("-n", 10, "-d", "demo"), 2, "either --examples or a dataset"),
        (("-d", "demmo"), 2, "demmo"),
        (("-d", "demo", "--fingerprint", "abab"), 2, "--fingerprint"),
        (("demo", "-n", 10), 2, "either --examples or a dataset"),
        (("demo", "sst2"), 2, "2 datasets"),
        (("-n", 10, "--fingerprint", "abab"), 3, "nothing was charged"),
        (("-n", 0), 2, "0 examples"),
        (("-n", -3), 2, "-3 examples"),
        (("-n", 10, "--batch-size", 11), 2, "larger than"),
        (("-n", 10, "--epochs", 0), 2, "--epochs"),
        (("-n", 10, "--target-epsilon", -1), 2, "--target-epsilon"),
        (("-n", 10, "--target-epsilon", "nan"), 2, "--target-epsilon"),
        (("-n", 10, "--noise-multiplier", 0), 2, "--noise-multiplier"),
        (("-n", 10, "--target-delta", 1), 2, "--target-delta"),
        (("-n", 10, "--target-delta", 0.5), 4, "delta"),
        (("-n", 10, "--target-epsilon", 1, "--noise-multiplier", 1), 2, "exclude each other"),
        (("-n", 10, "--afford-epochs"), 2, "needs --target-epsilon"),
        (("-n", 10, "--afford-epochs", "--target-epsilon", 1), 2, "needs --noise-multiplier"),
        (("-n", 10, "--afford-epochs", "--afford-batch-size"), 2, "exclude each other"),
        (("-n", 10, "--afford-epochs", "--epochs", 3), 2, "--epochs is what"),
        (("-n", 10, "--afford-batch-size", "--batch-size", 3), 2, "--batch-size is what"),
        (("-n", 10, "--afford-epochs", "--target-epsilon", -1, "--noise-multiplier", 1), 2, "--target-eps"),
        (("-n", 10, "-o", "frontier.doc"), 2, ".svg, .png, .pdf"),
        (("-n", 10, "-o", "nowhere/frontier.svg"), 3, "no folder"),
    ],
)
def test_wrong_input(dpft: Command, arguments: tuple[object, ...], code: int, message: str) -> None:
    outcome = dpft("plan", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err
    assert "hint: " in outcome.err


# -- drawings


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    pytest.importorskip("matplotlib", reason="needs the extra 'plots'")
    return tmp_path


def test_files(dpft: Command, figures: Path) -> None:
    svg, png = figures / "frontier.svg", figures / "frontier.png"
    text = dpft("plan", *QUICK, "-o", svg).out
    assert f"frontier written to {svg}" in text
    assert "ε against" not in text  # drawn only where it was asked for
    root = ElementTree.fromstring(svg.read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert oct(svg.stat().st_mode & 0o777) == "0o600"
    before = svg.read_bytes()
    again = dpft("plan", *QUICK, "-o", svg)
    assert (again.code, svg.read_bytes()) == (2, before)
    assert "there already" in again.err
    assert dpft("plan", *QUICK, "-o", svg, "--overwrite").code == 0
    assert svg.read_bytes() == before  # no dates, no random names
    assert dpft("plan", *QUICK, "-o", png, "--json").json["frontier"]
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    assert (width, height) == (1760, 608)


def test_without_matplotlib_the_extra_is_named(
    dpft: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = dpft("plan", *QUICK, "-o", tmp_path / "frontier.svg")
    assert outcome.code == 2
    assert "matplotlib" in outcome.err
    assert "pip install 'dpft[plots]'" in outcome.err
    assert outcome.out == ""


class Terminal(io.StringIO):
    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


def prospect() -> tuple[Prospect, Frontier]:
    schedule = derive_schedule(67_349, OptimisationSpec(learning_rate=1.0), None)
    found = guarantee([MechanismEvent(schedule.sample_rate, 9.0, schedule.steps)], schedule.delta)
    noise = Curve((4.5, 9.0, 18.0, 36.0), (0.41, 0.1234, 0.06, 0.02), (198,) * 4, 1)
    rising = Curve((1.0, 2.0, 3.0), (0.06, 0.1, 0.1234), (66, 132, 198), 2)
    batch = Curve((128, 1024, 8192), (0.05, 0.1234, 0.5), (1579, 198, 25), 1)
    return Prospect(schedule, 3.0, 9.0, None, found), Frontier(noise, batch, rising)


def drawn(monkeypatch: pytest.MonkeyPatch, width: int, *, term: str = "xterm-256color", **more: Any) -> str:
    stream = Terminal(**more)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setenv("TERM", term)
    view.answer(67_349, prospect()[0], None, None, data="-d demo")
    view.frontier(*prospect())
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 160])
def test_it_fits_every_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ESCAPE.sub("", drawn(monkeypatch, width))
    lines = text.splitlines()
    assert max(cell_len(line.rstrip()) for line in lines) <= min(width, 100)
    assert "…" not in text
    assert text.count("●") == 6  # in each drawing, and below it
    assert sum(line.startswith("ε against") for line in lines) == 3
    assert any(0x2800 < ord(character) < 0x2900 for character in text)


def test_colours_are_left_out_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" in drawn(monkeypatch, 80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in drawn(monkeypatch, 80)


@pytest.mark.parametrize(("term", "encoding"), [("dumb", "utf-8"), ("xterm", "latin-1")])
def test_plain_terminals_get_plain_characters(
    term: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ESCAPE.sub("", drawn(monkeypatch, 80, term=term, encoding=encoding))
    below = text[text.index("ε against σ") :]
    assert {character for character in below if ord(character) > 0x7F} <= set("εσ≤")
    assert "****" in below


def test_off_a_terminal_there_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    view.frontier(*prospect())
    text = capsys.readouterr().out
    assert not any(character in text for character in "●│*")
    assert text.count("planned") == 3
    assert render.stdout().is_terminal is False


@pytest.mark.parametrize("plain", [False, True])
def test_a_curve_falls_from_the_left_to_the_right(plain: bool) -> None:
    xs, ys = [1.0, 2.0, 4.0], [8.0, 4.0, 2.0]
    lines = [line.plain for line in chart(xs, ys, width=50, height=6, mark=1, plain=plain)]
    dots = [re.sub(r"^\s*[\d.,]*\s*[│┤|+]", "", line) for line in lines[:6]]
    starts = [len(line) - len(line.lstrip()) for line in dots]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert len(dots[-1]) == max(map(len, dots))
    assert sum("o" in line or "●" in line for line in lines) == 1
    assert ("⠉" in "".join(lines)) != plain


def test_degenerate_curves_are_drawn_too() -> None:
    for xs, ys in (([1.0], [0.0]), ([1.0, 2.0], [3.0, 3.0]), ([0.5, 5000.0], [1e-4, 90.0])):
        lines = chart(xs, ys, width=30, height=4, mark=0)
        assert len(lines) == 6
        assert max(len(line) for line in lines) <= 30


def test_ticks_are_on_the_axis() -> None:
    for axis in (Axis(0.27, 2.2), Axis(0.02, 57.0), Axis(3.6, 16.3), Axis(128, 8192), Axis(0, 1e-3)):
        found = ticks(axis, 6)
        assert 2 <= len(found) <= 6
        assert all(-1e-9 <= axis.at(tick) <= 1 + 1e-9 for tick in found if tick > 0 or not axis.logarithmic)


def test_nothing_heavy_is_imported() -> None:
    heavy = "torch", "transformers", "peft", "datasets", "evaluate", "matplotlib"
    code = (
        "import sys; from dpft.cli.app import main; code = main(['plan', '-d', 'demo', '--noise-multiplier', "
        "'6', '--afford-epochs', '--target-epsilon', '0.3', '--json']); "
        f"print(*(set({heavy!r}) & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == ""
    assert main(["plan", "--help"]) == 0
