"""What ``dpft budget`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from dpft.cli.render import new_table, panel, plainly, stdout
from dpft.cli.wording import NONE, age, one_line, privacy
from dpft.runs.statement import round_up_epsilon

if TYPE_CHECKING:
    from dpft.runs.ledger import Entry
    from dpft.training.budget import Budget, RunCost

__all__ = ["budgets"]

_NUMBERS = ("q", "σ", "steps", "ε", "age")
_LESS_IMPORTANT = ("age", "q", "mode", "σ", "run")  # columns that are left out where there is no room
_FATES = {
    "running": "it is running",
    "crashed": "its process died",
    "gone": "the run is no longer in the store",
}


def budgets(found: Sequence[Budget], *, with_runs: bool) -> None:
    """What each dataset has cost; and, on request, run by run."""
    console = stdout()
    if not found:
        console.print(
            Text("no dataset was charged yet: begin with 'dpft train -d demo -m builtin:minilm'", "dim")
        )
        return
    for one in found:
        title = Text.assemble((one_line(", ".join(one.names)), "bold"), f" · dataset {one.fingerprint[:16]}")
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
    """A line for each charge, with as many columns as fit."""
    console, now = stdout(), datetime.now(UTC)
    lines = [_line(run, entry, now) for run in one.runs for entry in run.entries]
    widths = {head: 1 + max(len(head), *(line[head].cell_len for line in lines)) for head in lines[0]}
    for head in _LESS_IMPORTANT:
        if sum(widths.values()) > console.width + 1:
            del widths[head]
    table = new_table(*(f">{head}" if head in _NUMBERS else head for head in widths), gap=1)
    for line in lines:
        table.add_row(*(line[head] for head in widths))
    plainly(console, table)


def _line(run: RunCost, entry: Entry, now: datetime) -> dict[str, Text]:
    event = entry.event or {}
    last = entry is run.entries[-1]  # of a run's several charges, it says what they cost together
    state = run.state if run.state != "settled" or run.protected else "unprotected"
    cells: dict[str, str | Text] = {
        "run": Text(run.run_id[:8], "cyan"),
        "name": Text(one_line(entry.name), "bold"),
        "mode": entry.mode,
        "q": f"{event['sample_rate']:.4g}" if event else NONE,
        "σ": f"{event['noise_multiplier']:.4g}" if event else NONE,
        "steps": _steps(entry.steps, event.get("steps")),
        "ε": (NONE if run.epsilon is None else round_up_epsilon(run.epsilon)) if last else "",
        "state": state if last else "",
        "age": Text(age(entry.time, now), "dim"),
    }
    return {head: cell if isinstance(cell, Text) else Text(cell) for head, cell in cells.items()}


def _steps(steps: int | None, planned: int | None) -> str:
    if steps is None:
        return NONE
    return f"{steps:,}" if planned in (None, steps) else f"{steps:,} of {planned:,}"
