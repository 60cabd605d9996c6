"""A whole job beside a script of the usual kind: SST-2 with LoRA, three epochs, 1,024 examples a step.

    python -m tests.benchmarks.job --data-dir glue          # without it, the built-in synthetic dataset

The usual script pads every text to 128 tokens and sends 64 at a time through Opacus's hooks, at float32. In
each round dpft takes one whole step (drawn, cut by length, clipped, noised, applied), and the script a few of
its sixteen micro-batches, which are counted up to a whole step. A second table has ``last-layer`` with what
the frozen encoder said of each example, and without.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from dpft.data.arrow_cache import PreparedSplit
from dpft.engines.base import MicroBatch
from dpft.privacy.plan import PrivatePlan, make_plan
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.training.assemble import Assembled, assemble, open_session
from dpft.training.batches import collate
from dpft.training.frozen import with_features
from dpft.training.loop import Fit, begin, fit
from dpft.training.observer import Observer
from dpft.training.precision import settled
from tests.benchmarks.machine import machine
from tests.benchmarks.step import table

__all__ = ["main"]

ROWS, BATCH, EPOCHS, SIGMA = 67_349, 1024, 3, 0.5456
PADDED, TOGETHER = 128, 64


@dataclass(frozen=True)
class Job:
    """A run as ``dpft train`` puts it together."""

    spec: RunSpec
    assembled: Assembled
    plan: PrivatePlan


def prepared(mode: str, options: argparse.Namespace, *, apart: bool = False) -> Job:
    """Model, mode, data and plan; ``apart`` with what the frozen encoder said of each example."""
    dataset = "sst2" if options.data_dir else "demo"
    hardware = {} if options.precision is None else {"precision": options.precision}
    spec = RunSpec(
        data=DataSpec(dataset=dataset, data_dir=options.data_dir, max_length=PADDED),
        model=ModelSpec(checkpoint=options.model),
        tuning=TuningSpec(mode=mode),
        privacy=PrivacySpec(target_epsilon=None, noise_multiplier=SIGMA),
        optimisation=OptimisationSpec(learning_rate=1e-6, batch_size=BATCH, epochs=EPOCHS),
        hardware=HardwareSpec.model_validate({"precision": "fp32"} if apart else hardware),
    )
    spec = settled(spec)
    found = assemble(spec, Observer())
    plan = make_plan(found.data.splits["train"].rows, spec.optimisation, spec.privacy)
    assert isinstance(plan, PrivatePlan)
    if apart:
        found = with_features(spec, found, plan.schedule, Observer())
        assert found.features is not None
    return Job(spec, found, plan)


class OneMore:
    """A plan of which the training loop takes a single step."""

    def __init__(self, plan: PrivatePlan) -> None:
        self.schedule = replace(plan.schedule, steps=plan.steps_taken + 1)
        self.clipper, self.steps_taken = plan.clipper, plan.steps_taken
        self.draw, self.release = plan.draw, plan.release


def ours(job: Job, stack: ExitStack) -> Callable[[], None]:
    """One step of dpft, by the training loop itself."""
    assembled, optimisation = job.assembled, job.spec.optimisation
    work = Fit(
        plan=job.plan,
        session=stack.enter_context(open_session(job.spec, assembled, job.plan.clipper)),
        parameters=assembled.parameters,
        split=assembled.data.splits["train"],
        pad_token_id=assembled.pad_token_id,
        features=assembled.features,
        max_length=PADDED,
    )
    learner = begin(assembled.parameters, optimisation, job.plan.schedule.steps)

    def take() -> None:
        once = replace(work, plan=OneMore(job.plan))
        fit(once, optimisation, job.spec.hardware, lambda report: None, learner)

    return take


def usual(job: Job, pieces: int) -> Callable[[], None]:
    """``pieces`` micro-batches of the usual script, and its optimizer's step."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    assembled = job.assembled
    wrapped = GradSampleModule(assembled.model.train(), loss_reduction="sum", strict=False)
    optimizer = DPOptimizer(
        torch.optim.AdamW(assembled.parameters.values(), lr=1e-6),
        noise_multiplier=SIGMA,
        max_grad_norm=1.0,
        expected_batch_size=BATCH,
        loss_reduction="sum",
    )
    batches = [padded(assembled.data.splits["train"], assembled.pad_token_id, i) for i in range(pieces)]

    def take() -> None:
        for number, batch in enumerate(batches):
            optimizer.signal_skip_step(do_skip=number + 1 < len(batches))
            F.cross_entropy(wrapped(**batch.inputs).logits, batch.labels, reduction="sum").backward()
            optimizer.step()
            optimizer.zero_grad()

    return take


