"""``dpft doctor``: is everything in order, here, and for a model in a mode?"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpft.cli import options
from dpft.errors import DpftError, PrivacyError, UsageError

if TYPE_CHECKING:
    from dpft.cli.request import Given
    from dpft.runs.health import Check
    from dpft.spec import RunSpec
    from dpft.training.diagnose import Diagnosis

__all__ = ["EXAMPLE", "doctor"]

EXAMPLE = "Example: [cyan]dpft doctor -m builtin:minilm -f lora[/cyan]"

_PACKAGES = (
    "torch", "transformers", "peft", "datasets", "dp-accounting", "cryptography", "safetensors", "numpy",
    "opacus",
)  # fmt: skip
_OF_THE_MODEL = (
    "finetune_mode", "engine", "clipping", "precision", "max_length", "lora_r", "num_prepend_tokens"
)  # fmt: skip

ModelToCheck = Annotated[
    str | None,
    options.setting(
        "--model-checkpoint",
        "-m",
        help="Hub id, folder, or builtin:minilm.",
        default="none, and no model is looked at",
        panel=options.DATA,
    ),
]
Reindex = Annotated[
    bool,
    typer.Option(
        "--reindex",
        help="First write the registry anew from the run folders, which are the truth.",
        metavar="",
        rich_help_panel=options.OUTPUT,
        show_default=False,
    ),
]


def doctor(
    context: typer.Context,
    model_checkpoint: ModelToCheck = None,
    finetune_mode: options.FinetuneMode = None,
    max_length: options.MaxLength = None,
    lora_r: options.LoraR = None,
    num_prepend_tokens: options.NumPrependTokens = None,
    clipping: options.Clipping = None,
    engine: options.Engine = None,
    precision: options.Precision = None,
    reindex: Reindex = False,
    as_json: options.Json = False,
) -> None:
    """Check this machine, the store and, with -m, a model in a fine-tune mode, on made-up texts.

    Of the model: clipped gradients against each example alone, the norm that an example can contribute, a
    private step that moves every trainable parameter, and the micro-batch that costs least. Exit code 4 if a
    guarantee could not be given, 1 if something else is not in order.
    """
    from dpft.cli import render
    from dpft.cli.request import Given
    from dpft.cli.views import doctor as view

    given = Given.of(context)
    _refuse_options_without_model(given)
    rebuilt = _reindex() if reindex else None
    checks, diagnosis, spec = _look(given, with_model="model_checkpoint" in given.values)
    versions = _versions()
    ok = all(check.ok is not False for check in checks)
    if as_json:
        render.document(
            {
                "ok": ok,
                "checks": [vars(check) for check in checks],
                **({"reindexed": rebuilt} if rebuilt is not None else {}),
                **(_of_model(spec, diagnosis) if spec is not None and diagnosis is not None else {}),
                "versions": versions,
            }
        )
    else:
        view.report(checks, versions, rebuilt, spec, diagnosis)
    if not ok:
        private = any(check.private for check in checks if check.ok is False)
        raise typer.Exit(PrivacyError.exit_code if private else DpftError.exit_code)


def _look(given: Given, *, with_model: bool) -> tuple[list[Check], Diagnosis | None, RunSpec | None]:
    from dpft.cli.progress import TrainingView
    from dpft.cli.request import run_specs
    from dpft.runs import paths
    from dpft.runs.health import check_store

    with TrainingView() as progress:
        spec = None
        if with_model:
            asked = type(given)({**given.values, "datasets": ["demo"]}, given.strength)  # none is read
            (spec,) = run_specs(asked, lambda: progress.working("loading libraries"))
        else:
            progress.working("loading libraries")
        from dpft.training.diagnose import check_environment, diagnose

        checks = [*check_environment(), *check_store(paths.home())]
        diagnosis = diagnose(spec, progress) if spec is not None else None
    if diagnosis is not None:
        checks += diagnosis.checks
    return checks, diagnosis, spec


def _refuse_options_without_model(given: Given) -> None:
    """Options that say how a model is tuned need one; a variable set for ``train`` does no harm."""
    idle = [name for name in _OF_THE_MODEL if given.strength.get(name, 0) == 3]
    if idle and "model_checkpoint" not in given.values:
        raise UsageError(
            f"--{idle[0].replace('_', '-')} needs a model",
            hint="give --model-checkpoint (-m) as for 'dpft train'",
        )


def _reindex() -> int:
    """Write the registry anew; how many runs it has."""
    from dpft.runs.store import Store

    return len(Store().rebuild())


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from dpft import __version__

    found = {"dpft": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _of_model(spec: RunSpec, diagnosis: Diagnosis) -> dict[str, Any]:
    memory = diagnosis.memory
    return {
        "model": {
            "model_checkpoint": spec.model.checkpoint,
            "finetune_mode": spec.tuning.mode,
            "engine": spec.privacy.engine,
            "clipping": spec.privacy.clipping,
            "precision": diagnosis.precision,
            "trainable_parameters": diagnosis.trainable_parameters,
            "all_parameters": diagnosis.all_parameters,
        },
        "rules": [vars(layers) for layers in diagnosis.layers],
        "notes": list(diagnosis.notes),
        "memory": {**vars(memory), "costs": [vars(cost) for cost in memory.costs]} if memory else None,
    }
