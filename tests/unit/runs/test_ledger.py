"""The ledger: nothing that was charged is ever lost, and what cannot be read is never taken for nothing."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from dpft.errors import NotFoundError, PrivacyError, StoreError
from dpft.runs.ledger import Charge, Entry, Ledger
from dpft.runs.secret import keyed_fingerprint

FINGERPRINT = "ab" * 32
EVENT = {"sample_rate": 0.1, "noise_multiplier": 1.5, "steps": 50, "adjacency": "add-or-remove-one"}


@pytest.fixture
def ledger(home: Path) -> Ledger:
    return Ledger()


def charge(ledger: Ledger, run_id: str = "0123456789abcdef", **changes: Any) -> Charge:
    given: dict[str, Any] = {
        "fingerprint": FINGERPRINT,
        "run_id": run_id,
        "name": "calm-otter",
        "dataset": "sst2",
        "source": "a folder in the GLUE layout",
        "mode": "lora",
        "event": EVENT,
        "delta": 1e-5,
    }
    return ledger.charge(**{**given, **changes})


def steps(ledger: Ledger) -> list[int]:
    return [event["steps"] for event in ledger.events(FINGERPRINT)]


def file_of(home: Path) -> Path:
    return home / "ledger" / f"{FINGERPRINT}.jsonl"


class TestCharging:
    def test_a_charge_stands_for_its_planned_steps_until_it_is_settled(self, ledger: Ledger) -> None:
        made = charge(ledger)
        assert ledger.events(FINGERPRINT) == [EVENT]
        made.advance(20)
        assert steps(ledger) == [50]
        made.settle(17)
        assert steps(ledger) == [17]
        (entry,) = Ledger().entries(FINGERPRINT)
        assert (entry.settled, entry.mark, entry.name, entry.delta) == (17, 20, "calm-otter", 1e-5)

    def test_a_charge_settled_at_no_step_cost_nothing(self, ledger: Ledger) -> None:
        charge(ledger).settle(0)
        charge(ledger, event=None, delta=None).settle(0)
        assert ledger.events(FINGERPRINT) == []
        assert [entry.protected for entry in ledger.entries(FINGERPRINT)] == [True, True]

    def test_datasets_have_ledgers_of_their_own(self, ledger: Ledger) -> None:
        charge(ledger)
        charge(ledger, fingerprint="cd" * 32)
        assert ledger.fingerprints() == ("ab" * 32, "cd" * 32)
        assert len(ledger.entries(FINGERPRINT)) == 1
        assert ledger.entries("ef" * 32) == ()

    def test_a_run_without_privacy_is_recorded_and_has_no_event(self, ledger: Ledger) -> None:
        charge(ledger, event=None, delta=None)
        assert ledger.events(FINGERPRINT) == []
        assert [entry.protected for entry in ledger.entries(FINGERPRINT)] == [False]

    def test_steps_that_no_epsilon_covers_are_unprotected(self, ledger: Ledger) -> None:
        charge(ledger).settle(9, unaccounted="the sampler was another")
        (entry,) = ledger.entries(FINGERPRINT)
        assert not entry.protected
        assert ledger.events(FINGERPRINT) == []

    def test_the_caller_may_refuse_and_then_nothing_is_written(self, ledger: Ledger, home: Path) -> None:
        seen: list[Any] = []
        charge(ledger)
        before = file_of(home).read_bytes()

        def refuse(entries: Any) -> None:
            seen.extend(entries)
            raise PrivacyError("no more", hint="")

        with pytest.raises(PrivacyError, match="no more"):
            charge(ledger, admit=refuse)
        assert [type(entry) for entry in seen] == [Entry]
        assert file_of(home).read_bytes() == before

    @pytest.mark.parametrize(
        "changes",
        [
            {"event": {**EVENT, "steps": 0}},
            {"event": {**EVENT, "steps": -3}},
            {"event": {**EVENT, "noise_multiplier": 0.0}},
            {"event": {**EVENT, "noise_multiplier": float("nan")}},
            {"event": {**EVENT, "sample_rate": 1.5}},
            {"event": {**EVENT, "adjacency": "none"}},
            {"event": {name: value for name, value in EVENT.items() if name != "steps"}},
            {"event": {**EVENT, "more": 1}},
            {"delta": None},
            {"delta": 1.0},
            {"delta": float("nan")},
            {"event": None},
        ],
    )
    def test_what_cannot_be_accounted_cannot_be_charged(
        self, ledger: Ledger, home: Path, changes: dict[str, Any]
    ) -> None:
        with pytest.raises(PrivacyError):
            charge(ledger, **changes)
        assert not file_of(home).exists()

    @pytest.mark.parametrize("name", ["../../etc/passwd", "AB" * 32, "ab" * 31, ""])
    def test_a_fingerprint_cannot_name_another_file(self, ledger: Ledger, name: str) -> None:
        with pytest.raises(StoreError, match="no fingerprint"):
            charge(ledger, fingerprint=name)

    def test_only_the_owner_can_read_it(self, ledger: Ledger, home: Path) -> None:
        charge(ledger)
        assert stat.S_IMODE(file_of(home).stat().st_mode) == 0o600
        assert stat.S_IMODE(file_of(home).parent.stat().st_mode) == 0o700

    def test_it_is_on_the_disk_before_charging_returns(
        self, ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flushed: list[bytes] = []
        genuine = os.fsync

        def noting(descriptor: int) -> None:
            genuine(descriptor)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                flushed.append(b"folder")
            elif file_of(home).exists():
                flushed.append(file_of(home).read_bytes())

        monkeypatch.setattr(os, "fsync", noting)
        made = charge(ledger)
        content = file_of(home).read_bytes()
        head = content.splitlines(keepends=True)[0]
        begun = flushed.index(head)
        assert flushed[begun + 1 : begun + 3] == [b"folder", b"folder"]
        assert flushed[begun + 3 :] == [content[:-1], content]  # the line feed after its line is safe
        for act in (lambda: made.advance(3), lambda: made.settle(2)):
            act()
            assert flushed[-1] == file_of(home).read_bytes()


class TestSettling:
    def test_settling_twice_alike_is_no_harm_and_otherwise_refused(self, ledger: Ledger) -> None:
        made = charge(ledger)
        made.settle(3)
        made.settle(3)
        with pytest.raises(PrivacyError, match="is settled, at 3 steps"):
            made.settle(2)
        assert steps(ledger) == [3]

    def test_more_steps_than_charged_are_written_down_and_refused(self, ledger: Ledger) -> None:
        with pytest.raises(PrivacyError, match="51 steps were taken, 50 were charged"):
            charge(ledger).settle(51)
        assert steps(ledger) == [51]

    def test_a_lost_charge_is_settled_at_its_mark(self, ledger: Ledger) -> None:
        lost, unmarked = charge(ledger), charge(ledger)
        lost.advance(10)
        lost.advance(20)
        assert ledger.settle_lost(lost.charge_id).settled == 20
        assert ledger.settle_lost(unmarked.charge_id).settled is None
        assert steps(ledger) == [20, 50]
        with pytest.raises(PrivacyError, match="settled already"):
            ledger.settle_lost(lost.charge_id)
        with pytest.raises(NotFoundError):
            ledger.settle_lost("0" * 16)

    def test_a_process_that_was_taken_for_dead_may_take_no_step(self, ledger: Ledger) -> None:
        made = charge(ledger)
        made.advance(10)
        ledger.settle_lost(made.charge_id)
        with pytest.raises(PrivacyError, match="is settled, at 10 steps"):
            made.advance(20)

    @pytest.mark.parametrize("upto", [51, 9, -1])
    def test_marks_go_on_within_what_was_charged(self, ledger: Ledger, upto: int) -> None:
        made = charge(ledger)
        made.advance(10)
        with pytest.raises(PrivacyError, match="mark"):
            made.advance(upto)
        made.advance(10)
        made.advance(50)

    def test_the_charges_of_a_run_are_found(self, ledger: Ledger) -> None:
        charge(ledger, "0" * 16)
        charge(ledger, "1" * 16)
        charge(ledger, "0" * 16, start_step=30, event={**EVENT, "steps": 20})
        assert [(entry.start_step, entry.steps) for entry in ledger.of_run("0" * 16)] == [(0, 50), (30, 20)]


class TestTornLines:
    """Power cuts: the last line ends anywhere; everything before it stands."""

    def history(self, ledger: Ledger, last: str) -> None:
        charge(ledger).settle(7)
        second = charge(ledger)
        if last == "charge":
            return
        second.advance(30)
        if last == "settle":
            second.settle(29)

    @pytest.mark.parametrize("last", ["charge", "advance", "settle"])
    def test_at_every_byte(self, home: Path, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # what is torn is torn; this is for speed
        told: list[str] = []
        ledger = Ledger(warn=told.append)
        self.history(ledger, last)
        path = file_of(home)
        whole = path.read_bytes()
        before = whole[: whole[:-1].rindex(b"\n") + 1]
        kept = {"charge": [7, 50], "advance": [7, 50], "settle": [7, 29]}[last]
        torn = {"charge": [7], "advance": [7, 50], "settle": [7, 50]}[last]
        for cut in range(len(before), len(whole)):
            path.write_bytes(whole[:cut])
            told.clear()
            assert steps(ledger) == (kept if cut == len(whole) - 1 else torn), cut
            asides = list(home.glob("ledger/*.torn-*"))
            if cut in (len(before), len(whole) - 1):  # nothing torn: no byte of it, or all but the line feed
                assert told == []
                assert asides == []
            else:
                (warning,) = told
                (aside,) = asides
                assert aside.name in warning
                assert aside.read_bytes() == whole[len(before) : cut]
                assert stat.S_IMODE(aside.stat().st_mode) == 0o600
                aside.unlink()
                assert steps(ledger) == torn
                assert len(told) == 1  # mended: told once
            charge(ledger).settle(1)
            assert steps(ledger)[-1] == 1

    def test_a_torn_head_has_charged_nothing(self, ledger: Ledger, home: Path) -> None:
        charge(ledger)
        path = file_of(home)
        head = path.read_bytes().split(b"\n")[0]
        for cut in (0, 1, len(head) // 2, len(head) - 1, len(head), len(head) + 1):
            path.write_bytes((head + b"\n")[:cut])
            assert ledger.events(FINGERPRINT) == []
            charge(ledger)
            assert steps(ledger) == [50]

    def test_a_write_that_fails_leaves_no_trace(
        self, ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        charge(ledger)
        before = file_of(home).read_bytes()
        genuine = os.write

        def full(descriptor: int, data: bytes) -> int:
            return genuine(descriptor, data[: len(data) // 2])

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(StoreError, match="No space left"):
                charge(ledger)
        assert file_of(home).read_bytes() == before


class TestDamage:
    """What no power cut leaves is refused: with a line altered or gone, nobody can tell what was spent."""

    @pytest.fixture
    def path(self, ledger: Ledger, home: Path) -> Path:
        charge(ledger).settle(7)
        charge(ledger).settle(8)
        return file_of(home)

    def refuses(self, ledger: Ledger) -> None:
        for use in (lambda: ledger.events(FINGERPRINT), lambda: charge(ledger)):
            with pytest.raises(PrivacyError, match="the ledger is damaged") as caught:
                use()
            assert "backup" in caught.value.hint
            assert caught.value.exit_code == 4

    def test_every_altered_byte_is_seen(self, ledger: Ledger, path: Path) -> None:
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            altered = bytearray(whole)
            altered[place] ^= 1
            path.write_bytes(altered)
            if place < len(whole) - 1:
                self.refuses(ledger)
        path.write_bytes(whole)
        assert steps(ledger) == [7, 8]

    @pytest.mark.parametrize("gone", [0, 1, 2, 3])
    def test_a_missing_line_is_seen(self, ledger: Ledger, path: Path, gone: int) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        del lines[gone]
        path.write_bytes(b"".join(lines))
        self.refuses(ledger)

    def test_lines_in_another_order_or_twice_are_seen(self, ledger: Ledger, path: Path) -> None:
        head, *lines = path.read_bytes().splitlines(keepends=True)
        for changed in ([lines[2], lines[3], lines[0], lines[1]], [*lines, lines[-1]]):
            path.write_bytes(head + b"".join(changed))
            self.refuses(ledger)

    def test_an_edited_number_is_seen(self, ledger: Ledger, path: Path) -> None:
        path.write_text(path.read_text().replace('"steps":7,', '"steps":1,'))
        self.refuses(ledger)

    def test_another_datasets_ledger_is_seen(self, ledger: Ledger, path: Path) -> None:
        path.rename(path.with_name(f"{'cd' * 32}.jsonl"))
        with pytest.raises(PrivacyError, match="not the head of this dataset's"):
            ledger.entries("cd" * 32)

    def test_a_newer_ledger_is_not_read_as_an_old_one(self, ledger: Ledger, home: Path) -> None:
        from dpft.runs import ledger_entries

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dpft.runs.ledger_pages.SCHEMA_VERSION", "2.0")
            patch.setattr(ledger_entries, "SCHEMA_VERSION", "2.0")
            charge(ledger)
        with pytest.raises(PrivacyError, match=r"schema 2\.0") as caught:
            ledger.events(FINGERPRINT)
        assert "upgrade" in caught.value.hint


class TestKeys:
    def test_a_lost_key_is_not_replaced(self, ledger: Ledger, home: Path) -> None:
        charge(ledger)
        key = (home / "secret.key").read_bytes()
        (home / "secret.key").unlink()
        for use in (
            lambda: ledger.events(FINGERPRINT),
            lambda: charge(ledger),
            lambda: charge(ledger, fingerprint="cd" * 32),
            lambda: keyed_fingerprint(bytes(32)),
        ):
            with pytest.raises(PrivacyError, match=r"secret\.key is gone") as caught:
                use()
            assert "backup" in caught.value.hint
        assert not (home / "secret.key").exists()
        (home / "secret.key").write_bytes(key)
        assert steps(ledger) == [50]

    def test_another_key_is_refused_for_every_dataset(self, ledger: Ledger, home: Path) -> None:
        """Under it the dataset has another fingerprint, whose ledger would begin at nothing."""
        charge(ledger)
        (home / "secret.key").write_bytes(bytes(32))
        for use in (
            lambda: ledger.events(FINGERPRINT),
            lambda: ledger.events("cd" * 32),
            lambda: charge(ledger, fingerprint="cd" * 32),
        ):
            with pytest.raises(PrivacyError, match="another key"):
                use()
        assert ledger.fingerprints() == (FINGERPRINT,)

    def test_the_ledger_keeps_nothing_of_the_key(self, ledger: Ledger, home: Path) -> None:
        charge(ledger)
        content = file_of(home).read_text()
        assert (home / "secret.key").read_bytes().hex() not in content
        assert set(json.loads(content.splitlines()[0])) == {
            "schema_version", "seq", "time", "kind", "fingerprint", "key_check", "checksum",
        }  # fmt: skip
