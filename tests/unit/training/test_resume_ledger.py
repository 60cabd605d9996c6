"""What a run that died and went on has cost: never less than was released, nor more if nothing was lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD
from dpft.errors import PrivacyError
from dpft.runs.ledger import Ledger
from dpft.runs.store import Store
from dpft.training.observer import Progress
from dpft.training.run import resume, train
from dpft.training.spending import Spending
from tests.unit.training.resuming import STEPS, DiesAfter, Killed, MakeSpec, killed


def charges(run_id: str) -> list[tuple[int, int | None, int]]:
    """Of each charge: where it starts, what it was settled with, and what it counts for."""
    return [
        (entry.start_step, entry.settled, int(entry.spent["steps"]) if entry.spent else 0)
        for entry in Ledger().of_run(run_id)
    ]


def total(run_id: str) -> int:
    return sum(steps for *_, steps in charges(run_id))


def sigkill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a dying process settle nothing, as SIGKILL would."""
    monkeypatch.setattr(Spending, "settle", lambda self: None)


def composed() -> float:
    """ε of all that is in the ledger, at the runs' δ."""
    (fingerprint,) = Ledger().fingerprints()
    events = [MechanismEvent(**event) for event in Ledger().events(fingerprint)]
    return PLD.epsilon(events, 1 / 120)


def test_an_interrupted_run_that_goes_on_costs_what_an_uninterrupted_one_does(small: MakeSpec) -> None:
    whole = train(small("last-layer"))
    assert charges(whole.run_id) == [(0, 4, 4)]
    once = composed()
    half = train(small("last-layer"), DiesAfter(3, KeyboardInterrupt))
    assert charges(half.run_id) == [(0, 3, 3)]
    again = resume(half.run_id)
    assert charges(half.run_id) == [(0, 3, 3), (3, 1, 1)]
    assert again.epsilon == whole.epsilon
    assert again.delta == pytest.approx(1 / 120)
    assert composed() > once
    (fingerprint,) = Ledger().fingerprints()
    assert sum(event["steps"] for event in Ledger().events(fingerprint)) == 2 * STEPS


def test_a_killed_process_costs_at_most_its_stretch_more(
    small: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints every two steps; killed after the third, which is lost, when the fourth was allowed."""
    with monkeypatch.context() as patched:
        sigkill(patched)
        run_id = killed(small("last-layer", every=2), 3)
    assert charges(run_id) == [(0, None, STEPS)]  # nobody knows yet
    again = resume(run_id)
    assert charges(run_id) == [(0, 4, 4), (2, 2, 2)]
    assert (again.steps, total(run_id)) == (STEPS, STEPS + 2)
    assert again.epsilon is not None
    assert composed() > again.epsilon


def test_a_killed_process_is_charged_to_its_mark_and_no_further(
    small: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        sigkill(patched)
        run_id = killed(small("last-layer"), 1)  # its second step was allowed, and may have been taken
    resume(run_id)
    assert charges(run_id) == [(0, 2, 2), (1, 3, 3)]


def test_whatever_kills_it_and_how_often_the_ledger_is_never_below_what_was_released(
    small: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        sigkill(patched)
        run_id = killed(small("last-layer", every=2), 1)
        for step in (1, 3):
            with pytest.raises(Killed):
                resume(run_id, DiesAfter(step))
    released = 1 + 1 + 3  # twice from the beginning, then from there again, past a checkpoint
    resume(run_id)
    released += 2
    spent = total(run_id)
    assert released <= spent <= released + 3 * 2  # at most one stretch more for each kill


def forked(spec_of: MakeSpec, step: int = 2) -> str:
    """A run that died after some step, and a copy of it, to be put back later."""
    run_id = killed(spec_of("last-layer"), step)
    shutil.copytree(Store().resolve(run_id).run_dir, _copy(run_id))
    return run_id


def _copy(run_id: str) -> Path:
    return Store().home / f"copy-of-{run_id}"


def put_back(run_id: str) -> None:
    place = Store().home / "runs" / run_id
    shutil.rmtree(place)
    _copy(run_id).rename(place)
    Store().rebuild()


def test_forks_of_one_checkpoint_are_both_charged(small: MakeSpec) -> None:
    """Even where the second goes on when the first has long finished."""
    run_id = forked(small)
    assert total(run_id) == 2
    resume(run_id)
    assert total(run_id) == STEPS
    put_back(run_id)
    assert resume(run_id).status == "completed"
    assert charges(run_id) == [(0, 2, 2), (2, 2, 2), (2, 2, 2)]


def test_planted_resume_that_thinks_its_steps_are_paid_for_is_noticed(
    small: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = Spending.charge

    def paid(self: Spending, run_id: str, name: str) -> None:
        if sum(entry.settled or 0 for entry in Ledger().of_run(run_id)) < STEPS:
            genuine(self, run_id, name)

    monkeypatch.setattr(Spending, "charge", paid)
    run_id = forked(small)
    resume(run_id)
    put_back(run_id)
    resume(run_id)
    assert total(run_id) == STEPS  # what the test above would refuse: four steps for six that were released


def test_a_fork_that_goes_on_while_the_other_lives_stops_it(
    small: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes in two copies of one folder, the one that was taken for dead releases nothing more."""
    with monkeypatch.context() as patched:
        sigkill(patched)
        run_id = forked(small, 1)

    class OtherMeanwhile(DiesAfter):
        def progressed(self, progress: Progress) -> None:
            super().progressed(progress)
            if self.steps == [2]:  # and the third is allowed
                Store().home.joinpath("runs", run_id).rename(Store().home / "moved")
                _copy(run_id).rename(Store().home / "runs" / run_id)
                resume(run_id)

    first = OtherMeanwhile()
    with pytest.raises(PrivacyError, match="settled"):
        resume(run_id, first)
    assert first.steps == [2]
    assert charges(run_id) == [(0, 2, 2), (1, 2, 2), (1, 3, 3)]


def test_a_failed_run_is_charged_for_the_steps_it_took(small: MakeSpec) -> None:
    run_id = killed(small("last-layer"), 2)
    assert charges(run_id) == [(0, 2, 2)]


def test_another_budget_cap_decides_whether_it_goes_on(small: MakeSpec) -> None:
    run_id = killed(small("last-layer"), 2)
    watching = DiesAfter()
    with pytest.raises(PrivacyError, match="budget cap"):
        resume(run_id, watching, changes={"budget_cap": 0.5})
    assert (watching.steps, total(run_id)) == ([], 2)
    assert resume(run_id, changes={"budget_cap": 1000.0}).status == "completed"


def test_another_store_knows_no_such_data(small: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run carried into a store with a key of its own would be charged to nobody it knows: refused."""
    run_id = killed(small("last-layer"), 2)
    home = Store().home
    monkeypatch.setenv("DPFT_HOME", str(home.parent / "other"))
    Store()
    (Store().home / "runs").mkdir()
    shutil.copytree(home / "runs" / run_id, Store().home / "runs" / run_id)
    Store().rebuild()
    with pytest.raises(PrivacyError, match="training rows of sst2 are not those") as caught:
        resume(run_id)
    assert "secret.key" in caught.value.hint
