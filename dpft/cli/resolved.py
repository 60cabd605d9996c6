"""Each setting of a run, and where its value comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dpft.cli.options import DATASETS_ARGUMENT, STATED
from dpft.cli.request import FIELDS, Given, named_datasets, option_name
from dpft.cli.resume import as_stored
from dpft.spec import RunSpec

__all__ = ["Setting", "Source", "settings_of"]

Source = Literal["flag", "environment", "config", "mode default", "default"]

_SOURCES: dict[int, Source] = {3: "flag", 2: "environment", 1: "config"}
_BY_MODE = ("learning_rate", "max_grad_norm", "num_prepend_tokens")
_OWN_FILES = ("data_file", "validation_file", "text_column", "label_column", "labels")
_RULES = {
    "data_dir": "the hub's nyu-mll/glue; demo needs none",
    "validation_file": "a tenth of the data file, not trained on",
    "target_delta": "1/(2n), for n training examples",
    "batch_size": STATED["batch_size"],
    "checkpoint_every": "a twentieth of the run, at least a minute",
    "budget_cap": "no limit",
    "public_n": "the number of training examples",
}
"""What stands for a value that is not given, where that follows from the data or from time."""


@dataclass(frozen=True)
class Setting:
    """One option's value.

    Attributes:
        option: its long name.
        value: as the run would have it; None where ``rule`` decides later.
        source: where it comes from.
        origin: the variable, for ``environment``.
        rule: what is done where there is no value.
        set_aside: a value that was given for it too, more weakly than something that excludes it.
    """

    option: str
    value: Any
    source: Source
    origin: str | None = None
    rule: str | None = None
    set_aside: Any = None

    def public(self) -> dict[str, Any]:
        """For ``--json``; what is not known is left out, but for the value."""
        optional = {"origin": self.origin, "rule": self.rule, "set_aside": self.set_aside}
        known = {name: value for name, value in optional.items() if value is not None}
        return {"option": self.option, "value": self.value, "source": self.source, **known}


def settings_of(given: Given, specs: Sequence[RunSpec]) -> list[Setting]:
    """All settings that have an effect.

    Args:
        given: options, wherever they came from.
        specs: the runs that they make, at least one; they differ in their dataset only.
    """
    spec = specs[0]
    found = [_datasets(given, specs)]
    found += [_setting(name, given, spec) for name in FIELDS if _applies(name, spec)]
    for name, value in (("name", spec.name), ("tags", list(spec.tags)), ("note", spec.note)):
        if value:
            option = {"tags": "--tag"}.get(name)
            shown = given.values.get("name") if name == "name" else value
            found.append(_given(name, shown, given, option))
    return found


def _datasets(given: Given, specs: Sequence[RunSpec]) -> Setting:
    names = [spec.data.dataset for spec in specs]
    if set(names) <= set(named_datasets(given)):
        told = [name for name in ("datasets", DATASETS_ARGUMENT) if name in given.values]
        return _given("datasets", names, given, "--datasets", max(given.strength[name] for name in told))
    return Setting("--datasets", names, "default", rule="called after the data file")


def _applies(name: str, spec: RunSpec) -> bool:
    """Whether an option has any effect on such a run."""
    part, _ = FIELDS[name]
    if name in _OWN_FILES:
        return spec.data.data_file is not None
    if name == "data_dir":
        return spec.data.data_file is None
    if name.startswith("lora_"):
        return "lora" in spec.tuning.mode.split("+")
    if name == "num_prepend_tokens":
        return spec.tuning.num_prepend_tokens is not None
    if part == "privacy" and name != "enable_dp":
        return spec.privacy.enabled
    return True


def _setting(name: str, given: Given, spec: RunSpec) -> Setting:
    part, field = FIELDS[name]
    value = getattr(getattr(spec, part), field)
    shown = list(value) if isinstance(value, tuple) else value
    rule = _rule(name, spec) if value is None else None
    if name in given.values:
        if as_stored(name, given.values[name]) == value:
            return _given(name, shown, given)
        return Setting(option_name(name), shown, "default", rule=rule, set_aside=_plain(given.values[name]))
    by_mode = name in _BY_MODE and value is not None
    return Setting(option_name(name), shown, "mode default" if by_mode else "default", rule=rule)


def _rule(name: str, spec: RunSpec) -> str | None:
    if (name, spec.privacy.target_epsilon) == ("noise_multiplier", None):
        return None
    if name == "noise_multiplier":
        return "the least that keeps to the target ε"
    if name == "target_epsilon":
        return "computed from the noise"
    return _RULES.get(name)


def _given(
    name: str, value: Any, given: Given, option: str | None = None, strength: int | None = None
) -> Setting:
    option = option or option_name(name)
    source = _SOURCES[strength if strength is not None else given.strength[name]]
    variable = f"DPFT_{option.removeprefix('--').replace('-', '_').upper()}"
    return Setting(option, value, source, origin=variable if source == "environment" else None)


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | list) else str(value)
