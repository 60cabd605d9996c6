"""The results of the grid: a file of JSON lines that several processes share, and the tables made of it."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from scipy import stats

from tests.benchmarks.grid_cells import MAX_LENGTH, Cell

__all__ = ["Results", "interval", "lines_of_table", "settings_in_words"]

Line = Mapping[str, Any]

_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class Results:
    """What has been measured: one JSON line a run, appended under a lock.

    Args:
        path: the file; made when the first line is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        """All runs so far; a last line that a power cut tore does not count."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def has(self, cell: Cell) -> bool:
        """Whether ``cell`` was run."""
        return any(_cell(line) == cell for line in self.lines())

    def add(self, cell: Cell, measured: Mapping[str, Any]) -> None:
        """Append one run."""
        line = {"task": cell.task, "mode": cell.mode, "target": cell.epsilon, "seed": cell.seed, **measured}
        with FileLock(f"{self.path}.lock"), self.path.open("a+", encoding="utf-8") as file:
            torn = file.tell() and not self.path.read_bytes().endswith(b"\n")
            file.write(("\n" if torn else "") + json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _cell(line: Line) -> Cell:
    return Cell(line["task"], line["mode"], line["target"], line["seed"])


def interval(accuracies: Sequence[float], rows: int) -> float:
    """Half the width of a 95% interval for the accuracy that such a run can expect on unseen rows.

    Two things vary: which rows are in the development split, and what a run does with its noise, its sample
    and its initialisation. All runs are scored on the same rows, so these count once: a(1 − a)/rows, with the
    normal quantile. The mean over k runs varies by s²/k, with Student's at k − 1 degrees of freedom. The two
    reaches are added as squares; by simulation that holds the truth in 95% to 99% of the cases. (One quantile
    for both, at Satterthwaite's degrees of freedom, holds it in 87% where two runs differ much.)

    Args:
        accuracies: one per run; of a single run only the first source is seen.
        rows: of the development split.

    >>> round(interval([0.8], 1000), 4), round(interval([0.8, 0.8], 1000), 4)
    (0.0248, 0.0248)
    """
    share, runs = statistics.fmean(accuracies), len(accuracies)
    rows_vary = stats.norm.ppf(0.975) ** 2 * share * (1 - share) / rows
    runs_vary = 0.0
    if runs > 1:
        runs_vary = stats.t.ppf(0.975, runs - 1) ** 2 * statistics.variance(accuracies) / runs
    return math.sqrt(rows_vary + runs_vary)


def lines_of_table(lines: Iterable[Line], tasks: Sequence[str], modes: Sequence[str]) -> Iterator[str]:
    """Markdown: modes by tasks and targets, with half-widths; italics where a constant answer may do as well.

    Cells with fewer runs than others say how many.

    Args:
        lines: of :meth:`Results.lines`.
        tasks: columns.
        modes: rows.
    """
    found: dict[tuple[str, str, float | None], list[Line]] = {}
    for line in lines:
        found.setdefault((line["mode"], line["task"], line["target"]), []).append(line)
    columns = [
        (task, target)
        for task in tasks
        for target in sorted(
            {key[2] for key in found if key[1] == task}, key=lambda t: -math.inf if t is None else -t
        )
    ]
    majority = {line["task"]: line["majority"] for group in found.values() for line in group}
    heads = [f"{task} {'no DP' if target is None else f'ε {target:g}'}" for task, target in columns]
    most = max(map(len, found.values()), default=0)
    yield "| mode | " + " | ".join(heads) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    yield "| majority class | " + " | ".join(f"{majority[task]:.3f}" for task, _ in columns) + " |"
    for mode in modes:
        groups = [found.get((mode, task, target), []) for task, target in columns]
        if any(groups):
            yield f"| `{mode}` | " + " | ".join(_shown(group, most) for group in groups) + " |"


def _shown(group: Sequence[Line], most: int) -> str:
    if not group:
        return "–"
    accuracies = [line["accuracy"] for line in group]
    mean, reach = statistics.fmean(accuracies), interval(accuracies, group[0]["total"])
    text = f"{mean:.3f} ± {reach:.3f}"
    fewer = str(len(group)).translate(_RAISED) if len(group) < most else ""
    return (f"*{text}*" if mean - reach <= group[0]["majority"] else text) + fewer


def settings_in_words(lines: Sequence[Line]) -> Iterator[str]:
    """What the table's figures were measured with, and how to read them."""
    per_cell: dict[tuple[Any, ...], int] = {}
    for line in lines:
        key = (line["task"], line["mode"], line["target"])
        per_cell[key] = per_cell.get(key, 0) + 1
    counts = sorted(set(per_cell.values()))
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    raised = "; raised: how many, where others have more" if len(counts) > 1 else ""
    single = "; of a single run, the former only" if counts[0] == 1 else ""
    yield (
        f"Mean dev accuracy of {runs} run{'' if counts == [1] else 's'} a cell ({len(lines)} in all{raised}) "
        "± half of a 95% interval. It covers the choice of dev rows (a(1 − a)/rows: they are the same for "
        f"all runs) and the spread between runs (s²/k, by Student's t), added as squares{single}. "
        "Italics: the interval reaches down to the majority class. A seed fixes the initialisation and, "
        "without privacy, the data order; in a private run sample and noise are keyed by the operating "
        "system: a seed names a repetition, and reproduces none."
    )
    yield ""
    yield f"AdamW, linear decay; texts cut at {MAX_LENGTH} tokens. Steps × expected batch (warm-up, σ):"
    yield ""
    for task in dict.fromkeys(line["task"] for line in lines):
        mine = [line for line in lines if line["task"] == task]
        yield f"- {task}: " + "; ".join(_schedules(mine))
    yield ""
    yield "Learning rate (no DP / private), C, and precision:"
    yield ""
    for mode in dict.fromkeys(line["mode"] for line in lines):
        mine = [line for line in lines if line["mode"] == mode]
        free = _values(line["learning_rate"] for line in mine if line["target"] is None)
        private = _values(line["learning_rate"] for line in mine if line["target"] is not None)
        clip = _values(line["max_grad_norm"] for line in mine if line["target"] is not None)
        at = ", ".join(dict.fromkeys(line["precision"] for line in mine))
        yield f"- `{mode}`: {free} / {private}, C {clip}, {at}"
    yield ""
    seconds = sum(line["seconds"] for line in lines)
    yield f"{seconds / 3600:.1f} hours of one thread in all, {seconds / max(1, len(lines)):.0f} s a run."


def _schedules(lines: Sequence[Line]) -> Iterator[str]:
    groups: dict[tuple[int, int, float], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["steps"], line["batch_size"], line["warmup_fraction"]), []).append(line)
    for (steps, batch, warmup), group in groups.items():
        modes = dict.fromkeys(line["mode"] for line in group)
        whose = f"`{next(iter(modes))}`" if len(modes) == 1 else f"{len(modes)} modes"
        sigmas = {line["target"]: line["sigma"] for line in group if line["target"] is not None}
        privacy = ", ".join(f"σ {sigma:.4f} at ε {target:g}" for target, sigma in sorted(sigmas.items()))
        free = "" if any(line["target"] is not None for line in group) else "no DP"
        yield f"{whose} {steps} × {batch:,} ({', '.join(filter(None, (free, f'{warmup:.0%}', privacy)))})"


def _values(values: Iterable[float]) -> str:
    return " or ".join(f"{value:g}" for value in dict.fromkeys(values)) or "–"
