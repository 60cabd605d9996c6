"""What ``dpft config`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from dpft.cli.files import text_of_labels
from dpft.cli.render import new_table, stdout
from dpft.cli.wording import NONE, one_line

if TYPE_CHECKING:
    from dpft.cli.resolved import Setting

__all__ = ["settings", "text"]

_STYLES = {"flag": "bold", "environment": "cyan", "config": "green"}


def settings(found: Sequence[Setting]) -> None:
    """A line for each setting: what it is, and where it comes from."""
    table = new_table("option", "value", "source")
    table.columns[1].no_wrap, table.columns[1].overflow = False, "fold"  # nothing of a path is left out
    for setting in found:
        source = setting.source if setting.origin is None else f"environment ({setting.origin})"
        value = Text(one_line(_shown(setting)), "" if setting.value is not None else "dim")
        if setting.set_aside is not None:
            value.append(f"  ({setting.set_aside} is set aside)", "yellow")
        table.add_row(setting.option, value, Text(source, _STYLES.get(setting.source, "dim")))
    stdout().print(table)


def text(content: str) -> None:
    """A file, as it is."""
    console = stdout()
    console.print(Text(content), end="", soft_wrap=True)


def _shown(setting: Setting) -> str:
    value: Any = setting.value
    if value is None:
        return setting.rule or NONE
    if setting.option == "--enable-dp":
        return "yes" if value else "no (--no-dp)"
    if isinstance(value, list):
        return text_of_labels(value) if setting.option == "--labels" else ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
