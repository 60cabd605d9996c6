"""From what was given on the command line, in variables and in a file, to the specs of runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer
from pydantic import ValidationError

from dpft.cli.files import file_fields, name_of_file, settle_files
from dpft.cli.options import DATASETS_ARGUMENT, STATED
from dpft.cli.variables import misspelt
from dpft.errors import NotFoundError, UsageError
from dpft.runs.names import check_name, check_note, check_tag
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.tables import MODES, TASKS
from dpft.tuning.mode import ModeDefaults

__all__ = [
    "FIELDS",
    "VARIABLES",
    "Given",
    "by_option_name",
    "chosen_datasets",
    "data_spec",
    "data_specs",
    "in_words",
    "model_spec",
    "named_datasets",
    "option_name",
    "run_specs",
    "settle_privacy",
]

FIELDS = {
    "data_dir": ("data", "data_dir"),
    "data_file": ("data", "data_file"),
    "validation_file": ("data", "validation_file"),
    "text_column": ("data", "text_columns"),
    "label_column": ("data", "label_column"),
    "labels": ("data", "labels"),
    "max_length": ("data", "max_length"),
    "model_checkpoint": ("model", "checkpoint"),
    "base_data_overlap": ("model", "data_overlap"),
    "finetune_mode": ("tuning", "mode"),
    "lora_r": ("tuning", "lora_r"),
    "lora_alpha": ("tuning", "lora_alpha"),
    "lora_dropout": ("tuning", "lora_dropout"),
    "num_prepend_tokens": ("tuning", "num_prepend_tokens"),
    "enable_dp": ("privacy", "enabled"),
    "target_epsilon": ("privacy", "target_epsilon"),
    "target_delta": ("privacy", "target_delta"),
    "public_n": ("privacy", "public_n"),
    "noise_multiplier": ("privacy", "noise_multiplier"),
    "max_grad_norm": ("privacy", "max_grad_norm"),
    "clipping": ("privacy", "clipping"),
    "engine": ("privacy", "engine"),
    "budget_cap": ("privacy", "budget_cap"),
    "learning_rate": ("optimisation", "learning_rate"),
    "epochs": ("optimisation", "epochs"),
    "batch_size": ("optimisation", "batch_size"),
    "seed": ("optimisation", "seed"),
    "micro_batch_tokens": ("hardware", "micro_batch_tokens"),
    "precision": ("hardware", "precision"),
    "checkpoint_every": ("hardware", "checkpoint_every"),
}
"""Which part of a spec each option sets, and which field of it."""

VARIABLES = (*FIELDS, "datasets", "name", "note", "tag")
"""What a variable ``DPFT_…`` may set."""

_PARTS: Mapping[str, Any] = {
    "tuning": TuningSpec,
    "privacy": PrivacySpec,
    "optimisation": OptimisationSpec,
    "hardware": HardwareSpec,
}
_LORA = ("lora_r", "lora_alpha", "lora_dropout")
_BOTH_WAYS = ("enable_dp", "budget_cap")  # a cap is not dropped silently: without privacy none can hold
_PRIVATE_ONLY = tuple(
    name for name, (part, _) in FIELDS.items() if part == "privacy" and name not in _BOTH_WAYS
)
_SOURCES = {"COMMANDLINE": 3, "ENVIRONMENT": 2, "DEFAULT_MAP": 1}
_COMMAND_LINE = _SOURCES["COMMANDLINE"]
_ANY_MODE = ModeDefaults(
    learning_rate=1.0, learning_rate_without_privacy=1.0, max_grad_norm=1.0, num_prepend_tokens=1
)


@dataclass(frozen=True)
class Given:
    """Options that have a value, and how strongly each was given.

    Attributes:
        values: by parameter name; what was not given is absent.
        strength: 3 for the command line, 2 for a variable, 1 for a config file.
    """

    values: Mapping[str, Any]
    strength: Mapping[str, int]

    @classmethod
    def of(cls, context: typer.Context) -> Given:
        """What a command was called with; a variable that is nearly one of ours is warned of."""
        from dpft.cli import render

        for warning in misspelt(os.environ, VARIABLES):
            render.warning(warning)
        strength = {}
        for name in context.params:
            source = context.get_parameter_source(name)
            strength[name] = _SOURCES.get(source.name, 0) if source is not None else 0
        values = {
            name: value
            for name, value in context.params.items()
            if strength[name] and value is not None and value not in ((), [])
        }
        return cls(values, strength)

    def without(self, *names: str) -> Given:
        """The same, less some options."""
        return Given({name: value for name, value in self.values.items() if name not in names}, self.strength)


def option_name(parameter: str) -> str:
    """``--batch-size`` of ``batch_size``.

    >>> option_name("batch_size")
    '--batch-size'
    """
    return "--" + parameter.replace("_", "-")


def in_words(option: str, error: ValidationError) -> str:
    """The first of a validation's problems in one line: the option, the value, the rule."""
    problem = error.errors()[0]
    rule = problem["msg"].partition(", unable")[0].replace("Input should be", "it must be")
    return f"{option} is {problem['input']!r}: {rule}"


