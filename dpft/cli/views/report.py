"""What ``dpft report`` prints."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from dpft.cli.render import stdout
from dpft.cli.wording import file_size

__all__ = ["written"]


def written(place: Path, chosen: str, size: int) -> None:
    """Where the report is, and what is in it."""
    console = stdout()
    line = Text.assemble((str(place), "bold"), f"  {file_size(size)}")
    console.print(line, soft_wrap=True)
    console.print(
        Text(f"{chosen}. It may be shared: nothing of local-only/ is in it.", "dim"), soft_wrap=True
    )
