"""``dpft report``: several runs on one page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpft.cli import options
from dpft.cli.complete import names, run_references
from dpft.errors import NotFoundError, StoreError, UsageError
from dpft.tables import REPORT_FORMATS

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord
    from dpft.runs.store import Store

__all__ = ["EXAMPLE", "report"]

EXAMPLE = "Examples: [cyan]dpft report -o report.html[/cyan], [cyan]dpft report @1 @2 --format md -o -[/cyan]"

_NEWEST = 50
_STDOUT = Path("-")
_ENDINGS = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN",
        help=f"Runs: ids, names, @latest, @2. [dim]\\[default: the newest {_NEWEST} completed ones][/dim]",
        show_default=False,
        autocompletion=run_references,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The file; - for standard output. [dim]\\[default: report.html][/dim]",
        rich_help_panel=options.OUTPUT,
        show_default=False,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help=f"One of {', '.join(REPORT_FORMATS.names())}. [dim]\\[default: by the file's ending][/dim]",
        rich_help_panel=options.OUTPUT,
        show_default=False,
        autocompletion=names(REPORT_FORMATS),
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        "--overwrite",
        help="Replace the file if it is there.",
        metavar="",
        rich_help_panel=options.OUTPUT,
        show_default=False,
    ),
]
Everything = Annotated[
    bool,
    typer.Option(
        "--all",
        "-a",
        help=f"All completed runs, not only the newest {_NEWEST}.",
        metavar="",
        rich_help_panel="Which runs",
        show_default=False,
    ),
]


def report(
    runs: Runs = None,
    output: Output = None,
    format: Format = None,
    force: Force = False,
    everything: Everything = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a page about several runs: privacy against accuracy, learning curves, the manifests in words.

    It may be shared as it is: an HTML file that fetches nothing, or Markdown for a pull request.
    """
    from dpft.cli import render
    from dpft.cli.progress import TrainingView
    from dpft.cli.views import report as view
    from dpft.runs.store import Store

    kind = _format(format, output)
    place = output if output is not None else Path(f"report.{kind}")
    to_stdout = place == _STDOUT
    if to_stdout and (as_json or quiet):
        raise UsageError(
            "the report and the answer cannot both go to standard output",
            hint="give -o a file, or leave out --json and -q",
        )
    place = place if to_stdout else _free(place.expanduser().absolute(), force=force)
    store = Store()
    records, chosen = _choose(store, runs or [], everything=everything)
    with TrainingView(quiet=quiet) as watching:
        watching.working(f"reading {len(records):,} {_runs(len(records))}")
        text = _written(store, records, chosen, kind)
    if to_stdout:
        sys.stdout.write(text)
        return
    _publish(place, text)
    if as_json:
        render.document(
            {
                "path": str(place),
                "runs": [record.run_id for record in records],
                "format": kind,
                "chosen": chosen,
            }
        )
    elif quiet:
        render.ids(record.run_id for record in records)
    else:
        view.written(place, chosen, len(text.encode()))


def _format(format: str | None, output: Path | None) -> str:
    """What is asked for, or what the file's ending says."""
    by_ending = _ENDINGS.get(output.suffix.lower()) if output is not None else None
    if format is None:
        if output is not None and output.suffix and by_ending is None:
            raise UsageError(
                f"{output}: no report has the ending {output.suffix}",
                hint=f"endings are {', '.join(sorted(_ENDINGS))}; or name the format with --format",
            )
        return by_ending or "html"
    REPORT_FORMATS.check(format)
    if by_ending not in (None, format):
        raise UsageError(
            f"{output} is not a name for --format {format}", hint="leave out --format, or change the ending"
        )
    return format


def _free(place: Path, *, force: bool) -> Path:
    """Refuse, before anything is computed, a place where nothing can be written."""
    if place.is_dir():
        raise UsageError(f"{place} is a folder", hint=f"give a file: -o {place / 'report.html'}")
    if place.exists() and not force:
        raise UsageError(f"{place} exists", hint="give --overwrite to replace it, or -o another file")
    if not place.parent.is_dir():
        raise NotFoundError(
            f"there is no folder {place.parent}", hint="make it first, or give -o another file"
        )
    return place


def _choose(store: Store, references: Sequence[str], *, everything: bool) -> tuple[list[RunRecord], str]:
    """The runs meant, each once, and in a sentence which they are."""
    if references:
        if everything:
            raise UsageError("--all and names of runs exclude each other", hint="leave out one of them")
        named = {record.run_id: record for record in map(store.resolve, references)}
        return [*named.values()], f"{len(named):,} chosen {_runs(len(named))}"
    completed = [record for record in store.list() if record.status == "completed"]
    if not completed:
        raise NotFoundError(
            "there is no completed run to report on",
            hint="begin with 'dpft train -d demo -m builtin:minilm', or name a run",
        )
    shown = completed if everything else completed[:_NEWEST]
    if len(shown) < len(completed):
        return shown, f"The newest {len(shown)} of {len(completed):,} completed runs"
    all_of = "The only completed run" if len(shown) == 1 else f"All {len(shown):,} completed runs"
    return shown, all_of


def _written(store: Store, records: Sequence[RunRecord], chosen: str, kind: str) -> str:
    from dpft.report.gather import gather
    from dpft.report.story import tell

    text: str = REPORT_FORMATS.get(kind)(tell(gather(store, records), chosen))
    return text


def _publish(place: Path, text: str) -> None:
    from dpft.runs.files import write_atomic

    try:
        write_atomic(place, text)
    except StoreError as error:
        raise StoreError(
            error.message, hint="give -o another file; what was there before is intact"
        ) from error


def _runs(number: int) -> str:
    return "run" if number == 1 else "runs"