def chosen_datasets(given: Given) -> tuple[str, ...]:
    """The datasets, in the order given, each once.

    Positions and ``--datasets`` mean the same and may be mixed, so that ``--datasets qnli qqp`` reads as it
    should; together they outweigh a variable or a file.

    A file of the user's own is one dataset, called as it is named here or after the file.

    Raises:
        UsageError: none, an unknown one, or several names for one file.
    """
    names = named_datasets(given)
    if "data_file" in given.values:
        if len(names) > 1:
            raise UsageError(
                f"--data-file is one dataset, and {len(names)} are named: {', '.join(names)}",
                hint="give one name with -d, or none",
            )
        return names or (name_of_file(Path(given.values["data_file"])),)
    if not names:
        raise UsageError(
            "no dataset given",
            hint=f"give -d with one or more of: {', '.join(TASKS.names())}; or --data-file with a file",
        )
    return tuple(TASKS.check(name) for name in names)


def named_datasets(given: Given) -> tuple[str, ...]:
    """What positions and ``--datasets`` name, checked for nothing."""
    positions = given.values.get(DATASETS_ARGUMENT, [])
    options = given.values.get("datasets", [])
    if positions and given.strength.get("datasets", 0) < _COMMAND_LINE:
        options = []
    return tuple(
        dict.fromkeys(
            name.strip() for text in (*options, *positions) for name in text.split(",") if name.strip()
        )
    )


def data_specs(given: Given) -> list[DataSpec]:
    """Which examples, by options of ``prepare`` or ``train``.

    Raises:
        NotFoundError: there is no such folder or file.
        UsageError: an unknown dataset, a length out of range, or options that contradict each other.
    """
    given = settle_files(given, named_datasets(given))
    datasets = chosen_datasets(given)
    files = file_fields(given.values)
    values = given.values
    return [data_spec(name, values.get("data_dir"), values.get("max_length"), files) for name in datasets]


def data_spec(
    dataset: str,
    data_dir: Path | str | None,
    max_length: int | None,
    files: Mapping[str, Any] = MappingProxyType({}),
) -> DataSpec:
    """Which examples; a folder is made absolute, so that the run finds it again from elsewhere.

    Args:
        dataset: its name.
        data_dir: a GLUE folder.
        max_length: tokens per example.
        files: fields that speak of files of the user's own.

    Raises:
        NotFoundError: there is no such folder.
        UsageError: an unknown dataset, or a length out of range.
    """
    fields: dict[str, Any] = dict(files) if max_length is None else {**files, "max_length": max_length}
    if data_dir is not None:
        folder = Path(data_dir).expanduser().absolute()
        if not folder.is_dir():
            raise NotFoundError(
                f"no folder {str(data_dir)!r}",
                hint="--data-dir takes a folder in the GLUE layout, with SST-2/train.tsv …",
            )
        fields["data_dir"] = str(folder)
    with by_option_name():
        return DataSpec(dataset=dataset, **fields)


def model_spec(checkpoint: str | None, data_overlap: str | None = None) -> ModelSpec:
    """``--model-checkpoint``; a folder is made absolute.

    Raises:
        UsageError: an unknown ``data_overlap``.
    """
    fields: dict[str, Any] = {} if data_overlap is None else {"data_overlap": data_overlap}
    if checkpoint is not None:
        folder = Path(checkpoint).expanduser()
        fields["checkpoint"] = str(folder.absolute()) if folder.is_dir() else checkpoint
    with by_option_name():
        return ModelSpec(**fields)


