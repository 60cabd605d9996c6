"""What a private step costs: one logical batch with and without privacy, interleaved, on this machine.

    python -m tests.benchmarks.step                                     # every mode and engine, two sizes
    python -m tests.benchmarks.step --modes full lora --seconds 600     # as many rounds as fit into it
    python -m tests.benchmarks.step --table                             # the README's, in half an hour

In each round every engine takes one step of the same 512 examples (micro-batches, noise and optimizer
included) in random order; its time is divided by that of the step without privacy in the same round, and the
median of these ratios is printed. CPU time counts all threads and is what to quote where anything else runs
beside; wall time says what overlaps, on a quiet machine. Memory is the peak of a process of its own, which
takes two steps of two micro-batches. At bf16 dpft's examples have widths of their own, as in training; the
others' do not, and the ratio says what that costs too (of memory, not: its two micro-batches are smaller).
"noise" is the share of drawing and adding noise in the engine's step.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from dpft.tables import MODES
from tests.benchmarks.contenders import BASELINE, contender, contenders, noise_alone, peers
from tests.benchmarks.machine import machine
from tests.benchmarks.work import LENGTHS, SIZES, Work, build, logical_batch

__all__ = ["Row", "main"]

_LEAST_ROUNDS = 3
_COMPARED = ("full", "lora")  # modes that every peer can do


@dataclass
class Row:
    """What one engine needed for one piece of work.

    Attributes:
        cpu: seconds of CPU time in each round.
        wall: seconds in each round.
        cpu_ratio: median over rounds of its CPU time by that of the step without privacy.
        wall_ratio: the same of wall time.
        tokens_per_second: tokens that are no padding, by median wall time.
        peak_mb: resident memory at its highest; None where it was not measured.
        noise_share: of CPU time; None where the noise is not ours.
        failure: why there are no figures.
    """

    engine: str
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu_ratio: float | None = None
    wall_ratio: float | None = None
    tokens_per_second: float | None = None
    peak_mb: int | None = None
    noise_share: float | None = None
    failure: str = ""


def started(work: Work, name: str, stack: ExitStack, pieces: int | None = None) -> Any:
    """A step function of ``name`` on a model of its own, and what is trained."""
    model, parameters = build(work)
    batch = logical_batch(work, own_widths=name == "dpft" and work.precision == "bf16")[:pieces]
    return contender(name)(model, parameters, batch, work.precision, stack), parameters


def race(work: Work, names: list[str], rounds: int, seconds: float) -> list[Row]:
    """Rounds of one step each, in random order; a first one warms up and is not counted.

    Args:
        work: what everyone does.
        names: the baseline first.
        rounds: at most.
        seconds: no further round begins after these, but for the least number of rounds.
    """
    rows = {name: Row(name) for name in names}
    began = time.monotonic()
    with ExitStack() as stack:
        steps = {}
        for name in names:
            try:
                steps[name], parameters = started(work, name, stack)
                steps[name]()
            except Exception as error:  # a library that cannot do this mode says so in the table
                if name == BASELINE:
                    raise
                steps.pop(name, None)
                rows[name].failure = f"{type(error).__name__}: {error}".splitlines()[0][:60]
        for number in range(rounds):
            if number >= min(rounds, _LEAST_ROUNDS) and time.monotonic() - began > seconds:
                break
            for name in random.sample(list(steps), len(steps)):
                cpu, wall = time.process_time(), time.perf_counter()
                steps[name]()
                rows[name].cpu.append(time.process_time() - cpu)
                rows[name].wall.append(time.perf_counter() - wall)
        noise = noise_alone(parameters)
    tokens = sum(int(piece.inputs["attention_mask"].sum()) for piece in logical_batch(work))
    for row in rows.values():
        _conclude(row, rows[BASELINE], tokens, noise)
    return list(rows.values())


def _conclude(row: Row, baseline: Row, tokens: int, noise: float) -> None:
    if row.failure:
        return
    row.cpu_ratio = statistics.median(a / b for a, b in zip(row.cpu, baseline.cpu, strict=True))
    row.wall_ratio = statistics.median(a / b for a, b in zip(row.wall, baseline.wall, strict=True))
    row.tokens_per_second = tokens / statistics.median(row.wall)
    if row.engine == "dpft":
        row.noise_share = noise / statistics.median(row.cpu)


def peak_memory(work: Work, name: str) -> int | None:
    """Megabytes, measured in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.step", "--peak-of", json.dumps([name, asdict(work)])],
        capture_output=True,
        text=True,
        check=False,
    )
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def print_peak(name: str, work: Work) -> None:
    """Take two steps of two micro-batches and print this process's peak resident memory in megabytes."""
    with ExitStack() as stack:
        take, _ = started(work, name, stack, 2)
        take()
        take()
    # Not getrusage: there, a child process starts at its parent's peak.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) // 1024)


