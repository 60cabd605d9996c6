"""Rows 13 and 19: every run is charged before its first step, whatever becomes of it; all of them compose."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD
from dpft.errors import LockedError, PrivacyError
from dpft.privacy.plan import PrivatePlan
from dpft.privacy.sampling import ShuffleSampler
from dpft.runs.ledger import Entry, Ledger
from dpft.runs.statement import round_up_epsilon
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.training import run as story
from dpft.training.composition import composed_epsilon
from dpft.training.observer import Observer, Progress, RunFacts
from dpft.training.run import plan_run, resume, train
from dpft.training.spending import Spending

STEPS = 3


@pytest.fixture
def spec(tiny_model: Path, glue_dir: Path) -> Any:
    def make(
        *,
        mode: str = "ia3",
        data: Path = glue_dir,
        length: int = 32,
        every: int | None = None,
        **privacy: Any,
    ) -> RunSpec:
        given = {} if privacy.get("enabled") is False else {"target_epsilon": None, "noise_multiplier": 1.5}
        return RunSpec(
            data=DataSpec(dataset="sst2", data_dir=str(data), max_length=length),
            model=ModelSpec(checkpoint=str(tiny_model)),
            tuning=TuningSpec(mode=mode),
            privacy=PrivacySpec(**{**given, **privacy}),
            optimisation=OptimisationSpec(learning_rate=1e-2, batch_size=20, epochs=1.0),
            hardware=HardwareSpec(micro_batch_tokens=400, checkpoint_every=every),
        )

    return make


class StopsAfter(Observer):
    """Ctrl-C, or something worse, after some step."""

    def __init__(self, step: int, how: type[BaseException] = KeyboardInterrupt) -> None:
        self.step, self.how = step, how
        self.warnings: list[str] = []

    def started(self, facts: RunFacts) -> None:
        if self.step == 0:
            raise self.how

    def progressed(self, progress: Progress) -> None:
        if progress.step == self.step:
            raise self.how

    def warned(self, message: str) -> None:
        self.warnings.append(message)


def charged() -> tuple[Entry, ...]:
    """All charges in the store, which is of one dataset."""
    ledger = Ledger()
    (fingerprint,) = ledger.fingerprints()
    return ledger.entries(fingerprint)


def tuning_of(run_id: str) -> dict[str, Any]:
    return dict(Store().manifest(Store().resolve(run_id))["tuning"])


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


Composer = Callable[[Sequence[Entry], float], float]


class TestComposition:
    """Two halves of a golden mechanism compose to the whole: ε = 3.7697 at δ = 1e-6 (tests/golden)."""

    GOLDEN, DELTA = 3.7697, 1e-6

    def right(self, composer: Composer) -> bool:
        ledger = Ledger()
        event = {"sample_rate": 0.1, "noise_multiplier": 3.0, "adjacency": "add-or-remove-one"}
        texts = {"run_id": "0" * 16, "name": "", "dataset": "", "source": "", "mode": ""}
        for _ in range(2):
            half = {**event, "steps": 256}
            ledger.charge(fingerprint="ab" * 32, event=half, delta=self.DELTA, **texts).settle(256)
        found = composer(ledger.entries("ab" * 32), self.DELTA)
        return self.GOLDEN - 1e-4 < found <= self.GOLDEN

    def test_events_are_composed(self) -> None:
        assert self.right(composed_epsilon)

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda entries, delta: sum(composed_epsilon([entry], delta) for entry in entries),
            lambda entries, delta: max(composed_epsilon([entry], delta) for entry in entries),
            lambda entries, delta: composed_epsilon(entries[-1:], delta),
            lambda entries, delta: composed_epsilon([*entries, entries[0]], delta),
        ],
        ids=["sum of epsilons", "largest epsilon", "last run only", "one charge twice"],
    )
    def test_anything_else_is_found_out(self, wrong: Composer) -> None:
        assert not self.right(wrong)

    def test_the_manifest_and_the_plan_tell_of_all_runs(self, spec: Any) -> None:
        first = train(spec())
        planned = plan_run(spec()).ledger
        second = train(spec(mode="last-layer"))
        train(spec(enabled=False))
        event = MechanismEvent(1 / 3, 1.5, STEPS)
        delta = second.delta or 0.0
        together = PLD.epsilon([event, event], delta)
        tuning = tuning_of(second.run_id)
        assert (tuning["runs_on_this_data"], tuning["composed_epsilon"]) == (2, together)
        assert tuning_of(first.run_id)["composed_epsilon"] == first.epsilon
        assert planned is not None
        assert (planned.runs, planned.before, planned.after) == (1, first.epsilon, together)
        assert planned.delta == delta
        last = train(spec())
        tuning = tuning_of(last.run_id)
        assert (tuning["runs_on_this_data"], tuning["unprotected_runs"]) == (4, 1)

    def test_removing_runs_refunds_nothing(self, spec: Any) -> None:
        train(spec())
        before = charged()
        home = Store().home
        for folder in home.iterdir():
            if folder.name not in ("ledger", "secret.key"):
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        assert charged() == before
        assert not any("ledger" in path.name for path in home.glob("runs/**/*"))


class TestCap:
    def test_what_fits_is_trained_and_what_does_not_is_refused_with_what_would(self, spec: Any) -> None:
        first = train(spec(budget_cap=20))
        assert first.epsilon is not None
        cap = 1.2 * first.epsilon
        with pytest.raises(PrivacyError) as caught:
            train(spec(budget_cap=cap))
        for number in (f"{cap:g}", f"ε ≤ {round_up_epsilon(first.epsilon)} in 1 run", "together"):
            assert number in caught.value.message
        proposed = float(caught.value.hint.partition("--noise-multiplier ")[2].split()[0])
        assert len(Store().list()) == 1  # nothing was begun
        train(spec(budget_cap=cap, noise_multiplier=proposed))
        with pytest.raises(PrivacyError):
            train(spec(budget_cap=cap, noise_multiplier=proposed))
        assert len(charged()) == 2

    def test_a_target_is_proposed_where_one_was_given(self, spec: Any) -> None:
        train(spec())
        asked = {"noise_multiplier": None, "budget_cap": 1.2}
        with pytest.raises(PrivacyError) as caught:
            plan_run(spec(target_epsilon=1.0, **asked))
        proposed = float(caught.value.hint.partition("--target-epsilon ")[2].split()[0])
        facts = plan_run(spec(target_epsilon=proposed, **asked))
        assert facts.ledger is not None
        assert 1.1 < (facts.ledger.after or 0) <= 1.2

    def test_a_spent_cap_says_so(self, spec: Any) -> None:
        train(spec())
        with pytest.raises(PrivacyError) as caught:
            train(spec(budget_cap=0.5))
        assert "nothing more fits" in caught.value.hint

    def test_no_cap_holds_without_privacy(self, spec: Any) -> None:
        with pytest.raises(PrivacyError, match="without privacy"):
            spec(enabled=False, budget_cap=100)
        train(spec(enabled=False))
        with pytest.raises(PrivacyError, match="1 run on this data went without protection"):
            train(spec(budget_cap=100))

    def test_of_two_at_once_one_is_admitted(self, spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both looked before either was charged: what decides is asked again under the lock."""
        cap = 1.2 * (plan_run(spec()).planned_epsilon or 0)
        kept: list[Any] = []
        genuine = Store.create

        def slow(store: Store, one: RunSpec) -> Any:
            if not kept:
                kept.append(True)
                train(one)  # another process overtakes this one after its look
            return genuine(store, one)

        monkeypatch.setattr(Store, "create", slow)
        with pytest.raises(PrivacyError, match="budget cap"):
            train(spec(budget_cap=cap))
        assert sorted(record.status for record in Store().list()) == ["completed", "failed"]
        assert len(charged()) == 1


