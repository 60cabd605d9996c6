"""The JSON Schema of a config file, and a file to begin with; both from the options and the specs."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from dpft.cli.config import settable
from dpft.cli.options import STATED
from dpft.cli.request import FIELDS
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, TuningSpec
from dpft.tables import CLIPPERS, ENGINES, MODES

__all__ = ["config_schema", "example_config"]

_PARTS: dict[str, Any] = {
    "data": DataSpec,
    "model": ModelSpec,
    "tuning": TuningSpec,
    "privacy": PrivacySpec,
    "optimisation": OptimisationSpec,
    "hardware": HardwareSpec,
}
_CHOICES = {"finetune_mode": MODES, "clipping": CLIPPERS, "engine": ENGINES}
_TEXTS: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_SEVERAL = ("datasets", "tags", "text_column", "labels")
_NUMBER = r"^\s*[-+]?[0-9]"
_EXAMPLE = {
    "target_delta": "1e-6",
    "learning_rate": "1e-3",
    "public_n": "10000",
    "datasets": '["sst2"]',
    "tags": '["first"]',
    "enable_dp": "true",
    "labels": '["no", "yes"]',
}
_WIDTH = 100


def config_schema(command: Any) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a config file.

    Args:
        command: ``train`` or ``config``, as Typer made it.

    Returns:
        One property for each option, hyphenated; the underscored spellings are properties too.
    """
    properties = {}
    for parameter in _settable(command):
        schema = {"description": _help(parameter), **_values(str(parameter.name))}
        for spelling in _spellings(parameter):
            properties[spelling] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:dpft:config",
        "title": "dpft config file (TOML or YAML)",
        "type": "object",
        "properties": dict(sorted(properties.items())),
        "additionalProperties": False,
    }


def example_config(command: Any) -> str:
    """A TOML file in which every setting is explained and commented out.

    Args:
        command: ``train`` or ``config``, as Typer made it.
    """
    lines = [
        "# What 'dpft train --config FILE' starts from; flags and DPFT_<OPTION> variables override it.",
        "",
    ]
    panel = ""
    for parameter in _settable(command):
        if parameter.rich_help_panel != panel:
            panel = parameter.rich_help_panel
            lines += [f"## {panel}", ""]
        lines += textwrap.wrap(_help(parameter), _WIDTH, initial_indent="# ", subsequent_indent="# ")
        lines += [f"# {_spellings(parameter)[0]} = {_example(str(parameter.name))}", ""]
    return "\n".join(lines)


def _settable(command: Any) -> list[Any]:
    return [parameter for parameter in settable(command) if parameter.param_type_name == "option"]


def _spellings(parameter: Any) -> list[str]:
    """The long name, the parameter's own, and both with underscores."""
    long = next(option[2:] for option in parameter.opts if option.startswith("--"))
    names = [long, str(parameter.name).replace("_", "-")]
    return list(dict.fromkeys([*names, *(name.replace("-", "_") for name in names)]))


def _help(parameter: Any) -> str:
    """Without markup."""
    return re.sub(r"\[/?(dim|cyan)\]", "", str(parameter.help)).replace("\\[", "[")


def _values(name: str) -> dict[str, Any]:
    if name in _SEVERAL:
        return _TEXTS
    if name in _CHOICES:
        return {"type": "string", "enum": list(_CHOICES[name].names())}
    if name not in FIELDS:
        return {"type": "string"}
    part, field = FIELDS[name]
    found = dict(_PARTS[part].model_json_schema()["properties"][field])
    if "anyOf" in found:
        found = next(dict(option) for option in found["anyOf"] if option.get("type") != "null")
    for key in ("title", "default"):
        found.pop(key, None)
    return found


def _example(name: str) -> str:
    if name in _EXAMPLE:
        return _EXAMPLE[name]
    kind = _values(name)
    value = STATED.get(name, "")
    if kind.get("type") in ("integer", "number"):
        return value if re.fullmatch(_NUMBER + r"[0-9.e-]*", value) else str(kind.get("minimum", 1))
    return f'"{value}"'
