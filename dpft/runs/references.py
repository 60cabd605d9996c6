"""References to runs: an id, a prefix that only one id has, a name, ``@latest``, or ``@N``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from dpft.errors import AmbiguousError, NotFoundError
from dpft.runs.record import RunRecord

__all__ = ["find"]

_NONE_YET = "there are no runs yet: begin with 'dpft train -d demo -m builtin:minilm'"


def find(ref: str, records: Sequence[RunRecord]) -> RunRecord:
    """The run that a reference means.

    Args:
        ref: the reference; ``@latest`` and ``@1`` are the first run, ``@2`` the second.
        records: newest first.

    Raises:
        AmbiguousError: several ids begin so; the message lists them.
        NotFoundError: there is no such run; the hint has the nearest names.
    """
    if ref.startswith("@"):
        return _by_age(ref, records)
    wanted = ref.casefold()
    named = [record for record in records if record.name.casefold() == wanted]
    if named:
        return named[0]
    matches = [record for record in records if wanted and record.run_id.startswith(wanted)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = max(8, len(ref) + 4)
        listed = ", ".join(f"{record.run_id[:shown]} ({record.name})" for record in matches)
        raise AmbiguousError(f"{ref!r} is ambiguous: {listed}", hint="give more of the id, or the name")
    raise NotFoundError(f"no run {ref!r}", hint=_nearest(wanted, records))


def _by_age(ref: str, records: Sequence[RunRecord]) -> RunRecord:
    match = re.fullmatch(r"@(latest|[1-9][0-9]{0,8})", ref)
    if match is None:
        raise NotFoundError(
            f"no run {ref!r}", hint="write @latest, or @1 for the newest run, @2 for the one before"
        )
    number = 1 if match.group(1) == "latest" else int(match.group(1))
    if number > len(records):
        raise NotFoundError(
            f"no run {ref!r}: there are {len(records)} runs", hint="see 'dpft list'" if records else _NONE_YET
        )
    return records[number - 1]


def _nearest(ref: str, records: Sequence[RunRecord]) -> str:
    names = {record.name.casefold(): record.name for record in records}
    close = difflib.get_close_matches(ref, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(names[name] for name in close)}?"
    return "see 'dpft list', or 'dpft list --trash' for removed runs" if records else _NONE_YET
