"""What users and machines can get wrong: each with its message, its exit code and what was kept.

    python -m tests.unit.cli.wrong_inputs

prints the table; ``test_wrong_inputs.py`` holds every line of it; the cases are in ``wrong_input_cases.py``.
Each begins in a store of its own, with a completed run ``kept``, a failed run ``stopped``, a ledger and a
prepared cache, and ends with all of it as it was, to the byte.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dpft.cli.app import main
from dpft.runs.store import Store
from tests.unit.runs.builders import make_manifest, make_spec, private_parts

__all__ = ["Arguments", "Case", "Outcome", "Setup", "World", "complaints", "run", "table"]

PROGRESS = ("preparing ", "loading ")  # what takes a while is told before it


@dataclass
class World:
    """Where a case happens.

    Attributes:
        folder: its own.
        patch: undone afterwards.
        stack: closed afterwards.
        home: the store.
        cache: the prepared data.
    """

    folder: Path
    patch: pytest.MonkeyPatch
    stack: contextlib.ExitStack
    home: Path = field(init=False)
    cache: Path = field(init=False)

    def __post_init__(self) -> None:
        self.home, self.cache = self.folder / "dpft-home", self.folder / "dpft-cache"
        for name, value in (("DPFT_HOME", self.home), ("DPFT_CACHE", self.cache), ("HF_HUB_OFFLINE", "1")):
            self.patch.setenv(name, str(value))
        self.patch.chdir(self.folder)

    def furnish(self) -> None:
        """Two runs, a ledger, prepared data."""
        with Store().create(make_spec("kept")) as made:
            manifest = make_manifest(**private_parts(made.record.run_id)).to_dict()
            made.finish("completed", manifest=manifest, metrics={"accuracy": 0.8}, seconds=9.0)
        with Store().create(make_spec("stopped")) as made:
            made.finish("failed", manifest=None)
        for path in (self.home / "ledger" / "ab.txt", self.cache / "prepared" / "sst2-ab" / "meta.json"):
            path.parent.mkdir(parents=True)
            path.write_text("{}\n")

    @property
    def kept(self) -> Path:
        """The completed run's folder."""
        return Store().resolve("kept").run_dir

    def file(self, name: str, content: str | bytes = "") -> Path:
        """A file in the case's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def glue(self, train: str | bytes, dev: str | bytes = "sentence\tlabel\nfine\t1\n") -> list[object]:
        """Options for an SST-2 folder with this content."""
        self.file("glue/SST-2/train.tsv", train)
        self.file("glue/SST-2/dev.tsv", dev)
        return ["--data-dir", self.folder / "glue"]

    def everything(self) -> dict[str, bytes]:
        """All that is stored, locks and torn files apart."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for root in (self.home, self.cache)
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.suffix != ".lock" and path.name not in (".lock", ".key")
        }


Arguments = list[object]
Setup = Callable[[World], Arguments]


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong.

    Attributes:
        name: in a few words.
        setup: makes the situation; the command's arguments.
        code: the exit code.
        says: a part of the message.
        remedy: a part of the hint.
    """

    name: str
    setup: Setup
    code: int
    says: str
    remedy: str


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    code: int
    out: str
    err: str
    before: dict[str, bytes]
    after: dict[str, bytes]

    @property
    def message(self) -> str:
        """The error, without its label."""
        lines = self.err.splitlines()
        return next((line[7:] for line in lines if line.startswith("error: ")), "")

    @property
    def hint(self) -> str:
        """The remedy, without its label."""
        lines = self.err.splitlines()
        return next((line[6:] for line in lines if line.startswith("hint: ")), "")


def run(case: Case, folder: Path) -> Outcome:
    """Play a case in an empty folder, in this process."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        world = World(folder, patch, stack)
        world.furnish()
        arguments = [str(argument) for argument in case.setup(world)]
        before = world.everything()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
        patch.undo()
        after = world.everything()
    return Outcome(code, out.getvalue(), err.getvalue(), before, after)


def complaints(case: Case, outcome: Outcome) -> list[str]:
    """What is not as it must be."""
    found = []
    if outcome.code != case.code:
        found.append(f"exit code {outcome.code}, not {case.code}")
    if outcome.out:
        found.append("something on stdout")
    if not outcome.hint:
        found.append("no remedy")
    errors = [line for line in outcome.err.splitlines() if not line.startswith(PROGRESS)]
    if len(errors) > 2 or outcome.message.startswith("internal error"):
        found.append(f"more than an error and a hint: {errors}")
    for part, text in ((case.says, outcome.message), (case.remedy, outcome.hint)):
        if part not in text:
            found.append(f"{part!r} is not in {text!r}")
    changed = {name for name, _ in outcome.before.items() ^ outcome.after.items()}
    if changed:
        found.append(f"what is stored was changed: {', '.join(sorted(changed))}")
    return found


def table(rows: Iterator[tuple[Case, Outcome]]) -> Iterator[str]:
    """The cases as a Markdown table."""
    yield "| # | what is wrong | error | hint | exit | kept |"
    yield "|---|---|---|---|---|---|"
    for number, (case, outcome) in enumerate(rows, start=1):
        kept = "all" if outcome.before == outcome.after else "CHANGED"
        cells = [str(number), case.name, outcome.message, outcome.hint, str(outcome.code), kept]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def print_table() -> None:
    """Play all cases and print what came of them."""
    from .wrong_input_cases import CASES

    root = Path(tempfile.mkdtemp(prefix="dpft-wrong-"))
    try:
        played = ((case, run(case, _new(root / str(number)))) for number, case in enumerate(CASES))
        for line in table(played):
            sys.stdout.write(line.replace(str(root), "…") + "\n")
    finally:
        shutil.rmtree(root)


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    print_table()
