"""``dpft prepare``: tokenise datasets once, before they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from dpft.cli import options, options_files

if TYPE_CHECKING:
    from dpft.data.prepare import PreparedData

__all__ = ["EXAMPLE", "prepare"]

EXAMPLE = "Example: [cyan]dpft prepare sst2 --data-dir glue -m builtin:minilm[/cyan]"


def prepare(
    context: typer.Context,
    dataset_arguments: options.DatasetArguments = None,
    datasets: options.DatasetOptions = None,
    data_dir: options.DataDir = None,
    data_file: options_files.DataFile = None,
    validation_file: options_files.ValidationFile = None,
    text_column: options_files.TextColumns = None,
    label_column: options_files.LabelColumn = None,
    labels: options_files.Labels = None,
    model_checkpoint: options.ModelCheckpoint = None,
    max_length: options.MaxLength = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Read datasets, check every row, and keep them tokenised; [cyan]train[/cyan] does so by itself.

    A row that cannot be used is named by file and line, and nothing is written. What is in the cache already
    is found again.
    """
    from dpft.cli import render
    from dpft.cli.progress import TrainingView
    from dpft.cli.request import Given, data_specs, model_spec

    specs = data_specs(Given.of(context))
    model = model_spec(model_checkpoint)
    found = []
    with TrainingView(quiet=quiet) as view:
        view.working("loading libraries")
        from dpft.training.assemble import prepare_dataset

        for spec in specs:
            view.working(f"preparing {spec.dataset}")
            found.append(prepare_dataset(spec, model))
    if as_json:
        render.document({"datasets": [_public(data) for data in found]})
    elif quiet:
        render.ids(data.cache_key for data in found)
    else:
        render.prepared(found)


def _public(data: PreparedData) -> dict[str, Any]:
    return {
        "dataset": data.task.name,
        "cache_key": data.cache_key,
        "cached": data.cached,
        "max_length": data.max_length,
        "splits": {
            name: {"rows": split.rows, "truncated": split.truncated} for name, split in data.splits.items()
        },
    }
