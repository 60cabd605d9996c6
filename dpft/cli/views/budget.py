"""What ``dpft budget`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from dpft.cli.render import new_table, panel, plainly, stdout
from dpft.cli.wording import NONE, age, privacy
from dpft.runs.statement import round_up_epsilon

if TYPE_CHECKING:
    from dpft.training.budget import Budget, RunCost

__all__ = ["budgets"]

_FATES = {
    "running": "it is running",
    "crashed": "its process died",
    "gone": "the run is no longer in the store",
}


def budgets(found: Sequence[Budget], *, with_runs: bool) -> None:
    """What each dataset has cost; and, on request, run by run."""
    console = stdout()
    if not found:
        console.print(Text("no dataset was charged yet: begin with 'dpft train -d demo'", "dim"))
        return
    for one in found:
        title = Text.assemble((", ".join(one.names), "bold"), f" · dataset {one.fingerprint[:16]}")
        panel(console, title, _facts(one))
        if with_runs:
            _runs(one)


def _facts(one: Budget) -> list[tuple[str, RenderableType]]:
    covered = len(one.runs) - len(one.unprotected)
    runs = "1 run" if covered == 1 else f"{covered} runs together"
    rows: list[tuple[str, RenderableType]] = []
    if one.why_not is not None:
        rows.append(("spent", Text(f"no valid (ε, δ) claimed: {one.why_not}", "red")))
    elif one.epsilon is not None:
        rows.append(("spent", privacy(True, one.epsilon, one.delta).append(f" by {runs}")))
    else:
        rows.append(("spent", "no run on this data had an ε"))
    if one.second_epsilon is not None:
        rows.append(("by RDP", f"ε ≤ {round_up_epsilon(one.second_epsilon)}, a second opinion"))
    largest = one.largest
    if largest is not None and len(one.runs) > 1:
        rows.append(("largest", f"ε ≤ {round_up_epsilon(largest.epsilon or 0.0)} for {largest.name} alone"))
    rows += [("still charged", Text(_still_charged(run), "yellow")) for run in one.still_charged]
    if one.unprotected:
        names = ", ".join(run.name for run in one.runs if run.run_id in one.unprotected)
        rows.append(("unprotected", Text(f"{names}: no ε covers what this revealed", "yellow")))
    return rows


def _still_charged(run: RunCost) -> str:
    fate = _FATES.get(run.state, f"it is {run.state}")
    if not run.protected:
        return f"{run.name}: {fate}"
    planned = sum(entry.steps or 0 for entry in run.entries if entry.settled is None)
    return f"{run.name}: all {planned:,} planned steps, since {fate}"


def _runs(one: Budget) -> None:
    table = new_table("run", "name", "mode", ">q", ">σ", ">steps", ">ε", "state", ">age")
    now = datetime.now(UTC)
    for run in one.runs:
        for entry in run.entries:
            event = entry.event or {}
            cost = NONE if run.epsilon is None else round_up_epsilon(run.epsilon)
            table.add_row(
                Text(run.run_id[:8], "cyan"),
                Text(entry.name, "bold"),
                entry.mode,
                f"{event['sample_rate']:.4g}" if event else NONE,
                f"{event['noise_multiplier']:.4g}" if event else NONE,
                _steps(entry.steps, event.get("steps")),
                cost if entry is run.entries[-1] else "",
                run.state if run.protected else f"{run.state}, unprotected",
                Text(age(entry.time, now), "dim"),
            )
    plainly(stdout(), table)


def _steps(steps: int | None, planned: int | None) -> str:
    if steps is None:
        return NONE
    return f"{steps:,}" if planned in (None, steps) else f"{steps:,} of {planned:,}"
