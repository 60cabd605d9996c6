"""``--config FILE``: option values from TOML or YAML, below flags and variables, above defaults."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import typer

from dpft.errors import NotFoundError, UsageError

__all__ = ["load_config", "read_config", "settable"]

_NOT_SETTINGS = {
    "schema",
    "init",
    "config",
    "plan",
    "no_probe",
    "resume",
    "json",
    "as_json",
    "quiet",
    "help",
    "dataset_arguments",
}


def load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Option callback: make the file's values the command's defaults.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it cannot be parsed, or a key is no option of the command.
    """
    if path is None or context.resilient_parsing:
        return path
    settings: dict[str, str] = {}
    for parameter in settable(context.command):
        long = (option[2:] for option in parameter.opts if option.startswith("--"))
        settings |= {key.replace("-", "_"): parameter.name for key in (parameter.name, *long)}
    context.default_map = read_config(path, settings)
    return path


def settable(command: Any) -> list[Any]:
    """The parameters of a command that a config file may set."""
    return [found for found in command.params if found.name is not None and found.name not in _NOT_SETTINGS]


def read_config(path: Path, settings: dict[str, str]) -> dict[str, Any]:
    """Read a config file.

    Args:
        path: ``.toml``, ``.yaml`` or ``.yml``.
        settings: each key that is allowed, with underscores, and the parameter it sets.

    Returns:
        Values by parameter.

    Raises:
        NotFoundError: there is no such file.
        UsageError: another ending, a syntax error, an unknown key (the hint has the nearest), a key given
            twice, or a value that is a table.
    """
    values: dict[str, Any] = {}
    for key, value in _parse(path).items():
        parameter = settings.get(str(key).replace("-", "_"))
        if parameter is None:
            spelled = sorted({name.replace("_", "-") for name in settings})
            nearest = difflib.get_close_matches(str(key).replace("_", "-"), spelled, n=1)
            question = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise UsageError(
                f"{path}: unknown key {str(key)!r}", hint=f"{question}keys are: {', '.join(spelled)}"
            )
        if parameter in values:
            raise UsageError(f"{path}: {str(key)!r} is given twice", hint="keep one spelling of it")
        if isinstance(value, dict):
            inner = next(iter(value), "")
            raise UsageError(
                f"{path}: {str(key)!r} is a table",
                hint=f"there are no sections: write {str(inner)!r} and each other option at the top level",
            )
        values[parameter] = _as_given(parameter, value)
    return {parameter: value for parameter, value in values.items() if value is not None}


def _as_given(parameter: str, value: Any) -> Any:
    """The value as the command line would have it: lists where options repeat, text elsewhere."""
    if parameter == "labels" and isinstance(value, list):
        if any(isinstance(item, bool) for item in value):
            raise UsageError(
                "labels holds a value that YAML or TOML reads as true or false",
                hint='put quotation marks around it: labels: ["no", "yes"]',
            )
        from dpft.cli.files import text_of_labels

        return text_of_labels([str(item) for item in value])
    if parameter in ("datasets", "tags", "text_column"):
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if value is None or isinstance(value, list | bool):
        return value
    return str(value)


def _parse(path: Path) -> dict[Any, Any]:
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"no config file {path}", hint="give --config a TOML or YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(
            f"{path} cannot be read: {reason}", hint="give --config a TOML or YAML file"
        ) from error
    if path.suffix == ".toml":
        import tomllib

        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path} is not valid TOML: {error}", hint="see https://toml.io") from error
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path} is neither TOML nor YAML", hint="name the file .toml, .yaml or .yml")
    import yaml

    try:
        _refuse_repeated(path, yaml.compose(text, Loader=yaml.SafeLoader))
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{path} is not valid YAML: {reason}", hint="write one 'option: value' a line"
        ) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UsageError(f"{path} is not a mapping", hint="write one 'option: value' a line")
    return document


def _refuse_repeated(path: Path, node: Any) -> None:
    """YAML's own reader takes the last of two equal keys, and says nothing.

    Raises:
        UsageError: a key is given twice.
    """
    seen: set[str] = set()
    for key, _ in node.value if node is not None and node.id == "mapping" else ():
        if key.value in seen:
            raise UsageError(
                f"{path}, line {key.start_mark.line + 1}: {key.value!r} is given twice",
                hint="keep one of them",
            )
        seen.add(str(key.value))