HEADER = [
    "size",
    "mode",
    "lengths",
    "threads",
    "precision",
    "engine",
    "CPU ratio",
    "range",
    "wall ratio",
    "tokens/s",
    "peak MB",
    "noise",
]


def cells(work: Work, row: Row, baseline: Row) -> list[str]:
    """One line of the table."""
    about = [work.size, work.mode, work.lengths, str(work.threads), work.precision, row.engine]
    if row.cpu_ratio is None or row.wall_ratio is None or row.tokens_per_second is None:
        return [*about, row.failure, "", "", "", "", ""]
    ratios = [a / b for a, b in zip(row.cpu, baseline.cpu, strict=True)]
    return [
        *about,
        f"{row.cpu_ratio:.3f}",
        f"{min(ratios):.2f}–{max(ratios):.2f}",
        f"{row.wall_ratio:.3f}",
        f"{row.tokens_per_second:,.0f}",
        "" if row.peak_mb is None else str(row.peak_mb),
        "" if row.noise_share is None else f"{row.noise_share:.1%}",
    ]


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


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["L2H128", "L6H384"], choices=list(SIZES))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--lengths", nargs="+", default=["dynamic"], choices=LENGTHS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--engines", nargs="+", default=contenders(), choices=contenders())
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9, help="at most, of each work")
    parser.add_argument("--seconds", type=float, default=1800, help="in all; each work has three rounds")
    parser.add_argument("--table", action="store_true", help="the README's: who, how and how often are fixed")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--peak-of", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        options.lengths, options.threads, options.rounds = ["dynamic", "fixed"], [1, 2], 5
        options.engines, options.markdown = [BASELINE, "dpft", *peers()], True
    return options


def chosen(options: argparse.Namespace) -> Iterator[Work]:
    """What is measured, in the order of the lines; of ``--table``'s longest works, only some."""
    size_of = (options.examples, options.micro_batch_tokens)
    for size in options.sizes:
        for lengths in options.lengths:
            for threads in options.threads:
                long = options.table and size == "L6H384" and lengths == "fixed"
                for mode in options.modes:
                    if long and (threads == 1 or mode not in _COMPARED):
                        continue
                    for precision in options.precisions:
                        yield Work(size, mode, lengths, *size_of, threads, precision)


def named(work: Work, options: argparse.Namespace) -> list[str]:
    """Who takes part, the baseline first; in ``--table``, other libraries where they can be compared."""
    names = [BASELINE, *(name for name in options.engines if name != BASELINE)]
    peerless = work.mode not in _COMPARED or work.threads > 1 or work.lengths == "fixed"
    return [name for name in names if not (options.table and peerless and name in peers())]


def main() -> None:
    """Print the table: lines as they are measured to stderr, all of it in the end to stdout."""
    warnings.simplefilter("ignore")  # of libraries
    options = parse()
    if options.peak_of:
        name, work = options.peak_of
        torch.set_num_threads(work["threads"])
        print_peak(name, Work(**work))
        return
    works = list(chosen(options))

    def weighed(work: Work) -> bool:
        """Whether its memory is measured: once, not for every number of threads."""
        first = work.threads == options.threads[0] and (work.lengths == "dynamic" or not options.table)
        return first and not options.no_memory

    deadline = time.monotonic() + options.seconds
    lines, record = [HEADER], []
    for number, work in enumerate(works):
        torch.set_num_threads(work.threads)
        share = (deadline - time.monotonic()) / (len(works) - number)
        with threadpool_limits(work.threads):
            rows = race(work, named(work, options), options.rounds, share * (0.7 if weighed(work) else 1))
        for row in rows:
            if weighed(work) and not row.failure:
                row.peak_mb = peak_memory(work, row.engine)
            lines.append(cells(work, row, rows[0]))
            print("  ".join(lines[-1]), file=sys.stderr, flush=True)
            record.append({**asdict(work), **asdict(row)})
    about = machine()
    print(f"\n{about}\n")
    print("\n".join(table(lines, markdown=options.markdown)))
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rows": record}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
