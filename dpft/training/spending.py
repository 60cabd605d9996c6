"""One run's dealings with the ledger: what it would add, what it is charged, what it really took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dpft.accounting.calibrate import round_up
from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD, PldAccountant
from dpft.data.prepare import PreparedData
from dpft.errors import DpftError, PrivacyError
from dpft.privacy.plan import OrdinaryPlan, PrivatePlan
from dpft.runs.ledger import Charge, Entry, Ledger
from dpft.runs.manifest_parts import Tuning
from dpft.runs.secret import keyed_fingerprint
from dpft.runs.statement import round_up_delta, round_up_epsilon
from dpft.runs.store import Store
from dpft.spec import RunSpec
from dpft.training.composition import composed_epsilon, effect_of, runs_of, smallest_delta, unprotected_runs
from dpft.training.declare import doubt_of
from dpft.training.observer import LedgerEffect, Observer

__all__ = ["Spending"]

_LEDGER_KEPT = (
    "kept: every run on these training rows in this store counts, from before its first step; one that has "
    "not ended, or whose process died, with all its planned steps; a resumed one with its lost steps too"
)
_LEDGER_HIDDEN = (
    "kept where the training ran, and not told here: that two runs had the same data, or had not, may show "
    "that an example was added in between"
)
_LEDGER_UNREAD = "could not be read when the run ended"
_MOST_NOISE = 1e4
_CLOSE_ENOUGH = 1.005  # of the noise that is proposed where a run does not fit


class _TooMuch(Exception):  # noqa: N818 (it becomes an error once the ledger is unlocked)
    """A charge that the cap does not admit, after these."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__()
        self.entries = entries


