"""Every option of every command, once.

Options carry no defaults of their own: what is not given is left to the specs and the modes, which own the
defaults. Help texts state them in words (:data:`STATED`), and a test compares these with their owners.
Choices come from the tables, without importing an entry.

Every option of ``train`` may also be set by a variable ``DPFT_<OPTION>`` or in a ``--config`` file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dpft.cli.complete import names, run_references
from dpft.cli.config import load_config
from dpft.tables import CLIPPERS, ENGINES, EXPORT_FORMATS, MODES, TASKS

__all__ = [
    "DATASETS_ARGUMENT",
    "STATED",
    "AllRuns",
    "BatchSize",
    "Clipping",
    "Config",
    "DataDir",
    "DatasetArguments",
    "DatasetFilter",
    "DatasetOptions",
    "EnableDp",
    "Engine",
    "Epochs",
    "EvalBase",
    "EvalDataDir",
    "EvalDataset",
    "EvalMaxLength",
    "FinetuneMode",
    "Format",
    "Json",
    "LearningRate",
    "LoraAlpha",
    "LoraDropout",
    "LoraR",
    "MaxGradNorm",
    "MaxLength",
    "MicroBatchTokens",
    "ModelCheckpoint",
    "Name",
    "NoiseMultiplier",
    "Note",
    "NumPrependTokens",
    "Output",
    "Overwrite",
    "Plan",
    "Precision",
    "Quiet",
    "RunOrFolder",
    "RunReference",
    "Seed",
    "Split",
    "StatusFilter",
    "Tags",
    "TargetDelta",
    "TargetEpsilon",
    "setting",
]

DATA = "Data and model"
TUNING = "Fine-tuning"
PRIVACY = "Privacy"
HARDWARE = "Speed (changes neither result nor privacy)"
RUN = "The run"
OUTPUT = "Output"

STATED = {
    "model_checkpoint": "prajjwal1/bert-tiny",
    "max_length": "128",
    "finetune_mode": "lora",
    "epochs": "3.0",
    "batch_size": "1024, or a sixteenth of fewer than 16,384 rows",
    "lora_r": "8",
    "lora_alpha": "16.0",
    "lora_dropout": "0.0",
    "target_epsilon": "8.0",
    "clipping": "flat",
    "engine": "dpft",
    "seed": "0",
    "micro_batch_tokens": "2048",
    "precision": "auto",
}
"""Defaults as help texts state them; their owners are the specs (and this table, for the mode)."""

DATASETS_ARGUMENT = "dataset_arguments"


def setting(
    *declarations: str,
    help: str,
    panel: str,
    default: str = "",
    metavar: str | None = None,
    complete: Callable[[str], Any] | None = None,
) -> Any:
    """An option that a variable or a config file may set too."""
    name = declarations[0].split("/")[0].removeprefix("--").replace("-", "_")
    stated = default or STATED.get(name, "")
    return typer.Option(
        *declarations,
        help=f"{help} [dim]\\[default: {stated}][/dim]" if stated else help,
        metavar=metavar,
        rich_help_panel=panel,
        show_default=False,
        envvar=f"DPFT_{name.upper()}",
        show_envvar=False,
        autocompletion=complete,
    )


def _once(*declarations: str, help: str, panel: str = OUTPUT, **more: Any) -> Any:
    """An option of this one call, which nothing but the command line sets."""
    return typer.Option(*declarations, help=help, rich_help_panel=panel, show_default=False, **more)


def _flag(*declarations: str, help: str, panel: str = OUTPUT) -> Any:
    """Such an option without a value."""
    return _once(*declarations, help=help, panel=panel, metavar="")


DatasetArguments = Annotated[
    list[str] | None,
    typer.Argument(
        help="Datasets, as with [cyan]--datasets[/cyan].",
        metavar="DATASET",
        show_default=False,
        autocompletion=names(TASKS),
    ),
]
DatasetOptions = Annotated[
    list[str] | None,
    setting(
        "--datasets",
        "-d",
        help=f"One or more of {', '.join(TASKS.names())}: separated by spaces or commas, or given again.",
        panel=DATA,
        metavar="DATASET",
        complete=names(TASKS),
    ),
]
DataDir = Annotated[
    Path | None,
    setting(
        "--data-dir",
        help="Folder in the GLUE layout (SST-2/train.tsv, SST-2/dev.tsv …).",
        panel=DATA,
        default="the hub's nyu-mll/glue; demo needs none",
    ),
]
MaxLength = Annotated[
    int | None,
    setting("--max-length", help="Tokens per example; longer ones are truncated.", panel=DATA),
]
ModelCheckpoint = Annotated[
    str | None,
    setting("--model-checkpoint", "-m", help="Hub id, folder, or builtin:minilm.", panel=DATA),
]

FinetuneMode = Annotated[
    str | None,
    setting(
        "--finetune-mode",
        "-f",
        help=f"Which parameters train: {', '.join(MODES.names())}.",
        panel=TUNING,
        complete=names(MODES),
    ),
]
LearningRate = Annotated[
    float | None,
    setting("--learning-rate", help="Peak learning rate of AdamW.", panel=TUNING, default="per mode"),
]
Epochs = Annotated[
    float | None, setting("--epochs", help="Passes over the examples, in expectation.", panel=TUNING)
]
BatchSize = Annotated[
    int | None,
    setting(
        "--batch-size",
        help="Examples per step: their expected number, with privacy. Larger means less noise, and slower.",
        panel=TUNING,
    ),
]
LoraR = Annotated[int | None, setting("--lora-r", help="Rank of LoRA's updates.", panel=TUNING)]
LoraAlpha = Annotated[
    float | None, setting("--lora-alpha", help="LoRA's scale is this over its rank.", panel=TUNING)
]
LoraDropout = Annotated[
    float | None, setting("--lora-dropout", help="Dropout before LoRA's updates.", panel=TUNING)
]
NumPrependTokens = Annotated[
    int | None,
    setting(
        "--num-prepend-tokens",
        help="Virtual tokens of the soft-prompt and prefix modes.",
        panel=TUNING,
        default="per mode",
    ),
]
Seed = Annotated[
    int | None,
    setting("--seed", help="Of initialisation and non-private data order; never of the noise.", panel=TUNING),
]

EnableDp = Annotated[
    bool | None,
    setting(
        "--enable-dp/--no-dp",
        help="Train with differential privacy.",
        metavar="",
        panel=PRIVACY,
        default="enable-dp",
    ),
]
TargetEpsilon = Annotated[
    float | None,
    setting("--target-epsilon", help="ε to choose the noise for; never exceeded.", panel=PRIVACY),
]
TargetDelta = Annotated[
    float | None,
    setting("--target-delta", help="δ.", panel=PRIVACY, default="1/(2n), for n training examples"),
]
NoiseMultiplier = Annotated[
    float | None,
    setting("--noise-multiplier", help="σ, instead of a target ε.", panel=PRIVACY),
]
MaxGradNorm = Annotated[
    float | None,
    setting(
        "--max-grad-norm",
        help="Clipping norm C: the most one example can contribute to a step.",
        panel=PRIVACY,
        default="per mode",
    ),
]
Clipping = Annotated[
    str | None,
    setting(
        "--clipping",
        help=f"How contributions are bounded: {', '.join(CLIPPERS.names())}.",
        panel=PRIVACY,
        complete=names(CLIPPERS),
    ),
]
Engine = Annotated[
    str | None,
    setting(
        "--engine",
        help=f"What computes clipped gradients: {', '.join(ENGINES.names())}.",
        panel=PRIVACY,
        complete=names(ENGINES),
    ),
]

MicroBatchTokens = Annotated[
    int | None,
    setting("--micro-batch-tokens", help="Tokens that go through the model at once.", panel=HARDWARE),
]
Precision = Annotated[
    str | None,
    setting(
        "--precision",
        help="Of the model's matrix products: fp32, bf16, or auto: bf16 where the hardware gains by it.",
        panel=HARDWARE,
    ),
]

Name = Annotated[
    str | None,
    setting(
        "--name",
        help="What to call the run; with several datasets, NAME-DATASET.",
        panel=RUN,
        default="an adjective and a noun",
    ),
]
Tags = Annotated[
    list[str] | None,
    setting("--tag", help="A label to find the run by; may be given again.", panel=RUN, metavar="TEXT"),
]
Note = Annotated[str | None, setting("--note", help="A remark to keep with the run.", panel=RUN)]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML or YAML file of these options' values; flags and DPFT_<OPTION> variables override it.",
        rich_help_panel=RUN,
        envvar="DPFT_CONFIG",
        show_envvar=False,
        show_default=False,
        is_eager=True,
        callback=load_config,
    ),
]
Plan = Annotated[
    bool, _flag("--plan", help="Show σ, q, steps and ε of what would run, and train nothing.", panel=RUN)
]

RunReference = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's id or the beginning of it, its name, @latest, or @2 for the one before.",
        show_default=False,
        autocompletion=run_references,
    ),
]
RunOrFolder = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run, or the folder of an adapter or an export.",
        show_default=False,
        autocompletion=run_references,
    ),
]
EvalBase = Annotated[
    str | None,
    _once("--model-checkpoint", "-m", help="Base model. [dim]\\[default: the one named][/dim]", panel=DATA),
]
EvalDataset = Annotated[
    str | None,
    _once(
        "--dataset",
        "-d",
        help="Score on another dataset than the run's.",
        panel=DATA,
        autocompletion=names(TASKS),
    ),
]
EvalDataDir = Annotated[
    Path | None,
    _once("--data-dir", help="Folder in the GLUE layout. [dim]\\[default: the run's][/dim]", panel=DATA),
]
Split = Annotated[
    str | None,
    _once("--split", help="Which split. [dim]\\[default: the first validation split][/dim]", panel=DATA),
]
EvalMaxLength = Annotated[
    int | None,
    _once("--max-length", help="Tokens per example. [dim]\\[default: the run's][/dim]", panel=DATA),
]
Format = Annotated[
    str,
    _once(
        "--format",
        help=f"One of {', '.join(EXPORT_FORMATS.names())}. [dim]\\[default: peft][/dim]",
        panel=OUTPUT,
        autocompletion=names(EXPORT_FORMATS),
    ),
]
Output = Annotated[
    Path | None,
    _once("--output", "-o", help="Where to. [dim]\\[default: ./NAME-FORMAT][/dim]"),
]
Overwrite = Annotated[bool, _flag("--overwrite", help="Replace what is there.")]
StatusFilter = Annotated[
    str | None,
    _once(
        "--status", help="Only running, completed, interrupted, failed or crashed runs.", panel="Which runs"
    ),
]
DatasetFilter = Annotated[
    str | None,
    _once(
        "--dataset", "-d", help="Only runs on this dataset.", panel="Which runs", autocompletion=names(TASKS)
    ),
]
AllRuns = Annotated[
    bool,
    _flag(
        "--all",
        "-a",
        help="All of them, not only the newest 20 (--json and -q always give all).",
        panel="Which runs",
    ),
]
Json = Annotated[bool, _flag("--json", help="Print one JSON document, and nothing else, on stdout.")]
Quiet = Annotated[bool, _flag("--quiet", "-q", help="Print ids only, one per line; no progress.")]
