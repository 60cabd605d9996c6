"""How an audit and a self-test are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dpft.cli import render
from dpft.cli.wording import duration, privacy

if TYPE_CHECKING:
    from dpft.audit.result import AuditResult, Check
    from dpft.audit.run import SelfTest

__all__ = ["show"]

_MARKS = {"pass": ("pass", "green"), "fail": ("FAIL", "bold red"), "informational": ("info", "cyan")}
_NAME_WIDTH = 22
_NOT_A_PROOF = "An audit can find violations; it cannot show that there are none."


def show(found: AuditResult | SelfTest, name: str | None = None) -> None:
    """What came out.

    Args:
        found: by an audit or a self-test.
        name: of the run that was audited, if one was.
    """
    from dpft.audit.result import AuditResult

    if isinstance(found, AuditResult):
        _audited(found, name)
    else:
        _self_tested(found)


def _audited(result: AuditResult, name: str | None) -> None:
    """What was asked, what came out, and how often that would happen by chance."""
    console = render.stdout()
    claim = result.claim
    title = Text.assemble((name or result.model, "bold"), f" · {result.finetune_mode} · audit")
    console.print(title)
    terms = (
        f"q {claim.sample_rate:.6g}, σ {claim.noise_multiplier:.4f}, sensitivity {claim.sensitivity:g}, "
        f"{claim.steps} steps; engine {result.engine}, clipping {result.clipping}, "
        f"precision {result.precision}"
    )
    _line(console, Text.assemble("claim   ", privacy(True, claim.epsilon, claim.delta, claim.steps)))
    _line(console, Text(f"over    {terms}"))
    layer = ""
    for check in result.checks:
        if check.layer != layer:
            layer = check.layer
            console.print()
            console.print(Text(layer, "bold"))
        _check(console, check)
    console.print()
    style = "bold green" if result.ok else "bold red"
    verdict = Text.assemble((result.verdict, style), f" in {duration(result.seconds)}")
    if not result.ok:
        verdict.append(f": {', '.join(check.name for check in result.failed)}")
    console.print(verdict, soft_wrap=not console.is_terminal)
    rate = Text(
        f"A mechanism that is as claimed fails at most {_one_in(result.false_alarm_rate)} such audits. ",
        "dim",
    )
    console.print(rate + Text(_NOT_A_PROOF, "dim"), soft_wrap=not console.is_terminal)


def _self_tested(test: SelfTest) -> None:
    """Which planted fault was caught by which checks."""
    console = render.stdout()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("planted", no_wrap=True)
    table.add_column("caught", no_wrap=True)
    table.add_column("by", overflow="fold")
    for planted in test.planted:
        if planted.fault is None:
            caught = Text("—", "green") if planted.right else Text("FALSE ALARM", "bold red")
            table.add_row("nothing", caught, ", ".join(planted.caught_by) or "no violation found")
            continue
        missed = [name for name in planted.fault.expected if name not in planted.caught_by]
        mark = Text("yes", "green") if not planted.result.ok else Text("MISSED", "bold red")
        by = ", ".join(planted.caught_by)
        table.add_row(planted.fault.name, mark, by + (f"; not by {', '.join(missed)}" if missed else ""))
    render.plainly(console, table)
    console.print()
    faults = [planted for planted in test.planted if planted.fault is not None]
    count = sum(not planted.result.ok for planted in faults)
    console.print(
        Text(
            f"{count} of {len(faults)} planted faults caught in {duration(test.seconds)}",
            "bold green" if test.ok else "bold red",
        )
    )


def _check(console: Console, check: Check) -> None:
    word, style = _MARKS[check.verdict]
    head = Text.assemble((f"{word}  ", style), f"{check.name:<{_NAME_WIDTH}}")
    if not console.is_terminal:
        _line(console, head + Text(check.detail))
        return
    grid = Table.grid(padding=0)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold", style="dim" if check.verdict == "pass" else "")
    grid.add_row(head, check.detail)
    console.print(Padding(grid, (0, 0, 0, 2)))


def _line(console: Console, text: Text) -> None:
    console.print(Text("  ") + text, soft_wrap=not console.is_terminal)


def _one_in(rate: float) -> str:
    """``1 in 700``; checks without chance never fail."""
    return f"1 in {1 / rate:,.0f}" if rate > 0 else "none of"
