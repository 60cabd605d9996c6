"""What ``dpft verify`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dpft.cli.render import stdout
from dpft.cli.wording import one_line

if TYPE_CHECKING:
    from dpft.export.proof import Verification

__all__ = ["verification"]


def verification(found: Verification, name: str) -> None:
    """Every check with what was found, and what all of it does not prove."""
    console = stdout()
    title = Text.assemble((name or found.path.name, "bold"), f" · {found.kind}")
    console.print(title.append(f" · run {found.run_id}" if found.run_id else ""), soft_wrap=True)
    if found.statement:
        console.print(Text(one_line(found.statement)), soft_wrap=not console.is_terminal)
    if found.manifest_sha256:
        console.print(f"manifest SHA-256 {found.manifest_sha256}", soft_wrap=True, highlight=False)
    console.print()
    width = max(len(check.name) for check in found.checks)
    grid = Table.grid(padding=(0, 0, 0, 2))
    for check in found.checks:
        mark = Text("ok    ", "green") if check.ok else Text("FAILED", "bold red")
        if console.is_terminal:
            grid.add_row(mark, check.name, Text(one_line(check.detail), overflow="fold"))
        else:
            line = Text.assemble("  ", mark, "  ", f"{check.name:{width}}", "  ", one_line(check.detail))
            console.print(line, soft_wrap=True)
    if console.is_terminal:
        console.print(grid)
    console.print()
    number = len(found.checks)
    verdict = (
        Text.assemble((f"all {number} checks hold", "bold green"))
        if found.ok
        else Text.assemble((f"{len(found.failed)} of {number} checks do not hold", "bold red"))
    )
    console.print(verdict.append(f": {found.limits}", "default"), soft_wrap=not console.is_terminal)