class TestResuming:
    """Steps that a dead process may have released stay charged; what is drawn anew is charged anew."""

    @pytest.fixture
    def killed(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[RunSpec, int], str]:
        """A run whose process died: nobody settled."""

        def kill(spec: RunSpec, step: int) -> str:
            with monkeypatch.context() as patch:
                patch.setattr(Spending, "settle", lambda spending: None)
                with pytest.raises(ZeroDivisionError):
                    train(spec, StopsAfter(step, ZeroDivisionError))
            return Store().list()[0].run_id

        return kill

    def test_an_interrupted_run_goes_on_at_no_extra_cost(self, spec: Any) -> None:
        whole = train(spec())
        stopped = train(spec(every=1), StopsAfter(1))
        record = resume(stopped.run_id)
        first, second = Ledger().of_run(record.run_id)
        assert (first.settled, second.start_step, second.settled) == (1, 1, STEPS - 1)
        assert record.epsilon == whole.epsilon == composed_epsilon([first, second], record.delta or 0)

    def test_a_killed_run_pays_for_its_lost_steps(self, spec: Any, killed: Any) -> None:
        run_id = killed(spec(every=1), 1)  # after its first step was kept, and the second marked
        assert [entry.steps for entry in charged()] == [STEPS]
        record = resume(run_id)
        first, second = charged()
        assert (first.mark, first.settled) == (2, 2)
        assert (second.start_step, second.settled) == (1, STEPS - 1)
        assert record.status == "completed"
        assert composed_epsilon(charged(), record.delta or 0) > (record.epsilon or 0)
        assert tuning_of(run_id)["runs_on_this_data"] == 1

    def test_two_forks_of_one_checkpoint_are_both_charged(self, spec: Any, tmp_path: Path) -> None:
        stopped = train(spec(every=1), StopsAfter(1))
        shutil.copytree(stopped.run_dir, tmp_path / "copy")
        resume(stopped.run_id)
        shutil.rmtree(stopped.run_dir)
        shutil.copytree(tmp_path / "copy", stopped.run_dir)
        Store().rebuild()
        resume(stopped.run_id)
        assert [(entry.start_step, entry.settled) for entry in charged()] == [(0, 1), (1, 2), (1, 2)]

    def test_a_cap_counts_what_is_left_to_take(self, spec: Any) -> None:
        epsilon = plan_run(spec()).planned_epsilon or 0
        stopped = train(spec(every=1, budget_cap=epsilon), StopsAfter(1))
        with pytest.raises(PrivacyError, match="budget cap"):
            resume(stopped.run_id, changes={"budget_cap": epsilon / 2})
        assert resume(stopped.run_id).status == "completed"

    def test_a_run_from_before_the_ledger_is_charged_whole(self, spec: Any) -> None:
        stopped = train(spec(every=1), StopsAfter(1))
        shutil.rmtree(Store().home / "ledger")
        resume(stopped.run_id)
        (entry,) = charged()
        assert (entry.start_step, entry.settled) == (0, STEPS)
