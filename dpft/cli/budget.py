"""``dpft budget``: what was spent on each dataset, over all runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dpft.cli import options, options_budget
from dpft.errors import AmbiguousError, NotFoundError

if TYPE_CHECKING:
    from dpft.runs.ledger import Entry
    from dpft.training.budget import Budget, RunCost

__all__ = ["EXAMPLE", "budget", "chosen_ledgers"]

EXAMPLE = "Example: [cyan]dpft budget sst2[/cyan]"

_LEAST_PREFIX = 4


def budget(
    subject: options_budget.BudgetSubject = None,
    delta: options_budget.BudgetDelta = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what all runs on each dataset have spent together, whatever became of them.

    A dataset is its training rows: its name, path, order and preparation do not matter, and removing runs
    refunds nothing. One row changed or added makes another dataset; that two overlap is not seen.
    """
    from dpft.accounting.accountant import check_delta
    from dpft.cli import render
    from dpft.cli.views import budget as view
    from dpft.runs.ledger import Ledger
    from dpft.runs.store import Store
    from dpft.training.budget import budget_of

    if delta is not None:
        check_delta(delta, name="--delta")
    store = Store()
    ledger = Ledger(store.home, warn=render.warning)
    charged = {fingerprint: ledger.entries(fingerprint) for fingerprint in ledger.fingerprints()}
    chosen = [entries for entries in chosen_ledgers(charged, subject) if entries]
    if quiet and not as_json:
        render.ids(entries[0].fingerprint for entries in chosen)
        return
    records = {record.run_id: record for record in store.list()} if chosen else {}
    budgets = [budget_of(entries, delta, records) for entries in chosen]
    if as_json:
        render.document({"datasets": [_document(found) for found in budgets]})
    else:
        view.budgets(budgets, with_runs=subject is not None)


def chosen_ledgers(charged: dict[str, tuple[Entry, ...]], subject: str | None) -> Sequence[tuple[Entry, ...]]:
    """The ledgers that are meant: by a name that a run gave the dataset, or by fingerprint.

    Raises:
        NotFoundError: none.
        AmbiguousError: several begin so.
    """
    if subject is None:
        return list(charged.values())
    wanted = subject.casefold()
    named = [
        entries
        for entries in charged.values()
        if any(entry.dataset.casefold() == wanted for entry in entries)
    ]
    if named:
        return named
    begun = [name for name in charged if len(wanted) >= _LEAST_PREFIX and name.startswith(wanted)]
    if len(begun) > 1:
        raise AmbiguousError(
            f"{subject!r} is ambiguous: {', '.join(name[:16] for name in begun)}",
            hint="give more of the fingerprint",
        )
    if not begun:
        known = sorted({entry.dataset for entries in charged.values() for entry in entries})
        raise NotFoundError(
            f"nothing was charged for a dataset {subject!r}",
            hint=f"charged were: {', '.join(known)}" if known else "no run was charged yet: see 'dpft train'",
        )
    return [charged[begun[0]]]


def _document(found: Budget) -> dict[str, Any]:
    largest = found.largest
    known = {
        "fingerprint": found.fingerprint,
        "name": found.names[0],
        "names": list(found.names),
        "runs": len(found.runs),
        "epsilon": found.epsilon,
        "delta": found.delta,
        "accountant": None if found.epsilon is None else "pld",
        "second_accountant": None if found.second_epsilon is None else "rdp",
        "second_epsilon": found.second_epsilon,
        "largest": None if largest is None else {"run_id": largest.run_id, "epsilon": largest.epsilon},
        "unprotected_runs": list(found.unprotected),
        "still_charged": [run.run_id for run in found.still_charged],
        "why_not": found.why_not,
        "charges": [_charge(run, entry) for run in found.runs for entry in run.entries],
    }
    return {name: value for name, value in known.items() if value is not None}


def _charge(run: RunCost, entry: Entry) -> dict[str, Any]:
    event = entry.event or {}
    known = {
        "charge_id": entry.charge_id,
        "run_id": entry.run_id,
        "name": entry.name,
        "dataset": entry.dataset,
        "source": entry.source,
        "finetune_mode": entry.mode,
        "time": entry.time,
        "protected": entry.protected,
        "settled": entry.settled is not None,
        "state": run.state,
        "start_step": entry.start_step,
        "steps_planned": event.get("steps"),
        "steps": entry.steps,
        "sample_rate": event.get("sample_rate"),
        "noise_multiplier": event.get("noise_multiplier"),
        "delta": entry.delta,
        "unaccounted": entry.unaccounted,
    }
    return {name: value for name, value in known.items() if value is not None}
