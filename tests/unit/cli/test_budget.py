"""``dpft budget``: what is shown of a ledger, and that nothing heavy is needed for it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD
from dpft.accounting.rdp import RDP
from dpft.cli.app import main
from dpft.cli.wording import ledger_effect
from dpft.runs.ledger import Charge, Ledger
from dpft.training.observer import LedgerEffect

from .conftest import Command

EVENT = {"sample_rate": 0.1, "noise_multiplier": 2.0, "steps": 40, "adjacency": "add-or-remove-one"}
FIRST, SECOND = "ab" * 32, "ac" * 32
KEYS = {
    "fingerprint", "name", "names", "runs", "epsilon", "delta", "accountant", "second_accountant",
    "second_epsilon", "largest", "unprotected_runs", "still_charged", "charges",
}  # fmt: skip


@pytest.fixture
def charge() -> Callable[..., Charge]:
    ledger = Ledger()

    def make(number: int, fingerprint: str = FIRST, **changes: Any) -> Charge:
        given: dict[str, Any] = {
            "run_id": f"{number:016x}",
            "name": f"run-{number}",
            "dataset": "sst2",
            "source": "local files",
            "mode": "lora",
            "event": EVENT,
            "delta": 1e-5,
        }
        return ledger.charge(fingerprint=fingerprint, **{**given, **changes})

    return make


Make = Callable[..., Charge]


def test_nothing_charged(dpft: Command) -> None:
    assert dpft("budget", "--json").json == {"datasets": []}
    assert "no dataset was charged yet" in dpft("budget").out
    assert dpft("budget", "-q").out == ""
    assert dpft("budget", "sst2").code == 3


def test_all_runs_are_composed(dpft: Command, charge: Make) -> None:
    charge(1).settle(10)
    charge(2, delta=1e-6, dataset="renamed")
    charge(3, event=None, delta=None).settle(40)
    charge(4).settle(0)
    (found,) = dpft("budget", "--json").json["datasets"]
    assert set(found) == KEYS
    event = MechanismEvent(**EVENT)  # type: ignore[arg-type]
    events = [event.with_steps(10), event]
    assert (found["fingerprint"], found["runs"], found["delta"]) == (FIRST, 4, 1e-6)
    assert (found["epsilon"], found["second_epsilon"]) == (
        PLD.epsilon(events, 1e-6),
        RDP.epsilon(events, 1e-6),
    )
    assert found["largest"] == {"run_id": f"{2:016x}", "epsilon": PLD.epsilon([event], 1e-6)}
    assert (found["name"], found["names"]) == ("sst2", ["sst2", "renamed"])
    assert found["unprotected_runs"] == [f"{3:016x}"]
    assert found["still_charged"] == [f"{2:016x}"]
    assert [made["steps"] for made in found["charges"]] == [10, 40, 40, 0]
    (other,) = dpft("budget", "--delta", "1e-4", "--json").json["datasets"]
    assert (other["delta"], other["epsilon"]) == (1e-4, PLD.epsilon(events, 1e-4))


def test_it_is_told_in_words(dpft: Command, charge: Make) -> None:
    charge(1).settle(10)
    charge(2)
    charge(3, event=None, delta=None)
    text = dpft("budget").out
    assert "sst2 · dataset abababababababab" in text
    assert "at δ ≤ 1.00e-05 by 2 runs together" in text
    assert "run-2: all 40 planned steps, since the run is no longer in the store" in text
    assert "run-3: no ε covers what this revealed" in text
    assert "10 of 40" not in text
    assert "10 of 40" in dpft("budget", "sst2").out


@pytest.mark.parametrize("width", [50, 80, 140])
def test_it_fits_every_terminal(charge: Make, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    charge(1).settle(10)
    charge(2, mode="soft-prompt+lora", name="a-rather-long-name")
    charge(3, event=None, delta=None).settle(4)
    assert main(["budget", "sst2"]) == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).splitlines()
    assert max(cell_len(line) for line in lines) <= min(width, 100)
    assert "…" not in stream.getvalue()
    assert sum("unprotected" in line for line in lines) == 2


def test_a_dataset_that_no_epsilon_covers_has_none(dpft: Command, charge: Make) -> None:
    charge(1, event=None, delta=None).settle(5)
    (found,) = dpft("budget", "--json").json["datasets"]
    assert not {"epsilon", "delta", "second_epsilon", "largest"} & set(found)
    assert "no run on this data had an ε" in dpft("budget").out


def test_events_without_a_finite_epsilon_are_no_guarantee(dpft: Command, charge: Make) -> None:
    charge(1, event={**EVENT, "noise_multiplier": 0.002, "steps": 10**6})
    (found,) = dpft("budget", "--json").json["datasets"]
    assert "epsilon" not in found
    assert "too weak" in found["why_not"]
    assert "no valid (ε, δ) claimed" in dpft("budget").out


def test_one_dataset_by_name_or_fingerprint(dpft: Command, charge: Make) -> None:
    charge(1)
    charge(2, SECOND, dataset="qnli")
    assert dpft("budget", "-q").out.split() == [FIRST, SECOND]
    assert dpft("budget", "QNLI", "-q").out.split() == [SECOND]
    assert dpft("budget", SECOND[:8], "-q").out.split() == [SECOND]
    charge(3, "ab" * 31 + "cc")
    assert dpft("budget", "abab", "-q").code == 3
    assert "is ambiguous" in dpft("budget", "abab").err
    unknown = dpft("budget", "mnli")
    assert unknown.code == 3
    assert "charged were: qnli, sst2" in unknown.err
    assert dpft("budget", "ab").code == 3  # too short to mean one


@pytest.mark.parametrize("delta", ["0", "1", "nan"])
def test_a_delta_out_of_range_is_refused(dpft: Command, charge: Make, delta: str) -> None:
    charge(1)
    assert dpft("budget", "--delta", delta).code == 2


def test_a_damaged_ledger_and_a_lost_key_are_refused(dpft: Command, charge: Make) -> None:
    charge(1).settle(3)
    home = Path(os.environ["DPFT_HOME"])
    path = home / "ledger" / f"{FIRST}.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-12])
    torn = dpft("budget", "--json")
    assert torn.code == 0
    assert "was torn" in torn.err
    assert torn.json["datasets"][0]["still_charged"] == [f"{1:016x}"]
    path.write_bytes(whole.replace(b'"steps":40', b'"steps":30'))
    assert (dpft("budget").code, dpft("budget", "--json").json["error"]["exit_code"]) == (4, 4)
    path.write_bytes(whole)
    (home / "secret.key").unlink()
    lost = dpft("budget")
    assert lost.code == 4
    assert "secret.key is gone" in lost.err


def test_a_plans_effect_in_words() -> None:
    effect = LedgerEffect(runs=2, unprotected_runs=1, delta=1e-5, before=1.00001, after=2.00001)
    assert ledger_effect(effect, private=True).plain == (
        "2 runs on this data so far: ε ≤ 1.0001 (1 without protection); "
        "with this one ε ≤ 2.0001 at δ ≤ 1.00e-05"
    )
    first = LedgerEffect(runs=0, unprotected_runs=0, delta=1e-5, before=0.0, after=2.0)
    assert ledger_effect(first, private=True).plain == (
        "no run on this data so far; with this one ε ≤ 2.0000 at δ ≤ 1.00e-05"
    )
    endless = replace(effect, after=None)
    assert "with this one no finite ε" in ledger_effect(endless, private=True).plain
    assert "recorded as unprotected" in ledger_effect(replace(effect, delta=None), private=False).plain


def test_it_imports_no_machine_learning_library(charge: Make) -> None:
    charge(1)
    code = (
        "import sys; from dpft.cli.app import main; code = main(['budget', '--json']); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "peft", "datasets"} & set(done.stderr.split())