def padded(split: PreparedSplit, pad_token_id: int, number: int) -> MicroBatch:
    """A micro-batch as tokenizers make it with ``padding="max_length"``."""
    made = collate(split, np.arange(number * TOGETHER, (number + 1) * TOGETHER) % split.rows, pad_token_id)

    def fill(name: str, value: torch.Tensor) -> torch.Tensor:
        filling = pad_token_id if name == "input_ids" else 0
        return F.pad(value, (0, PADDED - value.shape[1]), value=filling)

    return MicroBatch({name: fill(name, value) for name, value in made.inputs.items()}, made.labels)


def timed(take: Callable[[], None]) -> tuple[float, float]:
    """Seconds of CPU time, and seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    take()
    return time.process_time() - cpu, time.perf_counter() - wall


def interleaved(
    takes: Mapping[str, tuple[Callable[[], None], float]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Times of one step each per round, after one round to warm up; each times its weight."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in takes}
    for number in range(rounds + 1):
        for name, (take, weight) in takes.items():
            cpu, wall = timed(take)
            if number:
                found[name].append((weight * cpu, weight * wall))
    return found


def report(title: str, found: dict[str, list[tuple[float, float]]], steps: int, markdown: bool) -> None:
    """A table: the ratio is that of the first to each."""
    lines = [[title, "CPU s/step", "s/step", "whole job", "CPU ratio", "ratio"]]
    first = next(iter(found.values()))
    for name, times in found.items():
        cpu, wall = (statistics.median(column) for column in zip(*times, strict=True))
        pairs = [(a[0] / b[0], a[1] / b[1]) for a, b in zip(times, first, strict=True)]
        ratios = [f"{statistics.median(column):.3f}" for column in zip(*pairs, strict=True)]
        lines.append([name, f"{cpu:.2f}", f"{wall:.2f}", f"{steps * wall / 60:.1f} min", *ratios])
    print("\n".join(table(lines, markdown=markdown)) + "\n", flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="a folder in the GLUE layout")
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", help="of dpft, as train takes it; without it, train's default")
    parser.add_argument("--micro-batches", type=int, default=2, help="of the script's sixteen, per round")
    parser.add_argument("--only", choices=["lora", "last-layer"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Print both tables."""
    warnings.simplefilter("ignore")
    options = parse()
    torch.set_num_threads(options.threads)
    steps = math.ceil(EPOCHS * ROWS / BATCH)
    print(f"{machine()}; {options.threads} thread(s)\n", flush=True)
    record: dict[str, Any] = {"machine": machine(), "threads": options.threads, "steps": steps}
    if options.only != "last-layer":
        with ExitStack() as stack:
            weight = BATCH / TOGETHER / options.micro_batches
            lora = prepared("lora", options)
            takes = {
                f"dpft train ({lora.spec.hardware.precision})": (ours(lora, stack), 1.0),
                "usual script (fp32)": (usual(prepared("lora", options), options.micro_batches), weight),
            }
            found = interleaved(takes, options.rounds)
        report("lora", found, steps, options.markdown)
        record["lora"] = found
    if options.only != "lora":
        with ExitStack() as stack:
            takes = {
                "with the encoder": (ours(prepared("last-layer", options), stack), 1.0),
                "from the second epoch on": (ours(prepared("last-layer", options, apart=True), stack), 1.0),
            }
            found = interleaved(takes, options.rounds)
        report("last-layer", found, steps, options.markdown)
        record["last-layer"] = found
    if options.json:
        options.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
