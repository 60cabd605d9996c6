"""``dpft eval``: score a run from its files alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpft.cli import options
from dpft.errors import UsageError
from dpft.tables import TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dpft.data.prepare import PreparedSplit
    from dpft.data.task import Task

__all__ = ["EXAMPLE", "evaluate"]

EXAMPLE = "Example: [cyan]dpft eval @latest --json[/cyan]"

_TRAIN = "train"


def evaluate(
    run: options.RunReference,
    dataset: options.EvalDataset = None,
    data_dir: options.EvalDataDir = None,
    split: options.Split = None,
    max_length: options.EvalMaxLength = None,
    as_json: options.Json = False,
) -> None:
    """Score a run: accuracy, F1 where the dataset has it, and what a constant answer would get.

    The model is loaded from the run's files as anyone would load it.
    """
    from dpft.cli import render
    from dpft.cli.progress import TrainingView
    from dpft.cli.request import data_spec
    from dpft.cli.stored import trained_run

    record, spec = trained_run(run)
    wanted = data_spec(
        dataset or spec.data.dataset, data_dir or spec.data.data_dir, max_length or spec.data.max_length
    )
    with TrainingView() as view:
        view.working("loading libraries")
        from dpft.runs.store import Store
        from dpft.training.assemble import prepare_dataset
        from dpft.training.evaluation import evaluate as score
        from dpft.tuning.base import restore

        trained_on: Task = TASKS.get(spec.data.dataset)
        _check_labels(trained_on, TASKS.get(wanted.dataset))
        view.working(f"loading {record.name}")
        model, tokenizer = restore(
            spec.model,
            spec.tuning,
            trained_on.labels,
            record.run_dir / "adapter",
            base_sha256=Store().manifest(record)["base_model"].get("sha256"),
        )
        view.working(f"preparing {wanted.dataset}")
        data = prepare_dataset(wanted.dataset, wanted.data_dir, spec.model, wanted.max_length, tokenizer)
        name, rows = _choose(data.splits, split)
        view.working(f"scoring {rows.rows:,} rows")
        found = score(
            model,
            rows,
            data.task,
            int(tokenizer.pad_token_id or 0),
            spec.hardware,
            spec.tuning.num_prepend_tokens or 0,
        )
    if name == _TRAIN and record.private:
        render.warning("scores of the training split are not covered by the run's ε: do not publish them")
    if found.collapsed:
        render.warning(f"every answer is the same label: {record.name} has learnt nothing")
    if as_json:
        render.document(
            {
                "run_id": record.run_id,
                "dataset": wanted.dataset,
                "split": name,
                "rows": found.rows,
                "metrics": dict(found.metrics),
                "baselines": {"majority": found.majority},
                "confidence_interval": list(found.confidence_interval),
                "single_class_collapse": found.collapsed,
            }
        )
    else:
        render.evaluation(record.name, f"{wanted.dataset}/{name}", found)


def _check_labels(trained_on: Task, scored_on: Task) -> None:
    if trained_on.labels != scored_on.labels:
        answers, wanted = ("/".join(task.labels) for task in (trained_on, scored_on))
        raise UsageError(
            f"the run answers {answers}, but {scored_on.name} asks for {wanted}",
            hint="score it on a dataset with the same labels in the same order",
        )


def _choose(splits: Mapping[str, PreparedSplit], wanted: str | None) -> tuple[str, PreparedSplit]:
    """The split asked for, or the first that was not trained on."""
    name = wanted if wanted is not None else next(name for name in splits if name != _TRAIN)
    if name not in splits:
        raise UsageError(f"there is no split {name!r}", hint=f"choose one of: {', '.join(splits)}")
    return name, splits[name]
