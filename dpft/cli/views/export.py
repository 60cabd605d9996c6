"""What ``dpft export --push`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from dpft.cli.render import panel, stdout

if TYPE_CHECKING:
    from dpft.export.push import Pushed

__all__ = ["pushed"]


def pushed(found: Pushed) -> None:
    """Where it is, who can read it, and what is there."""
    rows: list[tuple[str, RenderableType]] = [
        ("page", found.url),
        ("read by", "anyone" if found.public else "those you let in (private)"),
        ("commit", found.commit),
        ("files", "\n".join(found.files)),
    ]
    if found.removed:
        rows.append(("removed", "\n".join(found.removed)))
    panel(stdout(), Text.assemble((found.repo, "bold"), " · pushed"), rows)
