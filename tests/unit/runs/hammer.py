"""Eight processes charge one ledger while they are killed and replaced; prints what was acknowledged.

    python -m tests.unit.runs.hammer HOME PROCESSES CHARGES KILLS

Each worker appends a line to a file of its own when a call has returned: that is the acknowledgement, which
the ledger must not break. A replacement goes on where the acknowledgements of its predecessor end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from dpft.runs.ledger import Ledger

__all__ = ["FINGERPRINT", "PLANNED"]

FINGERPRINT = "ab" * 32
PLANNED = 1000


def _work(home: Path, worker: int, charges: int) -> None:
    """Charge until ``charges`` are acknowledged; settle every other one."""
    acknowledged = home / f"worker-{worker}.jsonl"
    ledger = Ledger(home, warn=lambda message: _note(home / f"torn-{worker}.jsonl", message=message))
    lines = acknowledged.read_text().splitlines() if acknowledged.exists() else []
    for number in range(sum('"charged"' in line for line in lines), charges):
        event = {
            "sample_rate": 0.1, "noise_multiplier": 1.0, "steps": PLANNED, "adjacency": "add-or-remove-one",
        }  # fmt: skip
        charge = ledger.charge(
            fingerprint=FINGERPRINT,
            run_id=f"{worker:08x}{number:08x}",
            name="",
            dataset="sst2",
            source="",
            mode="lora",
            event=event,
            delta=1e-5,
        )
        _note(acknowledged, charged=charge.charge_id)
        if number % 2:
            charge.settle(number)
            _note(acknowledged, settled=charge.charge_id, steps=number)


def _note(path: Path, **facts: object) -> None:
    """One write call: a killed worker leaves the whole line or none of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, json.dumps(facts).encode() + b"\n")
    os.close(descriptor)


def _begin(home: Path, worker: int, charges: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _work(home, worker, charges)
        code = 0
    finally:
        os._exit(code)


def _main(home: Path, processes: int, charges: int, kills: int) -> None:
    began, luck, killed = time.monotonic(), random.Random(4), 0
    Ledger(home).entries(FINGERPRINT)
    living = {_begin(home, worker, charges): worker for worker in range(processes)}
    pause = 0.0
    while living:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            worker = living.pop(child)
            if os.WIFSIGNALED(status):
                living[_begin(home, worker, charges)] = worker
            elif status:
                raise SystemExit(f"worker {worker} failed")
        elif killed < kills and time.monotonic() > pause:
            os.kill(luck.choice(sorted(living)), signal.SIGKILL)
            killed += 1
            pause = time.monotonic() + luck.uniform(0.05, 0.5)
        else:
            time.sleep(0.003)
    print(json.dumps({"kills": killed, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *(int(text) for text in sys.argv[2:5]))
