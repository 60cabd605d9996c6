"""Eight processes on one ledger, killed and replaced all the while: nothing lost, nothing double."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpft.runs.ledger import Entry, Ledger

from .hammer import FINGERPRINT, PLANNED

REPOSITORY = Path(__file__).parents[3]
PROCESSES, CHARGES, KILLS = 8, 50, 24


def faults(entries: tuple[Entry, ...], acknowledged: list[dict[str, Any]], kills: int) -> list[str]:
    """What of the acknowledged the ledger does not hold, or holds twice; and what it holds unasked."""
    standing = {entry.charge_id: entry for entry in entries}
    charged = [note["charged"] for note in acknowledged if "charged" in note]
    settled = {note["settled"]: note["steps"] for note in acknowledged if "settled" in note}
    found = [f"lost: {charge_id}" for charge_id in charged if charge_id not in standing]
    found += [
        f"unsettled: {charge_id}"
        for charge_id, steps in settled.items()
        if charge_id in standing and standing[charge_id].settled != steps
    ]
    found += [
        f"refunded: {charge_id}"
        for charge_id in set(charged) & standing.keys() - settled.keys()
        if standing[charge_id].steps not in (PLANNED, int(standing[charge_id].run_id[8:], 16))
    ]
    found += [f"twice: {run_id}" for run_id, times in Counter(
        standing[charge_id].run_id for charge_id in charged if charge_id in standing
    ).items() if times > 1]  # fmt: skip
    if not len(standing) - len(charged) <= kills:  # a killed worker may leave one charge unacknowledged
        found.append(f"unasked: {len(standing) - len(charged)}")
    return found


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_double(home: Path, record_property: Any) -> None:
    home.mkdir()
    arguments = [str(number) for number in (PROCESSES, CHARGES, KILLS)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.runs.hammer", str(home), *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    notes = [
        json.loads(line) for path in home.glob("worker-*.jsonl") for line in path.read_text().splitlines()
    ]
    charged = sum("charged" in note for note in notes)
    assert charged == PROCESSES * CHARGES
    kills = figures["kills"]
    assert kills >= KILLS / 2
    entries = Ledger().entries(FINGERPRINT)
    assert faults(entries, notes, kills) == []
    figures |= {"charges": len(entries), "torn": len(list(home.glob("ledger/*.torn-*")))}
    record_property("figures", figures)
    print(figures)

    # The same judgement finds each thing that could have gone wrong.
    acknowledged = {note["charged"] for note in notes if "charged" in note}
    one = next(entry for entry in entries if entry.charge_id in acknowledged and entry.settled)
    rest = tuple(entry for entry in entries if entry is not one)
    unasked = tuple(replace(one, charge_id=f"{number:016x}") for number in range(kills + 1))
    for planted, told, kind in (
        (rest, notes, "lost"),
        ((*rest, replace(one, settled=0)), notes, "unsettled"),
        (entries, [*notes, *notes], "twice"),
        ((*entries, *unasked), notes, "unasked"),
    ):
        assert {fault.partition(":")[0] for fault in faults(planted, told, kills)} == {kind}


RACER = """
import sys, time
from dpft.errors import PrivacyError
from dpft.runs.ledger import Ledger
from dpft.training.composition import composed_epsilon
from dpft.accounting.event import MechanismEvent

EVENT = {"sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 50, "adjacency": "add-or-remove-one"}

def admit(entries):
    if not composed_epsilon(entries, 1e-5, MechanismEvent(**EVENT)) <= CAP:
        raise PrivacyError("the cap would be passed")
    time.sleep(0.2)

def careless(entries):
    pass

CAP = 1.2 * composed_epsilon((), 1e-5, MechanismEvent(**EVENT))
ledger = Ledger()
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[1] == "careless":
    admit(ledger.entries("ab" * 32))
try:
    ledger.charge(
        fingerprint="ab" * 32, run_id=sys.argv[2], name="", dataset="", source="", mode="", event=EVENT,
        delta=1e-5, admit=admit if sys.argv[1] == "right" else careless,
    )
except PrivacyError as error:
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(("how", "admitted"), [("right", 1), ("careless", 3)])
def test_processes_at_once_against_a_cap_that_one_fits(home: Path, how: str, admitted: int) -> None:
    """Asked under the lock, the cap admits one of three; asked before it (the planted bug), all three."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, how, f"{number:016x}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    codes = [racer.wait(timeout=120) for racer in racers]
    for racer in racers:
        racer.communicate()
    assert sorted(codes) == [0] * admitted + [4] * (3 - admitted)
    assert len(Ledger().entries(FINGERPRINT)) == admitted