def run_specs(given: Given, before_imports: Callable[[], object] = lambda: None) -> list[RunSpec]:
    """One spec per dataset.

    Whatever can be refused without importing a machine learning library is refused first.

    Args:
        given: options of ``train``.
        before_imports: called when it is those libraries' turn, which takes seconds.

    Raises:
        UsageError: a value out of range, or options that contradict each other.
        NotFoundError: a folder that does not exist.
    """
    data = data_specs(given)
    given = settle_privacy(given)
    mode = MODES.check(given.values.get("finetune_mode", STATED["finetune_mode"]))
    if "lora" not in mode.split("+"):
        suited = ", ".join(name for name in MODES if "lora" in name.split("+"))
        given = _without_unused(given, _LORA, mode, f"one of: {suited}")
    _build(given, data, mode, _ANY_MODE)
    before_imports()
    defaults: ModeDefaults = MODES.get(mode).defaults
    if defaults.num_prepend_tokens is None:
        given = _without_unused(given, ("num_prepend_tokens",), mode, "a soft-prompt or prefix mode")
    return _build(given, data, mode, defaults)


def _without_unused(given: Given, names: Iterable[str], mode: str, suited: str) -> Given:
    """Refuse options that the mode has no use for; drop those given less strongly than the mode was."""
    for name in names:
        if name in given.values and given.strength[name] >= given.strength.get("finetune_mode", 0):
            raise UsageError(
                f"{option_name(name)} has no effect with --finetune-mode {mode}",
                hint=f"leave it out, or choose {suited}",
            )
    return given.without(*names)


def settle_privacy(given: Given) -> Given:
    """Resolve options that exclude each other: what was given more strongly wins, equals are an error."""
    if given.values.get("enable_dp") is False:
        off = given.strength["enable_dp"]
        for name in _PRIVATE_ONLY:
            if name in given.values and given.strength[name] >= off:
                by = " (set by DPFT_ENABLE_DP)" if off == _SOURCES["ENVIRONMENT"] else ""
                raise UsageError(
                    f"{option_name(name)} has no effect with --no-dp{by}", hint="leave out one of the two"
                )
        return given.without(*_PRIVATE_ONLY)
    pair = [name for name in ("target_epsilon", "noise_multiplier") if name in given.values]
    if len(pair) == 2:
        first, second = sorted(pair, key=lambda name: given.strength[name])
        if given.strength[first] == given.strength[second]:
            raise UsageError(
                "--target-epsilon and --noise-multiplier exclude each other",
                hint="give a target to have the noise chosen, or the noise to have ε computed",
            )
        return given.without(first)
    return given


def _build(given: Given, data: Sequence[DataSpec], mode: str, defaults: ModeDefaults) -> list[RunSpec]:
    values = given.values
    fields: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    for option, (part, field) in FIELDS.items():
        if option in values and part in fields:
            fields[part][field] = values[option]
    fields["tuning"]["mode"] = mode
    fields["tuning"].setdefault("num_prepend_tokens", defaults.num_prepend_tokens)
    private = fields["privacy"].get("enabled", True)
    fields["privacy"].setdefault("max_grad_norm", defaults.max_grad_norm)
    if "noise_multiplier" in fields["privacy"]:
        fields["privacy"]["target_epsilon"] = None
    fields["optimisation"].setdefault(
        "learning_rate", defaults.learning_rate if private else defaults.learning_rate_without_privacy
    )
    with by_option_name():
        parts = {part: _PARTS[part](**fields[part]) for part in _PARTS}
    return [
        RunSpec(
            name=_run_name(values.get("name"), dataset.dataset, alone=len(data) == 1),
            tags=tuple(check_tag(tag) for tag in values.get("tags", ())),
            note=check_note(values.get("note", "")),
            data=dataset,
            model=model_spec(values.get("model_checkpoint"), values.get("base_data_overlap")),
            **parts,
        )
        for dataset in data
    ]


def _run_name(name: str | None, dataset: str, *, alone: bool) -> str | None:
    return name if name is None else check_name(name if alone else f"{name}-{dataset}")


@contextlib.contextmanager
def by_option_name() -> Iterator[None]:
    """Turn a spec's refusal into one line that names the option.

    Raises:
        UsageError: the first of the refusals.
    """
    try:
        yield
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][-1])
        option = next((option for option, (_, name) in FIELDS.items() if name == field), field)
        message = in_words(option_name(option), error)
        raise UsageError(message, hint="see 'dpft train --help'") from None  # its text has several lines