class Spending:
    """What one run spends.

    Args:
        spec: what the run was asked to do; its budget cap among others.
        data: prepared; its training rows name the ledger.
        plan: what will run; its counter of releases is what is settled.
        store: whose ledger.
        observer: warned of a torn ledger, or one that could not be settled.
        resumed: id of the run that goes on; its lock is held. What its process before had charged and not
            settled is then lost steps, which stay charged as far as that process had marked them.
    """

    def __init__(
        self,
        spec: RunSpec,
        data: PreparedData,
        plan: PrivatePlan | OrdinaryPlan,
        store: Store,
        observer: Observer,
        *,
        resumed: str | None = None,
    ) -> None:
        self._spec, self._data, self._plan, self._observer = spec, data, plan, observer
        self.home = store.home
        self._ledger = Ledger(store.home, warn=observer.warned)
        self._resumed = resumed
        self._charge: Charge | None = None
        self._start_step = plan.steps_taken

    def check(self) -> None:
        """Refuse early what :meth:`charge` would refuse, before a run is begun.

        Raises:
            PrivacyError: as :meth:`effect`.
        """
        self._take_over()
        if self._spec.privacy.budget_cap is not None:
            self.effect()

    def effect(self) -> LedgerEffect:
        """What the run would add to what was spent before; nothing is written.

        Raises:
            PrivacyError: the budget cap would be passed, or the ledger cannot be trusted.
        """
        entries = self._entries()
        event, delta = self._planned(), self._delta()
        try:
            self._admit(entries)
        except _TooMuch as refusal:
            raise self._refusal(refusal.entries) from None
        return effect_of(entries, delta, event)

    def charge(self, run_id: str, name: str) -> None:
        """Charge all steps that are still to be taken; call it before the first of them.

        A resumed run charges them anew, whatever it charged before: its steps are drawn afresh, and those of
        the process that died may have been seen.

        Args:
            run_id: the run's.
            name: the run's.

        Raises:
            PrivacyError: the budget cap would be passed, or the ledger cannot be trusted; nothing is charged.
            LockedError, StoreError: it could not be written.
        """
        self._take_over()
        event = self._planned()
        if self._plan.schedule.steps == self._start_step:
            return  # nothing is left to be taken
        try:
            self._charge = self._ledger.charge(
                fingerprint=self._fingerprint(),
                run_id=run_id,
                name=name,
                dataset=self._spec.data.dataset,
                source=self._data.source,
                mode=self._spec.tuning.mode,
                event=None if event is None else event.to_dict(),
                delta=None if event is None else self._plan.schedule.delta,
                start_step=self._start_step,
                unaccounted=doubt_of(self._plan, self._data),
                admit=self._admit,
            )
        except _TooMuch as refusal:
            raise self._refusal(refusal.entries) from None

    def advance(self, upto: int) -> None:
        """Mark, before any of them is taken, that steps up to the run's ``upto``-th may be released.

        Raises:
            PrivacyError: the charge was settled by a process that took this one for dead.
            LockedError, StoreError: it could not be written; no further step may be taken.
        """
        if self._charge is not None:
            self._charge.advance(upto - self._start_step)

    def settle(self) -> None:
        """Settle with the steps that were taken; again is no harm.

        If it cannot be written, the user is warned: all planned steps stay charged, which is not too little.
        """
        if self._charge is None:
            return
        try:
            self._charge.settle(
                self._plan.steps_taken - self._start_step, unaccounted=doubt_of(self._plan, self._data)
            )
        except DpftError as error:
            self._observer.warned(
                f"the ledger could not be settled, and all planned steps stay charged: {error.message}"
            )

    def tuning(self, superseded: int = 0) -> Tuning:
        """What the manifest says of other runs on the same data: after :meth:`settle`, from the ledger.

        With a declared number of examples it says nothing of them: counts would tell which runs had the very
        same rows, as a published fingerprint would. Of this run's own processes it always tells.

        Args:
            superseded: steps in an earlier adapter of this run of which some are no part of this one.
        """
        try:
            before = self._processes_before()
            entries = () if self._plan.schedule.declared else self._ledger.entries(self._fingerprint())
        except DpftError as error:
            self._observer.warned(f"the manifest cannot tell of other runs on this data: {error.message}")
            own = self._own(None, superseded)
            return Tuning(ledger=_LEDGER_HIDDEN if self._plan.schedule.declared else _LEDGER_UNREAD, **own)
        own = self._own(before, superseded)
        if self._plan.schedule.declared:
            return Tuning(ledger=_LEDGER_HIDDEN, **own)
        return Tuning(
            ledger=_LEDGER_KEPT,
            runs_on_this_data=len(runs_of(entries)) or None,
            unprotected_runs=len(unprotected_runs(entries)),
            composed_epsilon=self._composed(entries),
            **own,
        )

    def _processes_before(self) -> list[Entry]:
        """Charges of this run's earlier processes."""
        mine = None if self._charge is None else self._charge.charge_id
        run_id = self._resumed
        return [] if run_id is None else [e for e in self._ledger.of_run(run_id) if e.charge_id != mine]

    def _own(self, before: Sequence[Entry] | None, superseded: int) -> dict[str, Any]:
        """What is told of this run's own processes; of a ledger that cannot be read, as much as is known."""
        plan = self._plan
        resumptions = None if before is None else len(before)
        if self._resumed is not None:
            resumptions = max(1, resumptions or 0)
        if not isinstance(plan, PrivatePlan):
            return {"resumptions": resumptions}
        lost = None if before is None else max(0, sum(e.steps or 0 for e in before) - self._start_step)
        if superseded:
            lost = lost or superseded  # at most as many, where nobody wrote it down
        bound = None
        if lost and plan.steps_taken and doubt_of(plan, self._data) is None:
            together = plan.event.with_steps(plan.steps_taken + lost)
            own, delta = PLD.epsilon([plan.event], plan.schedule.delta), plan.schedule.delta
            bound = max(own, PLD.epsilon([together], delta))
        return {
            "resumptions": resumptions,
            "lost_steps": lost,
            "supersedes_steps": superseded or None,
            "epsilon_with_lost_steps": bound,
        }

    def _take_over(self) -> None:
        """Settle what a process that died left open; a run of before there was a ledger is charged whole."""
        if self._resumed is None:
            return
        before = self._ledger.of_run(self._resumed)
        for entry in before:
            if entry.settled is None:
                self._ledger.settle_lost(entry.charge_id)
        if not before:
            self._start_step = 0

    def _composed(self, entries: Sequence[Entry]) -> float | None:
        """ε of all runs at this run's δ, where this run claims one."""
        plan = self._plan
        if self._planned() is None or not isinstance(plan, PrivatePlan) or not plan.steps_taken:
            return None
        together = _finite(entries, plan.schedule.delta)
        return None if together is None else max(together, PLD.epsilon([plan.event], plan.schedule.delta))

    def _entries(self) -> tuple[Entry, ...]:
        if not self._ledger.fingerprints():
            return ()  # and no key need be made to say so
        return self._ledger.entries(self._fingerprint())

    def _fingerprint(self) -> str:
        return keyed_fingerprint(self._data.content_digest, home=self.home)

    def _planned(self) -> MechanismEvent | None:
        if not isinstance(self._plan, PrivatePlan) or doubt_of(self._plan, self._data) is not None:
            return None
        return self._plan.planned_event.with_steps(self._plan.schedule.steps - self._start_step)

    def _delta(self) -> float | None:
        return self._plan.schedule.delta if isinstance(self._plan, PrivatePlan) else None

    def _admit(self, entries: Sequence[Entry]) -> None:
        """Hold the cap; the ledger is locked meanwhile, so what is not needed for the answer waits."""
        cap = self._spec.privacy.budget_cap
        if cap is None:
            return
        event = self._planned()
        delta = smallest_delta(entries, self._delta())
        if event is None or delta is None or unprotected_runs(entries):
            raise _TooMuch(entries)
        together = _finite(entries, delta, event)
        if together is None or not together <= cap:
            raise _TooMuch(entries)

    def _refusal(self, entries: Sequence[Entry]) -> PrivacyError:
        cap = self._spec.privacy.budget_cap
        event, delta = self._planned(), smallest_delta(entries, self._delta())
        assert cap is not None
        if event is None or delta is None:
            return PrivacyError(
                f"a run that no ε covers cannot keep to the budget cap of ε {cap:g}",
                hint="train with differential privacy, or leave out --budget-cap",
            )
        unprotected = unprotected_runs(entries)
        if unprotected:
            return PrivacyError(
                f"no budget cap can hold: {_count(len(unprotected))} on this data went without protection",
                hint="see 'dpft budget'; leave out --budget-cap to train all the same",
            )
        before, after = _finite(entries, delta), _finite(entries, delta, event)
        return PrivacyError(
            f"the budget cap of ε {cap:g} would be passed: spent {_bound(before)} in "
            f"{_count(len(runs_of(entries)))}, this run {_bound(_finite((), delta, event))}, "
            f"together {_bound(after)}, at δ ≤ {round_up_delta(delta)}",
            hint=self._what_fits(entries, event, delta, before, cap),
        )

    def _what_fits(
        self, entries: Sequence[Entry], event: MechanismEvent, delta: float, before: float | None, cap: float
    ) -> str:
        if before is None or not before < cap:
            return "the cap is spent: nothing more fits on this data, unless --budget-cap is raised"
        noise = _noise_that_fits(entries, event, delta, cap)
        if noise is None:
            return "raise --budget-cap, or give fewer --epochs"
        proposal = f"--noise-multiplier {noise:g}"
        if self._spec.privacy.target_epsilon is not None:
            alone = math.floor(100 * PLD.epsilon([_with_noise(event, noise)], delta)) / 100
            proposal = f"--target-epsilon {alone:g}" if alone > 0 else proposal
        return f"{proposal} would fit; or give fewer --epochs, or raise --budget-cap"


