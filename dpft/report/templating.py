"""The templates' surroundings: everything printed is escaped, and freed of this machine's paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dpft.report import charts, words
from dpft.report.words import without_paths
from dpft.runs.statement import round_up_delta, round_up_epsilon

__all__ = ["environment"]


def environment(*, autoescape: bool, filters: Mapping[str, Callable[..., Any]]) -> Environment:
    """Templates of this package, in which an unknown name is an error.

    Args:
        autoescape: for HTML.
        filters: of the format.
    """
    made = Environment(
        loader=PackageLoader("dpft.report"),
        autoescape=autoescape,  # noqa: S701 (Markdown has filters of its own)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_last_look,
    )
    common: dict[str, Callable[..., Any]] = {
        "accuracy": words.accuracy,
        "course": words.course,
        "delta": round_up_delta,
        "epsilon": round_up_epsilon,
        "facts": words.facts,
        "glued": words.glued,
        "privacy": words.privacy,
        "share": charts.share,
        "short_epsilon": words.short_epsilon,
        "sparkline": words.sparkline,
    }
    made.filters |= {**common, **filters}
    return made


def _last_look(value: Any) -> Any:
    """Every value on its way into the page; what templates themselves have made has been here before."""
    return without_paths(value) if isinstance(value, str) and not isinstance(value, Markup) else value
