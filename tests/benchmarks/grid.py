"""The results grid: eight modes, four GLUE tasks, without privacy and at two ε, several seeds.

    python -m tests.benchmarks.grid --data-dir glue --out grid.jsonl --prepare   # once: texts and features
    python -m tests.benchmarks.grid --data-dir glue --out grid.jsonl             # a process for each core
    python -m tests.benchmarks.grid --out grid.jsonl --markdown                  # the table, at any time

Each cell is a run of ``dpft.training.run.train`` with manifest and ledger. Finished runs are appended to
the file given by ``--out``, which processes share: each takes the next cell that is neither in it nor in
another's hands. Ctrl-C or SIGTERM gives up the cell at hand; the same command goes on. In a private run the
seed fixes the initialisation alone, as everywhere in dpft: sample and noise are never repeated.

Each run has a store of its own, so that no ledger grows from cell to cell: the ε of a cell is that of its
run, not of the grid, which trains on the same rows again and again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpft.errors import DpftError
from dpft.tables import MODES
from tests.benchmarks.grid_cells import CACHED, EPSILONS, TASKS, Cell, cells, setting, spec_of
from tests.benchmarks.grid_results import Results, lines_of_table, settings_in_words

__all__ = ["main", "parse", "waiting", "work"]

_KEPT = ("epsilon", "delta", "steps", "trainable_parameters")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="one JSON line a run")
    parser.add_argument("--data-dir", help="a folder in the GLUE layout")
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--precision", help="as train takes it; without it, train's default")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument(
        "--epsilons", nargs="+", type=_epsilon, default=list(EPSILONS), help="numbers, or no-dp"
    )
    parser.add_argument("--steps", type=int, help="instead of each cell's own, for a quick look")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--home", type=Path, help="cache and stores; FILE.home unless given")
    parser.add_argument("--keep", action="store_true", help="keep each run's store (adapters and manifests)")
    todo = parser.add_mutually_exclusive_group()
    todo.add_argument("--prepare", action="store_true", help="fill the cache, train nothing")
    todo.add_argument("--dry-run", action="store_true", help="list the cells that are left")
    todo.add_argument("--markdown", action="store_true", help="print what FILE has as a table")
    options = parser.parse_args(arguments)
    if options.data_dir is None and not (options.dry_run or options.markdown):
        parser.error("--data-dir is needed to train")
    options.home = options.home or Path(f"{options.out}.home")
    return options


def _epsilon(text: str) -> float | None:
    return None if text == "no-dp" else float(text)


def chosen(options: argparse.Namespace) -> list[Cell]:
    """The cells that were asked for, in order."""
    return list(cells(options.tasks, options.modes, options.epsilons, options.seeds))


@contextlib.contextmanager
def claimed(cell: Cell, results: Results, home: Path) -> Iterator[bool]:
    """Whether ``cell`` is this process's to run; a claim ends with the process that has it."""
    claims = home / "claims"
    claims.mkdir(parents=True, exist_ok=True)
    lock = FileLock(claims / f"{cell.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield not results.has(cell)
    finally:
        lock.release()


def waiting(wanted: Sequence[Cell], results: Results, home: Path) -> Iterator[Cell]:
    """Cells to run now: each is claimed until the next one is asked for."""
    for cell in wanted:
        with claimed(cell, results, home) as mine:
            if mine:
                yield cell


def work(options: argparse.Namespace, results: Results) -> None:
    """Run what is left."""
    import torch

    torch.set_num_threads(options.threads)
    wanted = chosen(options)
    for cell in waiting(wanted, results, options.home):
        began = time.monotonic()
        try:
            measured = run(cell, options)
        except DpftError as error:
            print(f"{cell.name}: {error.message} ({error.hint})", file=sys.stderr, flush=True)
            continue
        if measured is None:
            raise KeyboardInterrupt
        results.add(cell, {**measured, "seconds": round(time.monotonic() - began, 1)})
        done = len(results.lines())
        print(
            f"{done:4d} {cell.name}: {measured['accuracy']:.4f} (majority {measured['majority']:.4f}), "
            f"{time.monotonic() - began:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def run(cell: Cell, options: argparse.Namespace) -> dict[str, Any] | None:
    """Train one cell, in a store of its own; None if it was interrupted."""
    from dpft.runs.store import Store
    from dpft.training.run import train

    spec = spec_of(
        cell,
        rows_of(cell.task, options),
        data_dir=options.data_dir,
        model=options.model,
        precision=options.precision,
        steps=options.steps,
    )
    place = options.home / "stores" / cell.name
    shutil.rmtree(place, ignore_errors=True)  # of a process that was stopped
    place.mkdir(parents=True)
    try:
        record = train(spec, store=Store(place))
        if record.status != "completed":
            return None
        scores = [json.loads(line) for line in (record.run_dir / "metrics.jsonl").read_text().splitlines()]
        accuracy, total = record.metrics["accuracy"], scores[-1]["validation_rows"]
        assert accuracy is not None
        return {
            **{name: getattr(record, name) for name in _KEPT},
            "accuracy": accuracy,
            "correct": round(accuracy * total),
            "total": total,
            "majority": record.baselines["majority"],
            "sigma": record.noise_multiplier,
            "batch_size": spec.optimisation.batch_size,
            "learning_rate": spec.optimisation.learning_rate,
            "warmup_fraction": spec.optimisation.warmup_fraction,
            "max_grad_norm": spec.privacy.max_grad_norm if record.private else None,
            "precision": json.loads((record.run_dir / "privacy.json").read_text())["software"]["dtype"],
            "train_seconds": record.seconds,
        }
    finally:
        if not options.keep:
            shutil.rmtree(place, ignore_errors=True)


def rows_of(task: str, options: argparse.Namespace) -> int:
    """Training examples of a task, from the cache once it is filled."""
    from dpft.training.assemble import prepare_dataset

    spec = spec_of(
        Cell(task, CACHED, None, 0), 1, data_dir=options.data_dir, model=options.model, precision=None
    )
    return prepare_dataset(spec.data, spec.model).splits["train"].rows


def prepare(options: argparse.Namespace) -> None:
    """Tokenise every task, and ask the encoder about every example where a cell needs it."""
    import torch

    from dpft.privacy.schedule import schedule_for
    from dpft.training.assemble import assemble
    from dpft.training.frozen import with_features
    from dpft.training.observer import Observer

    torch.set_num_threads(options.threads)
    for task in options.tasks:
        began, rows = time.monotonic(), rows_of(task, options)
        if CACHED in options.modes:
            cell = Cell(task, CACHED, None, 0)
            spec = spec_of(cell, rows, data_dir=options.data_dir, model=options.model, precision=None)
            schedule = schedule_for(rows, spec.optimisation, spec.privacy)
            with_features(spec, assemble(spec, Observer()), schedule, Observer())
        print(f"{task}: {rows:,} rows, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def dry_run(options: argparse.Namespace, results: Results) -> None:
    """What is left, and about how many tokens go through the model."""
    left = [cell for cell in chosen(options) if not results.has(cell)]
    trained = scored = 0.0
    for cell in left:
        what, tokens = setting(cell, options.steps), cell.tokens(options.steps)
        trained, scored = trained + tokens[0], scored + tokens[1]
        clip = "" if what.max_grad_norm is None else f", C {what.max_grad_norm:g}"
        print(
            f"{cell.name}: {what.steps} × {what.batch_size}, learning rate {what.learning_rate:g}{clip}; "
            f"{tokens[0]:,.0f} tokens trained, {tokens[1]:,} scored"
        )
    print(f"{len(left)} runs: {trained / 1e6:.1f} million tokens trained, {scored / 1e6:.1f} million scored")
    if any(cell.mode == CACHED for cell in left):
        rows = sum(TASKS[task].rows * TASKS[task].tokens for task in options.tasks)
        print(f"and {rows / 1e6:.1f} million through the frozen encoder for {CACHED}, once (--prepare)")


def main() -> None:
    """Do what was asked for."""
    warnings.simplefilter("ignore")  # of libraries
    options = parse()
    results = Results(options.out)
    if options.markdown:
        lines = results.lines()
        print("\n".join(lines_of_table(lines, options.tasks, options.modes)), end="\n\n")
        print("\n".join(settings_in_words(lines)))
        return
    if options.dry_run:
        dry_run(options, results)
        return
    options.home.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        DPFT_HOME=str(options.home.absolute() / "store"), DPFT_CACHE=str(options.home.absolute() / "cache")
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell put it into the background
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        prepare(options) if options.prepare else work(options, results)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
