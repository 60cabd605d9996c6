"""Row 13: what all runs on the same data cost together, capped, and over resumptions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD
from dpft.errors import PrivacyError
from dpft.runs.ledger import Entry, Ledger
from dpft.runs.statement import round_up_epsilon
from dpft.runs.store import Store
from dpft.spec import RunSpec
from dpft.training.composition import composed_epsilon
from dpft.training.run import plan_run, resume, train
from dpft.training.spending import Spending
from tests.unit.training.spenders import STEPS, StopsAfter, charged, spec_maker, tuning_of


@pytest.fixture
def spec(tiny_model: Path, glue_dir: Path) -> Any:
    return spec_maker(tiny_model, glue_dir)


Composer = Callable[[Sequence[Entry], float], float]


class TestComposition:
    """Two halves of a golden mechanism compose to the whole: ε = 3.7697 at δ = 1e-6 (tests/golden)."""

    GOLDEN, DELTA = 3.7697, 1e-6

    def right(self, composer: Composer) -> bool:
        ledger = Ledger()
        event = {"sample_rate": 0.1, "noise_multiplier": 3.0, "adjacency": "add-or-remove-one"}
        texts: dict[str, Any] = {"run_id": "0" * 16, "name": "", "dataset": "", "source": "", "mode": ""}
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
