"""``dpft eval``: score a run, or a folder with an adapter in it, from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpft.cli import options, options_files
from dpft.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dpft.data.prepare import PreparedSplit
    from dpft.data.task import Task
    from dpft.spec import DataSpec

__all__ = ["EXAMPLE", "evaluate"]

EXAMPLE = "Example: [cyan]dpft eval @latest --json[/cyan], or [cyan]dpft eval ./my-adapter -d sst2[/cyan]"

_TRAIN = "train"


def evaluate(
    run: options.RunOrFolder,
    dataset: options.EvalDataset = None,
    data_dir: options.EvalDataDir = None,
    data_file: options_files.EvalDataFile = None,
    text_column: options_files.EvalTextColumns = None,
    label_column: options_files.EvalLabelColumn = None,
    labels: options_files.EvalLabels = None,
    split: options.Split = None,
    max_length: options.EvalMaxLength = None,
    model_checkpoint: options.EvalBase = None,
    as_json: options.Json = False,
) -> None:
    """Score a run: accuracy, F1 where the dataset has it, and what a constant answer would get.

    The model is loaded from the run's files as anyone would load it. A folder may be given instead: an
    export, a run's directory, or an adapter that PEFT saved. Nothing in it is trusted, and nothing can run.
    """
    from dpft.cli import render
    from dpft.cli.files import file_wishes
    from dpft.cli.progress import TrainingView
    from dpft.cli.request import model_spec
    from dpft.cli.stored import folder_or_run, trained_run
    from dpft.cli.subject import Wish, of_folder, of_run

    base = model_spec(model_checkpoint) if model_checkpoint is not None else None
    file = file_wishes(data_file, text_column, label_column, labels, data_dir)
    wish = Wish(dataset, data_dir, max_length, base, file)
    found = folder_or_run(run)
    stored = of_run(*trained_run(found), wish) if isinstance(found, str) else None
    with TrainingView() as view:
        view.working("loading libraries")
        from dpft.training.assemble import prepare_dataset
        from dpft.training.evaluation import evaluate as score

        subject = stored if stored is not None else of_folder(Path(found), wish)
        _check_labels(subject.trained_on, subject.scored_on)
        view.working(f"loading {subject.name}")
        model, tokenizer, base = subject.load()
        wanted = subject.data
        view.working(f"preparing {wanted.dataset}")
        data = prepare_dataset(wanted, base, tokenizer, task=subject.scored_on)
        name, rows = _choose(data.splits, split)
        view.working(f"scoring {rows.rows:,} rows")
        result = score(
            model,
            rows,
            data.task,
            int(tokenizer.pad_token_id or 0),
            subject.hardware,
            subject.virtual_tokens,
        )
    if (name == _TRAIN or subject.trained_rows) and subject.private:
        what = "split" if name == _TRAIN else "file"
        render.warning(f"scores of the training {what} are not covered by the run's ε: do not publish them")
    if result.collapsed:
        render.warning(f"every answer is the same label: {subject.name} has learnt nothing")
    if not as_json:
        render.evaluation(subject.name, _place(wanted, name, subject.trained_rows), result)
        return
    document = {
        "run_id": subject.run_id,
        "dataset": wanted.dataset,
        "split": name,
        "rows": result.rows,
        "metrics": dict(result.metrics),
        "baselines": {"majority": result.majority},
        "confidence_interval": list(result.confidence_interval),
        "single_class_collapse": result.collapsed,
        "includes_training_rows": name == _TRAIN or subject.trained_rows,
    }
    render.document(document if subject.path is None else {**document, "path": str(subject.path)})


def _place(wanted: DataSpec, split: str, trained_rows: bool) -> str:
    """What was scored: a split, or the user's own file by its name."""
    file = wanted.data_file
    where = f"{wanted.dataset}/{split}" if file is None else Path(file).name
    return f"{where} (training rows among them)" if trained_rows else where


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
