"""A report as Markdown, for a pull request."""

from __future__ import annotations

import re

from dpft.report.story import CAUTIONS, Story
from dpft.report.templating import environment

__all__ = ["cell", "code", "plain", "render"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]|~<>&#])")


def render(story: Story) -> str:
    """The text, in GitHub's flavour of Markdown."""
    text = environment(autoescape=False, filters={"cell": cell, "code": code, "plain": plain}).get_template(
        "report.md.j2"
    )
    return text.render(story=story, cautions=CAUTIONS)


def code(text: str) -> str:
    """A user's text as a code span: no markup, link, mention or picture in it comes to life.

    >>> code("a`b|c"), code("`")
    ('``a`b|c``', '`` ` ``')
    """
    flat = " ".join(text.split()) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    edge = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{edge}{flat}{edge}{fence}"


def cell(text: str) -> str:
    """Likewise, in a table, where a bar would end the cell even inside a code span."""
    return code(text).replace("|", "\\|")


def plain(text: str) -> str:
    r"""Text without any markup, links or mentions.

    >>> print(plain("1 * 2 <b> @me"))
    1 \* 2 \<b\> @​me
    """
    flat = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return (
        flat.replace("@", "@\u200b")
        .replace("#", "#\u200b")
        .replace("://", ":\u200b//")
        .replace("www.", "www\u200b.")
    )
