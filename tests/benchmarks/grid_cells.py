"""The cells of the results grid: which runs there are, what each trains with, and in which order they go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpft.spec import (
    DataSpec,
    HardwareSpec,
    ModelSpec,
    OptimisationSpec,
    PrivacySpec,
    RunSpec,
    TuningSpec,
)
from dpft.tables import MODES

__all__ = ["CACHED", "EPSILONS", "MAX_LENGTH", "TASKS", "Cell", "Setting", "cells", "setting", "spec_of"]

MAX_LENGTH = 64
EPSILONS: tuple[float | None, ...] = (None, 8.0, 3.0)
CACHED = "last-layer"  # asks the encoder once per example, for all of its runs


@dataclass(frozen=True)
class _Task:
    """A task's size, in tokens of BERT's vocabulary at ``MAX_LENGTH``, and how private runs are cut."""

    rows: int
    tokens: float
    dev_rows: int
    dev_tokens: int
    steps: int
    batch: int


TASKS = {
    "sst2": _Task(67_349, 13.3, 872, 22_300, steps=12, batch=384),
    "qnli": _Task(8_999, 46.9, 1_000, 46_800, steps=16, batch=128),
    "qqp": _Task(8_999, 30.5, 1_000, 29_800, steps=16, batch=128),
    "mnli": _Task(8_999, 38.7, 1_000, 37_800, steps=16, batch=128),
}
_SMALLER = 4  # the same examples without privacy, in four times as many steps


@dataclass(frozen=True)
class Setting:
    """What a cell trains with.

    Attributes:
        batch_size: expected examples of a step.
        steps: in all.
        learning_rate: peak, of AdamW.
        max_grad_norm: C; None without privacy.
        warmup_fraction: of the steps.
    """

    batch_size: int
    steps: int
    learning_rate: float
    max_grad_norm: float | None
    warmup_fraction: float


# mode: learning rate with privacy, without, C. Noise hides least of few examples where they come in few large
# steps; rates are then larger than the modes' defaults, and are reached late: the first steps are noisiest.
_RATES = {
    "full": (8e-3, 2e-4, 1.0),
    "last-layer": (3e-2, 4e-3, 3.0),
    "lora": (1.5e-2, 2e-3, 1.0),
    "ia3": (3e-2, 1e-2, 3.0),
    "prefix": (3e-2, 2e-2, 3.0),
    "soft-prompt": (4e-2, 2e-2, 3.0),
    "soft-prompt+lora": (1.5e-2, 2e-3, 1.0),
    "prefix+lora": (1.5e-2, 2e-3, 1.0),
}
_WARMUP, _WARMUP_PRIVATE = 0.1, 0.5
# Features are computed once for all runs, so the head can have many steps: two epochs, not quite whole, since
# the end of each is scored, which takes the whole model and costs more than they do.
_CACHED_EPOCHS, _CACHED_STEPS, _CACHED_WARMUP = 2, 80, 0.05
_USUAL_BATCH = 1024


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        task: a name in ``TASKS``.
        mode: a fine-tune mode.
        epsilon: the target; None without privacy.
        seed: of the initialisation, and without privacy of the data order.
    """

    task: str
    mode: str
    epsilon: float | None
    seed: int

    @property
    def name(self) -> str:
        """Names files."""
        privacy = "no-dp" if self.epsilon is None else f"eps{self.epsilon:g}"
        return f"{self.task}-{self.mode}-{privacy}-{self.seed}"

    def tokens(self, steps: int | None = None) -> tuple[float, int]:
        """About how many it trains on, and how many are scored; what ``--prepare`` computes is neither."""
        task = TASKS[self.task]
        virtual = (MODES.get(self.mode).defaults.num_prepend_tokens or 0) if "prompt" in self.mode else 0
        scored = task.dev_tokens + virtual * task.dev_rows
        if self.mode == CACHED:
            return 0.0, scored
        chosen = setting(self, steps)
        return chosen.batch_size * chosen.steps * (task.tokens + virtual), scored


def cells(
    tasks: Sequence[str], modes: Sequence[str], epsilons: Sequence[float | None], seeds: int
) -> Iterator[Cell]:
    """All of them; whenever one stops, what there is is balanced: seed by seed, task by task."""
    for seed in range(seeds):
        for task in tasks:
            for mode in modes:
                for epsilon in epsilons:
                    yield Cell(task, mode, epsilon, seed)


def setting(cell: Cell, steps: int | None = None) -> Setting:
    """What ``cell`` trains with; ``steps`` instead of its own."""
    task, private = TASKS[cell.task], cell.epsilon is not None
    with_privacy, without, clip = _RATES[cell.mode]
    batch, usual, warmup = task.batch, task.steps, _WARMUP_PRIVATE
    if cell.mode == CACHED:
        batch = min(_USUAL_BATCH, _CACHED_EPOCHS * task.rows // _CACHED_STEPS)
        usual, warmup = _CACHED_EPOCHS * task.rows // batch, _CACHED_WARMUP
    elif not private:
        batch, usual, warmup = batch // _SMALLER, usual * _SMALLER, _WARMUP
    return Setting(
        batch_size=batch,
        steps=usual if steps is None else steps,
        learning_rate=with_privacy if private else without,
        max_grad_norm=clip if private else None,
        warmup_fraction=warmup,
    )


def spec_of(
    cell: Cell, rows: int, *, data_dir: str, model: str, precision: str | None, steps: int | None = None
) -> RunSpec:
    """The run of ``cell`` on ``rows`` training examples.

    Args:
        cell: which.
        rows: n.
        data_dir: the folder in the GLUE layout.
        model: a checkpoint.
        precision: what the hardware spec takes; None for its default.
        steps: instead of the task's.
    """
    chosen = setting(cell, steps)
    hardware = {} if precision is None else {"precision": precision}
    if cell.mode == CACHED:
        hardware = {"precision": "fp32"}  # the precision that features are kept at
    return RunSpec(
        data=DataSpec(dataset=cell.task, data_dir=data_dir, max_length=MAX_LENGTH),
        model=ModelSpec(checkpoint=model),
        tuning=TuningSpec(
            mode=cell.mode, num_prepend_tokens=MODES.get(cell.mode).defaults.num_prepend_tokens
        ),
        privacy=PrivacySpec(
            enabled=cell.epsilon is not None,
            target_epsilon=cell.epsilon or 8.0,
            max_grad_norm=chosen.max_grad_norm or 1.0,
        ),
        optimisation=OptimisationSpec(
            learning_rate=chosen.learning_rate,
            batch_size=chosen.batch_size,
            # T = ⌈epochs·n/B⌉: half a step less, so that rounding cannot add one
            epochs=(chosen.steps - 0.5) * chosen.batch_size / rows,
            warmup_fraction=chosen.warmup_fraction,
            seed=cell.seed,
        ),
        hardware=HardwareSpec.model_validate({**hardware, "checkpoint_every": 0}),
    )
