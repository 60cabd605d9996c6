"""Variables of the environment that look like a setting and are none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

__all__ = ["PLACES", "misspelt"]

PLACES = ("DPFT_HOME", "DPFT_CACHE", "DPFT_CONFIG", "DPFT_DEBUG")
"""Variables that are not options."""


def misspelt(environ: Mapping[str, str], options: Iterable[str]) -> list[str]:
    """What to say of each variable ``DPFT_…`` that sets nothing: a cap misspelt is a cap that is not there.

    Args:
        environ: the environment.
        options: parameter names that a variable may set, as ``batch_size``.

    Returns:
        One sentence each, by name, with the nearest variable there is.

    >>> misspelt({"DPFT_BUDGT_CAP": "3", "PATH": ""}, ["budget_cap"])
    ['no setting is called DPFT_BUDGT_CAP: it is ignored; did you mean DPFT_BUDGET_CAP?']
    """
    known = [*PLACES, *(f"DPFT_{name.upper()}" for name in options)]
    told = []
    for name in sorted(environ):
        if name.startswith("DPFT_") and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            question = f"; did you mean {nearest[0]}?" if nearest else ""
            told.append(f"no setting is called {name}: it is ignored{question}")
    return told
