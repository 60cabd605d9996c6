"""Rows 13 and 19: every run is charged before its first step, whatever becomes of it; all of them compose."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpft.errors import LockedError, PrivacyError
from dpft.privacy.plan import PrivatePlan
from dpft.privacy.sampling import ShuffleSampler
from dpft.runs.ledger import Ledger
from dpft.runs.store import Store
from dpft.spec import RunSpec
from dpft.training import run as story
from dpft.training.composition import composed_epsilon
from dpft.training.run import train
from dpft.training.spending import Spending
from tests.unit.training.spenders import STEPS, StopsAfter, charged, spec_maker, tuning_of


@pytest.fixture
def spec(tiny_model: Path, glue_dir: Path) -> Any:
    return spec_maker(tiny_model, glue_dir)


class TestWhatIsCharged:
    def test_a_completed_run_is_settled_with_its_steps(self, spec: Any) -> None:
        record = train(spec())
        (entry,) = charged()
        assert (entry.run_id, entry.name, entry.dataset, entry.mode) == (
            record.run_id, record.name, "sst2", "ia3",
        )  # fmt: skip
        assert (entry.settled, entry.steps, entry.delta) == (STEPS, STEPS, record.delta)
        assert str(Path(spec().data.data_dir).parent) not in entry.source
        assert composed_epsilon([entry], record.delta or 0) == record.epsilon

    @pytest.mark.parametrize("step", [1, 2])
    def test_an_interrupted_run_is_settled_with_the_steps_taken(self, spec: Any, step: int) -> None:
        train(spec(), StopsAfter(step))
        (entry,) = charged()
        assert (entry.settled, (entry.event or {})["steps"]) == (step, STEPS)

    def test_a_run_stopped_before_it_was_charged_costs_nothing(self, spec: Any) -> None:
        train(spec(), StopsAfter(0))
        assert Ledger().fingerprints() == ()

    def test_a_failed_run_is_settled_with_the_steps_taken(self, spec: Any) -> None:
        with pytest.raises(ZeroDivisionError):
            train(spec(), StopsAfter(2, ZeroDivisionError))
        assert [entry.settled for entry in charged()] == [2]

    def test_a_run_without_privacy_is_recorded_as_unprotected(self, spec: Any) -> None:
        record = train(spec(enabled=False))
        (entry,) = charged()
        assert (entry.protected, entry.spent, entry.settled) == (False, None, STEPS)
        tuning = tuning_of(record.run_id)
        assert (tuning["runs_on_this_data"], tuning["unprotected_runs"]) == (1, 1)
        assert "composed_epsilon" not in tuning

    def test_a_run_that_is_not_as_accounted_for_is_recorded_as_unprotected(
        self, spec: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        genuine = story.make_plan

        def shuffled(*arguments: Any) -> Any:
            plan = genuine(*arguments)
            plan._sampler.draw = ShuffleSampler(60, 20, seed=0).draw
            return plan

        monkeypatch.setattr(story, "make_plan", shuffled)
        train(spec())
        (entry,) = charged()
        assert not entry.protected
        assert "sampler" in (entry.unaccounted or "")

    def test_what_cannot_be_settled_stays_charged_and_the_run_is_kept(
        self, spec: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def locked(*arguments: Any, **more: Any) -> None:
            raise LockedError("another process holds it", hint="")

        monkeypatch.setattr("dpft.runs.ledger.Charge.settle", locked)
        stopping = StopsAfter(1)
        record = train(spec(), stopping)
        assert (record.status, record.steps) == ("interrupted", 1)
        assert [entry.steps for entry in charged()] == [STEPS]
        assert any("all planned steps stay charged" in warning for warning in stopping.warnings)

    def test_a_damaged_ledger_stops_a_run_before_its_first_step(self, spec: Any) -> None:
        train(spec())
        (path,) = (Store().home / "ledger").glob("*.jsonl")
        path.write_bytes(path.read_bytes().replace(b'"steps":3,"checksum"', b'"steps":1,"checksum"'))
        with pytest.raises(PrivacyError, match="damaged"):
            train(spec())
        assert (Store().list()[0].status, Store().list()[0].steps) == ("failed", 0)

    def test_a_lost_key_stops_a_run(self, spec: Any) -> None:
        train(spec())
        (Store().home / "secret.key").unlink()
        with pytest.raises(PrivacyError, match=r"secret\.key is gone"):
            train(spec())

    def test_a_torn_ledger_is_told(self, spec: Any) -> None:
        train(spec())
        (path,) = (Store().home / "ledger").glob("*.jsonl")
        path.write_bytes(path.read_bytes()[:-9])
        listening = StopsAfter(99)
        train(spec(), listening)
        assert sum("torn" in warning for warning in listening.warnings) == 1
        assert [entry.settled for entry in charged()] == [None, STEPS]  # the first one's settlement is gone


class TestBeforeTheFirstStep:
    """Write-ahead: at the first draw the charge is on the disk."""

    def charged_at_first_draw(self, spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> bool:
        found: list[bool] = []
        genuine = PrivatePlan.draw

        def draw(plan: PrivatePlan) -> Any:
            found.append(bool(Ledger().fingerprints()))
            return genuine(plan)

        with monkeypatch.context() as patch:
            patch.setattr(PrivatePlan, "draw", draw)
            train(spec)
        return found[0]

    def test_it_is_charged(self, spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.charged_at_first_draw(spec(), monkeypatch)

    def test_charging_afterwards_is_found_out(self, spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[Spending, tuple[str, str]]] = []
        charge, settle = Spending.charge, Spending.settle

        def late(spending: Spending) -> None:
            while asked:
                charge(asked[0][0], *asked.pop()[1])
            settle(spending)

        monkeypatch.setattr(Spending, "charge", lambda spending, *run: asked.append((spending, run)))
        monkeypatch.setattr(Spending, "settle", late)
        assert not self.charged_at_first_draw(spec(), monkeypatch)

    def test_killed_between_charge_and_first_step(self, spec: Any) -> None:
        program = (
            "import os, signal, sys\n"
            "from dpft.spec import RunSpec\n"
            "from dpft.training import run\n"
            "run.fit = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)\n"
            "run.train(RunSpec.model_validate_json(sys.stdin.read()))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], input=spec().model_dump_json(), text=True, capture_output=True
        )
        assert done.returncode == -9, done.stderr
        (entry,) = charged()
        assert (entry.settled, entry.steps) == (None, STEPS)
        assert Store().list()[0].status == "crashed"


class TestWhichData:
    """A ledger is of the training rows, and of nothing else."""

    def fingerprints(self, *specs: RunSpec) -> set[str]:
        for one in specs:
            train(one)
        return set(Ledger().fingerprints())

    @pytest.fixture
    def moved(self, glue_dir: Path, tmp_path: Path) -> Callable[[Callable[[list[str]], list[str]]], Path]:
        def move(change: Callable[[list[str]], list[str]]) -> Path:
            folder = tmp_path / "elsewhere"
            shutil.copytree(glue_dir, folder)
            path = folder / "SST-2" / "train.tsv"
            head, *rows = path.read_text().splitlines()
            path.write_text("\n".join([head, *change(rows)]) + "\n")
            return folder

        return move

    def test_order_path_length_mode_and_privacy_do_not_matter(self, spec: Any, moved: Any) -> None:
        shuffled = moved(lambda rows: random.Random(1).sample(rows, len(rows)))
        others = (spec(data=shuffled), spec(length=24), spec(mode="last-layer"), spec(enabled=False))
        assert len(self.fingerprints(spec(), *others)) == 1
        assert len(charged()) == 5

    @pytest.mark.parametrize("change", ["one row fewer", "one row twice", "one label"])
    def test_another_row_is_another_dataset(self, spec: Any, moved: Any, change: str) -> None:
        changes: dict[str, Callable[[list[str]], list[str]]] = {
            "one row fewer": lambda rows: rows[1:],
            "one row twice": lambda rows: [*rows, rows[0]],
            "one label": lambda rows: [rows[0][:-1] + ("0" if rows[0][-1] == "1" else "1"), *rows[1:]],
        }
        assert len(self.fingerprints(spec(), spec(data=moved(changes[change])))) == 2
