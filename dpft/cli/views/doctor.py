"""What ``dpft doctor`` found, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpft.cli import render
from dpft.cli.wording import one_line

if TYPE_CHECKING:
    from dpft.runs.health import Check
    from dpft.spec import RunSpec
    from dpft.training.diagnose import Diagnosis
    from dpft.training.memory import Memory

__all__ = ["report"]

_VERDICTS = {True: ("ok", "green"), False: ("FAILED", "bold red"), None: ("not tried", "yellow")}
_UNKNOWN = "?"


def report(
    checks: Sequence[Check],
    versions: Mapping[str, str],
    rebuilt: int | None,
    spec: RunSpec | None,
    diagnosis: Diagnosis | None,
) -> None:
    """Checks first, then what follows from them.

    Args:
        checks: all of them.
        versions: by package.
        rebuilt: runs in a registry that was written anew.
        spec: what was asked of the model, if there is one.
        diagnosis: what was found of it.
    """
    console = render.stdout()
    if rebuilt is not None:
        console.print(f"registry written anew: {rebuilt} runs")
    if spec is not None:
        parts = (
            spec.model.checkpoint,
            spec.tuning.mode,
            f"engine {spec.privacy.engine}",
            f"clipping {spec.privacy.clipping}",
            spec.hardware.precision if diagnosis is None else diagnosis.precision,
        )
        console.print(Text(" · ".join(parts), "bold"), soft_wrap=True)
    for check in checks:
        _check(console, check)
    if diagnosis is not None:
        for note in diagnosis.notes:
            console.print(Text.assemble(("note: ", "bold yellow"), one_line(note)), soft_wrap=True)
        _layers(console, diagnosis)
        if diagnosis.memory is not None:
            _memory(console, diagnosis.memory)
    console.print()
    console.print(", ".join(f"{name} {version}" for name, version in versions.items()), soft_wrap=True)


def _check(console: Console, check: Check) -> None:
    word, style = _VERDICTS[check.ok]
    console.print(
        Text.assemble((f"{word:<10}", style), f"{check.name:<11} ", one_line(check.detail)), soft_wrap=True
    )
    if check.hint and check.ok is not True:
        console.print(Text.assemble(" " * 22, ("hint: ", "bold cyan"), one_line(check.hint)), soft_wrap=True)


def _layers(console: Console, diagnosis: Diagnosis) -> None:
    console.print()
    table = _table("rule", ">parameters", ">numbers")
    for layers in diagnosis.layers:
        table.add_row(layers.rule, f"{layers.parameters:,}", f"{layers.numbers:,}")
    _print(console, table)
    share = diagnosis.trainable_parameters / diagnosis.all_parameters
    console.print(f"{diagnosis.trainable_parameters:,} numbers train, {share:.2%} of the model")


def _memory(console: Console, memory: Memory) -> None:
    console.print()
    table = _table(">tokens", ">examples", ">CPU s per 1,000 tokens", ">peak memory")
    for cost in memory.costs:
        table.add_row(
            f"{cost.tokens:,}",
            f"{cost.examples:,}",
            f"{cost.seconds_per_1000_tokens:.3f}",
            _size(cost.peak_bytes),
        )
    _print(console, table)
    console.print(
        f"suggested: --micro-batch-tokens {memory.suggested_tokens} (a run takes about "
        f"{_size(memory.estimated_bytes)} with texts of {memory.length} tokens; "
        f"{_size(memory.available_bytes)} can be had)",
        soft_wrap=True,
    )


def _size(count: int | None) -> str:
    """Memory for people.

    >>> _size(3_210_000_000), _size(85_000_000), _size(None)
    ('3.0 GiB', '81 MiB', '?')
    """
    if count is None:
        return _UNKNOWN
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        right = head.startswith(">")
        table.add_column(head.removeprefix(">"), justify="right" if right else "left", no_wrap=True)
    return table


def _print(console: Console, table: Table) -> None:
    """A table; off a terminal without trailing blanks."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    console.file.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())
