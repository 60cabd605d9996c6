"""``dpft config``: what a run would be asked to do, and where each value comes from."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from dpft.cli import options
from dpft.cli.train import train
from dpft.errors import UsageError

__all__ = ["EXAMPLE", "config"]

EXAMPLE = "Example: [cyan]dpft config --config run.toml[/cyan], or [cyan]dpft config --init > run.toml[/cyan]"

_NOT_OF_TRAINING = ("resume", "plan", "quiet", "as_json")
_SCHEMA = Annotated[
    bool,
    typer.Option(
        "--schema",
        help="Print the JSON Schema of a config file instead.",
        metavar="",
        rich_help_panel=options.OUTPUT,
        show_default=False,
    ),
]
_INIT = Annotated[
    bool,
    typer.Option(
        "--init",
        help="Print a config file to begin with (TOML), every setting explained, instead.",
        metavar="",
        rich_help_panel=options.OUTPUT,
        show_default=False,
    ),
]


def config(context: typer.Context, **given: Any) -> None:
    """Show what [cyan]train[/cyan] would do with these options, and where each value comes from.

    Flags outweigh DPFT_<OPTION> variables, which outweigh a --config file, which outweighs the defaults.
    Nothing is read but options; no data, no model.
    """
    from dpft.cli import render
    from dpft.cli.config_schema import config_schema, example_config
    from dpft.cli.views import config as view

    if given["schema"] and given["init"]:
        raise UsageError("--schema and --init exclude each other", hint="give one of them")
    if given["schema"]:
        render.document(config_schema(context.command))
        return
    if given["init"]:
        view.text(example_config(context.command))
        return
    from dpft.cli.progress import TrainingView
    from dpft.cli.request import Given, run_specs
    from dpft.cli.resolved import settings_of

    asked = Given.of(context)
    with TrainingView() as progress:
        specs = run_specs(asked, lambda: progress.working("loading libraries"))
    found = settings_of(asked, specs)
    if given["as_json"]:
        document = {"settings": [setting.public() for setting in found]}
        render.document(document | {"specs": [spec.model_dump(mode="json") for spec in specs]})
    else:
        view.settings(found)


def _with_options_of_training() -> inspect.Signature:
    """The options of ``train`` that say what to do, and those of this command."""
    own = {"schema": (_SCHEMA, False), "init": (_INIT, False), "as_json": (options.Json, False)}
    shared = inspect.signature(train, eval_str=True).parameters
    parameters = [parameter for name, parameter in shared.items() if name not in _NOT_OF_TRAINING]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind, default=default)
        for name, (kind, default) in own.items()
    ]
    return inspect.Signature(parameters)


# Typer reads a command's options off its signature: so they are stated once, by ``train``.
config.__signature__ = _with_options_of_training()  # type: ignore[attr-defined]
config.__annotations__ = {
    name: parameter.annotation
    for name, parameter in config.__signature__.parameters.items()  # type: ignore[attr-defined]
}
