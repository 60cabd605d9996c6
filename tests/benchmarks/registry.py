"""What a store of a thousand runs costs beside one of ten: ``list``, ``show`` and a tab, interleaved.

    python -m tests.benchmarks.registry --runs 10 1000 --rounds 9

Each round runs every command once on each store, in random order, in a new process (imports are a part of
what a user waits for). Medians of wall time and of processor time are printed, and the difference. Runs are
made up: folders with records, specs, metrics and a registry; no adapters.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from dpft.runs.files import write_atomic
from dpft.runs.names import ADJECTIVES, NOUNS
from dpft.runs.record import RunRecord, save_record
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.tables import MODES, TASKS

COMPLETE = {"_DPFT_COMPLETE": "complete_bash", "COMP_WORDS": "dpft show ", "COMP_CWORD": "2"}
COMMANDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "list": (["list"], {}),
    "list --filter": (["list", "--filter", "accuracy>0.8 and epsilon<=3", "--sort", "epsilon"], {}),
    "list --json": (["list", "--json"], {}),
    "show": (["show", "@2"], {}),
    "tab": ([], COMPLETE),
}


def fill(home: Path, count: int) -> None:
    """Make up ``count`` runs in a new store."""
    chance = random.Random(count)
    datasets, modes = TASKS.names(), MODES.names()
    now = datetime.now(UTC)
    for number in range(count):
        private = number % 7 != 3
        epsilon = round(chance.uniform(0.5, 8), 4)
        status = ("completed", "completed", "completed", "interrupted", "failed")[number % 5]
        mode, dataset = modes[number % len(modes)], datasets[number % len(datasets)]
        run_dir = home / "runs" / f"{chance.getrandbits(64):016x}"
        (run_dir / "adapter").mkdir(parents=True, mode=0o700)
        name = f"{ADJECTIVES[number % len(ADJECTIVES)]}-{NOUNS[number // len(ADJECTIVES) % len(NOUNS)]}"
        accuracy = round(chance.uniform(0.5, 0.95), 4)
        spec = RunSpec(
            data=DataSpec(dataset=dataset),
            model=ModelSpec(),
            tuning=TuningSpec(mode=mode, lora_r=2 ** (1 + number % 4)),
            privacy=PrivacySpec(enabled=private, target_epsilon=epsilon if private else None),
            optimisation=OptimisationSpec(learning_rate=1e-3, epochs=1 + number % 5),
            hardware=HardwareSpec(),
        )
        write_atomic(run_dir / "config.yaml", yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False))
        save_record(
            RunRecord(
                run_id=run_dir.name,
                name=name if count <= len(ADJECTIVES) else f"{name}-{number}",
                dataset=dataset,
                finetune_mode=mode,
                model_checkpoint="prajjwal1/bert-tiny",
                status=status,
                private=private,
                epsilon=epsilon if private else None,
                delta=1e-5 if private else None,
                noise_multiplier=0.7 if private else None,
                sample_rate=0.01 if private else None,
                target_epsilon=epsilon if private else None,
                steps=100,
                steps_planned=100,
                trainable_parameters=12_345,
                metrics={"accuracy": accuracy},
                baselines={"majority": 0.5},
                seconds=round(chance.uniform(20, 2000), 1),
                created=(now - timedelta(hours=number)).isoformat().replace("+00:00", "Z"),
                finished=now.isoformat().replace("+00:00", "Z"),
                tags=("baseline",) if number % 3 == 0 else (),
                run_dir=run_dir,
            )
        )
        lines = [
            f'{{"step": {20 * e}, "validation_accuracy": {accuracy * (0.6 + 0.08 * e):.4f}}}\n'
            for e in range(6)
        ]
        write_atomic(run_dir / "metrics.jsonl", "".join(lines))
        write_atomic(run_dir / ".lock", "")
    Store(home).rebuild()


def once(arguments: list[str], home: Path, extra: dict[str, str]) -> tuple[float, float]:
    """Wall and processor seconds of one command in a new process."""
    environment = {**os.environ, **extra, "DPFT_HOME": str(home), "DPFT_CACHE": str(home.parent / "cache")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "dpft", *arguments], env=environment, stdout=subprocess.DEVNULL, check=True
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(sizes: list[int], rounds: int, folder: Path) -> None:
    """Print a table of medians."""
    homes = {size: folder / f"store-{size}" for size in sizes}
    for size, home in homes.items():
        fill(home, size)
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds + 1):
        turns = [(command, size) for command in COMMANDS for size in sizes]
        random.shuffle(turns)
        for command, size in turns:
            seconds.setdefault((command, size), []).append(once(*_with(homes[size], command)))
    print(f"{'command':14} " + " ".join(f"{f'{size} runs':>20}" for size in sizes) + "   difference")
    for command in COMMANDS:
        pairs = [_medians(seconds[command, size][1:]) for size in sizes]  # the first round warms up
        cells = " ".join(f"{wall:8.3f} s ({cpu:5.3f} s)" for wall, cpu in pairs)
        wall, cpu = (last - first for first, last in zip(pairs[0], pairs[-1], strict=True))
        print(f"{command:14} {cells}   {wall:+.3f} s ({cpu:+.3f} s)")


def _with(home: Path, command: str) -> tuple[list[str], Path, dict[str, str]]:
    arguments, extra = COMMANDS[command]
    return arguments, home, extra


def _medians(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(wall for wall, _ in pairs), statistics.median(cpu for _, cpu in pairs)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, nargs="+", default=[10, 1000], help="sizes of the stores")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dpft-registry-") as folder:
        measure(given.runs, given.rounds, Path(folder))


if __name__ == "__main__":
    main()
