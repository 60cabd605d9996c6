"""Which micro-batch is suggested, and when measuring stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpft.training import memory
from dpft.training.memory import Cost, measure, suggest


class Machine:
    """A machine whose costs are known: CPU seconds and bytes as functions of the examples."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, per_token: dict[int, float], *, bytes_each: int = 0
    ) -> None:
        self.clock, self.peak, self.bytes_each, self.ran = 0.0, 100, bytes_each, list[int]()
        self.per_token = per_token
        monkeypatch.setattr("time.process_time", lambda: self.clock)
        monkeypatch.setattr(memory, "peak_bytes", lambda: self.peak)
        monkeypatch.setattr(memory, "reset_peak", lambda: None)
        monkeypatch.setattr(memory, "_resident", lambda: 100)

    def run(self, examples: int) -> None:
        self.ran.append(examples)
        self.clock += 64 * examples * self.per_token.get(64 * examples, 0.001)
        self.peak = 100 + self.bytes_each * examples


def test_the_smallest_size_that_is_about_as_cheap_is_suggested() -> None:
    costs = [Cost(512, 4, 2.0, 1), Cost(1024, 8, 1.04, 2), Cost(2048, 16, 1.0, 4), Cost(4096, 32, 1.0, 8)]
    assert suggest(costs).tokens == 1024


def test_sizes_are_measured_until_they_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {512: 0.002, 4096: 0.0015}, bytes_each=10)
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    found = measure(machine.run, 64, extra_bytes=7)
    assert machine.ran == [1, 8, 16, 32, 64]
    assert [cost.tokens for cost in found.costs] == [512, 1024, 2048, 4096]
    assert found.suggested_tokens == 1024
    assert found.estimated_bytes == 100 + 160 + 7


def test_memory_is_not_exhausted(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {}, bytes_each=1000)
    monkeypatch.setattr(memory, "available_bytes", lambda: 50_000)
    measure(machine.run, 64)
    assert machine.ran == [1, 8, 16, 32]  # twice what 16 added fits in 70%, twice what 32 added does not
    assert 1000 * machine.ran[-1] < 0.7 * 50_000


def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, dict.fromkeys((512, 1024, 2048, 4096, 8192, 16384), 0.01))
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    measure(machine.run, 64)
    assert machine.ran == [1, 8, 16]  # 5 + 10 seconds are enough


def test_texts_longer_than_a_size_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {})
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    found = measure(machine.run, 4096)
    assert [cost.examples for cost in found.costs] == sorted({cost.examples for cost in found.costs})
    assert found.costs[0].tokens == 4096


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert memory._field(tmp_path / "none", "VmHWM") is None
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  12 kB\n")
    assert memory._field(tmp_path / "status", "VmHWM") == 12 * 1024
    assert memory._field(tmp_path / "status", "VmRSS") is None


def test_the_peak_sees_an_allocation() -> None:
    memory.reset_peak()
    before = memory.peak_bytes()
    held = bytearray(64 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    after = memory.peak_bytes()
    assert before is not None
    assert after is not None
    assert after - before >= 48 << 20
