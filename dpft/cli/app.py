"""The front door: commands, and the one place where errors are caught."""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from dpft import __version__
from dpft.cli import (
    audit,
    budget,
    compare,
    doctor,
    env,
    export,
    gc,
    note,
    plan,
    prepare,
    report,
    restore,
    rm,
    show,
    show_config,
    tag,
    team,
    train,
    verify,
)
from dpft.cli import eval as evaluation
from dpft.cli import list as listing
from dpft.cli.streams import spell_out
from dpft.errors import DpftError, InterruptedRunError, UsageError

__all__ = ["app", "main"]

# Typer ≥ 0.26 carries its own Click, older ones import it: either way this is the base of bad usage.
_BadUsage: Any = typer.BadParameter.__base__


class _Commands(TyperGroup):
    """Turns Ctrl-C outside a run's own handling into an error like any other, before Typer swallows it.

    Help texts flow to the terminal's width: Typer would keep the line breaks of the source.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.help:
            paragraphs = command.help.split("\n\n")
            command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        return command

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise InterruptedRunError("interrupted") from None


app = typer.Typer(
    name="dpft",
    cls=_Commands,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
_WORK, _LOOK, _TRUST, _KEEP = "Fine-tune", "Look and compare", "Trust", "Keep house"
app.command("prepare", epilog=prepare.EXAMPLE, rich_help_panel=_WORK)(prepare.prepare)
app.command("train", epilog=train.EXAMPLE, rich_help_panel=_WORK)(train.train)
app.command("plan", epilog=plan.EXAMPLE, rich_help_panel=_WORK)(plan.plan)
app.command("eval", epilog=evaluation.EXAMPLE, rich_help_panel=_WORK)(evaluation.evaluate)
app.command("export", epilog=export.EXAMPLE, rich_help_panel=_WORK)(export.export)
app.command("config", epilog=show_config.EXAMPLE, rich_help_panel=_WORK)(show_config.config)
app.command("list", epilog=listing.EXAMPLE, rich_help_panel=_LOOK)(listing.list_runs)
app.command("show", epilog=show.EXAMPLE, rich_help_panel=_LOOK)(show.show)
app.command("compare", epilog=compare.EXAMPLE, rich_help_panel=_LOOK)(compare.compare)
app.command("report", epilog=report.EXAMPLE, rich_help_panel=_LOOK)(report.report)
app.command("budget", epilog=budget.EXAMPLE, rich_help_panel=_LOOK)(budget.budget)
app.command("verify", epilog=verify.EXAMPLE, rich_help_panel=_TRUST)(verify.verify)
app.command("audit", epilog=audit.EXAMPLE, rich_help_panel=_TRUST)(audit.audit)
app.command("doctor", epilog=doctor.EXAMPLE, rich_help_panel=_TRUST)(doctor.doctor)
app.command("rm", epilog=rm.EXAMPLE, rich_help_panel=_KEEP)(rm.remove)
app.command("restore", epilog=restore.EXAMPLE, rich_help_panel=_KEEP)(restore.restore)
app.command("gc", epilog=gc.EXAMPLE, rich_help_panel=_KEEP)(gc.collect_garbage)
app.command("tag", epilog=tag.EXAMPLE, rich_help_panel=_KEEP, cls=tag.TagCommand)(tag.tag)
app.command("note", epilog=note.EXAMPLE, rich_help_panel=_KEEP)(note.note)
app.command("env", epilog=env.EXAMPLE, rich_help_panel=_KEEP)(env.env)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dpft {__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog="Begin with: [cyan]dpft train -d demo -m builtin:minilm[/cyan]",
)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", metavar="", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Fine-tune transformers on private text, and prove what it cost in privacy."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for the process's own.

    Returns:
        The exit code: 0 done, 1 failed, 2 usage, 3 not found or ambiguous, 4 privacy refused, 5 locked,
        130 interrupted.
    """
    if arguments is None and not sys.warnoptions and not _debugging():
        warnings.simplefilter(
            "ignore"
        )  # what libraries tell their callers is nothing to the user of a command
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    team.hush()
    for stream in (sys.stdout, sys.stderr):
        spell_out(stream)  # an "ε" must not end a run
    try:
        code = _guarded(given)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _debugging() -> bool:
    return os.environ.get("DPFT_DEBUG", "") not in ("", "0")


def _guarded(arguments: list[str]) -> int:
    """Call the command, and report whatever goes wrong as one error."""
    as_json = "--json" in arguments
    try:
        code = get_command(app).main(args=arguments, prog_name="dpft", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except DpftError as error:
        return _report(error, type(error).__name__, as_json)
    except _BadUsage as error:
        return _report(_usage_error(error), UsageError.__name__, as_json)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _report(_internal(error), "InternalError", as_json)


def _usage_error(error: Any) -> UsageError:
    """Typer's complaint as one of ours: the option, the value, the rule, and where a bad value came from."""
    from pydantic import ValidationError

    from dpft.cli.request import in_words

    context, parameter = error.ctx, getattr(error, "param", None)
    message, nearest = _suggestion(error)
    hint = f"{nearest}see '{context.command_path if context is not None else 'dpft'} --help'"
    if context is not None and parameter is not None:
        if isinstance(error.__cause__, ValidationError):
            message = in_words(parameter.opts[0], error.__cause__)
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name == "DEFAULT_MAP":
            hint = f"it is set in {context.params.get('config')}; {hint}"
        elif source is not None and source.name == "ENVIRONMENT":
            hint = f"it is set by the variable {parameter.envvar}; {hint}"
    return UsageError(message[:1].lower() + message[1:], hint=hint)


def _suggestion(error: Any) -> tuple[str, str]:
    """The complaint, and apart from it what Typer thinks was meant, which belongs to the remedy."""
    message = error.format_message().strip().removesuffix(".")
    possible = getattr(error, "possibilities", None)
    if possible:
        (nearest,) = difflib.get_close_matches(error.option_name, possible, n=1, cutoff=0.0)
        return error.message.strip().removesuffix("."), f"did you mean {nearest}? "
    message, meant, rest = message.partition(". Did you mean ")
    return message, f"did you mean {rest} " if meant else ""


def _internal(error: Exception) -> DpftError:
    """Only the type: a foreign error's text may quote private rows."""
    found = DpftError(
        f"internal error: {type(error).__name__}", hint="DPFT_DEBUG=1 shows where; please report it"
    )
    found.__cause__ = error
    return found


def _report(error: DpftError, kind: str, as_json: bool) -> int:
    from dpft.cli import render

    if _debugging():
        render.traceback(error)
    render.error(kind, error.message, error.hint, error.exit_code, as_json=as_json)
    return error.exit_code