def _finite(entries: Sequence[Entry], delta: float, *more: MechanismEvent) -> float | None:
    """Composed ε; None where none can be stated, which is more than any cap."""
    try:
        return composed_epsilon(entries, delta, *more)
    except PrivacyError:
        return None


def _noise_that_fits(
    entries: Sequence[Entry], event: MechanismEvent, delta: float, cap: float
) -> float | None:
    """About the least noise with which the run would keep to the cap, or a little more."""
    quick = PldAccountant(interval=max(PLD.interval, min(1e-2, cap / 100)))

    def fits(noise: float, accountant: PldAccountant) -> bool:
        try:
            together = composed_epsilon(entries, delta, _with_noise(event, noise), accountant=accountant)
        except PrivacyError:
            return False
        return together <= cap

    low = high = event.noise_multiplier
    while not fits(high, quick):
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            return None
    while high / low > _CLOSE_ENOUGH:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle, quick) else (middle, high)
    noise = round_up(high, 3)
    return noise if fits(noise, PLD) else None


def _with_noise(event: MechanismEvent, noise: float) -> MechanismEvent:
    return MechanismEvent(event.sample_rate, noise, event.steps, event.adjacency)


def _bound(epsilon: float | None) -> str:
    return "no finite ε" if epsilon is None else f"ε ≤ {round_up_epsilon(epsilon)}"


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"
