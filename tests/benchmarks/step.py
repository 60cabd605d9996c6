"""What a private step costs: a logical batch with and without privacy, interleaved, on this machine.

    python -m tests.benchmarks.step --size L2H128 --mode full lora --lengths dynamic --rounds 9

In each round every contender takes one step of the same examples, optimizer and noise included, in random
order; its time is divided by that of the step without privacy in the same round, and the median of these
ratios is what to quote. Process time counts all threads; wall time says what overlaps, where nothing else
runs beside. Peak memory is that of a process of its own which takes two steps (``--no-memory`` skips it).
"""

from __future__ import annotations

import argparse
import datetime
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from dpft.tables import MODES
from tests.benchmarks.contenders import BASELINE, contender, contenders
from tests.benchmarks.work import LENGTHS, SIZES, Work, build, logical_batch


@dataclass
class Row:
    """What one contender needed: seconds per round, and memory."""

    name: str
    process: list[float]
    wall: list[float]
    peak: str = ""
    failure: str = ""


def started(work: Work, name: str, stack: ExitStack) -> object:
    """A step function of ``name`` on a model of its own."""
    model, parameters = build(work)
    return contender(name)(model, parameters, logical_batch(work), stack)


def race(work: Work, names: list[str], rounds: int) -> list[Row]:
    """Rounds of one step each, in random order; the first round warms up and is not counted."""
    rows = {name: Row(name, [], []) for name in names}
    with ExitStack() as stack:
        steps = {}
        for name in names:
            try:
                steps[name] = started(work, name, stack)
                steps[name]()
            except Exception as error:  # a peer that cannot do this mode says so in the table
                if name == BASELINE:
                    raise
                steps.pop(name, None)
                rows[name].failure = f"{type(error).__name__}: {error}".splitlines()[0][:60]
        for _ in range(rounds):
            for name in random.sample(list(steps), len(steps)):
                process, wall = time.process_time(), time.perf_counter()
                steps[name]()
                rows[name].process.append(time.process_time() - process)
                rows[name].wall.append(time.perf_counter() - wall)
    return list(rows.values())


def peak_memory(work: Work, name: str, threads: int) -> str:
    """Megabytes, measured in a fresh process."""
    arguments = [
        "--size",
        work.size,
        "--mode",
        work.mode,
        "--lengths",
        work.lengths,
        "--threads",
        str(threads),
    ]
    arguments += ["--examples", str(work.examples), "--micro-batch-tokens", str(work.budget)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.step", "--peak-of", name, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else "?"


def print_peak(work: Work, name: str) -> None:
    """Take two steps and print this process's peak resident memory in megabytes."""
    with ExitStack() as stack:
        take = started(work, name, stack)
        take()
        take()
    # Not getrusage: there, a child process starts at its parent's peak.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) // 1024)


def cells(row: Row, baseline: Row, tokens: int) -> list[str]:
    """One line of the table."""
    if row.failure:
        return [row.name, row.failure, "", "", "", ""]
    ratios = sorted(a / b for a, b in zip(row.process, baseline.process, strict=True))
    walls = [a / b for a, b in zip(row.wall, baseline.wall, strict=True)]
    return [
        row.name,
        f"{statistics.median(ratios):.3f}",
        f"{ratios[0]:.2f}–{ratios[-1]:.2f}",
        f"{statistics.median(walls):.3f}",
        f"{tokens / statistics.median(row.wall):,.0f}",
        row.peak,
    ]


HEADER = ["contender", "process time", "range", "wall time", "tokens/s", "peak MB"]


def table(lines: list[list[str]], *, markdown: bool) -> Iterator[str]:
    """Aligned columns, or Markdown."""
    if markdown:
        yield "| " + " | ".join(lines[0]) + " |"
        yield "|" + "---|" * len(lines[0])
        for line in lines[1:]:
            yield "| " + " | ".join(line) + " |"
        return
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def machine() -> str:
    """Date, versions and threads, for the record."""
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "peft")]
    for name in ("opacus", "private-transformers"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    today = datetime.datetime.now(datetime.UTC).date()
    return f"{today}, {platform.machine()}, {torch.get_num_threads()} thread(s); " + ", ".join(versions)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--mode", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--lengths", nargs="+", default=list(LENGTHS), choices=LENGTHS)
    parser.add_argument("--contender", nargs="+", default=contenders(), choices=contenders())
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--peak-of", choices=contenders(), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print one table per size, mode and lengths."""
    options = parse()
    torch.set_num_threads(options.threads)
    works = [
        Work(size, mode, lengths, options.examples, options.micro_batch_tokens)
        for size in options.size
        for mode in options.mode
        for lengths in options.lengths
    ]
    if options.peak_of:
        print_peak(works[0], options.peak_of)
        return
    print(machine())
    names = [BASELINE, *(name for name in options.contender if name != BASELINE)]
    for work in works:
        pieces = logical_batch(work)
        tokens = sum(int(piece.inputs["attention_mask"].sum()) for piece in pieces)
        print(
            f"\n{work.size} {work.mode}, {work.lengths} lengths: {work.examples} examples, {tokens} tokens, "
            f"{len(pieces)} micro-batches\n"
        )
        rows = race(work, names, options.rounds)
        if not options.no_memory:
            for row in rows:
                row.peak = "" if row.failure else peak_memory(work, row.name, options.threads)
        lines = [HEADER, *(cells(row, rows[0], tokens) for row in rows)]
        print("\n".join(table(lines, markdown=options.markdown)), flush=True)


if __name__ == "__main__":
    main()
