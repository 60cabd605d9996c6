"""``dpft audit --self-test`` as a user meets it: every planted fault is caught, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dpft.audit.faults import FAULTS

pytestmark = [pytest.mark.slow, pytest.mark.statistical]


def test_self_test_catches_every_planted_fault(tiny_model: Path, tmp_path: Path) -> None:
    """With chance from the operating system: so the clean audit may, once in 700 times, be a false alarm."""
    command = [sys.executable, "-m", "dpft", "audit", "--self-test", "--json", "-m", str(tiny_model)]
    effort = ["-f", "last-layer", "--canaries", "64", "--steps", "8"]
    done = subprocess.run([*command, *effort], cwd=tmp_path, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    missed = {
        planted["fault"]: set(planted["expected"]) - set(planted["caught_by"])
        for planted in found["planted"][1:]
    }
    assert missed == {fault.name: set() for fault in FAULTS}
    assert done.returncode == (0 if found["ok"] else 4)
