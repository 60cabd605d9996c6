"""A report as one HTML page that needs nothing else: no network, no framework, no script to be read."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from markupsafe import Markup

from dpft.report.story import CAUTIONS, Story
from dpft.report.templating import environment

__all__ = ["render"]


def render(story: Story) -> str:
    """The page.

    Its content security policy lets nothing be fetched, and nothing run or style it but the one script and
    the one style sheet in it, which it names by their digests.
    """
    style, script = (_text(f"report.{kind}") for kind in ("css", "js"))
    policy = f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}"
    page = environment(autoescape=True, filters={}).get_template("report.html.j2")
    return page.render(
        story=story,
        cautions=CAUTIONS,
        policy=Markup(policy),  # noqa: S704 (our own)
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
    )


def _text(name: str) -> str:
    return (files("dpft.report") / "templates" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
