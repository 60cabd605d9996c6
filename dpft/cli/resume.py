"""``dpft train --resume RUN``: which run, and that nothing else was asked for."""

from __future__ import annotations

from typing import Any

from dpft.cli.files import absolute, as_labels
from dpft.cli.options import DATASETS_ARGUMENT
from dpft.cli.request import FIELDS, Given, chosen_datasets, model_spec, option_name
from dpft.errors import UsageError
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import RunSpec

__all__ = ["as_stored", "what_to_resume"]

_OF_THIS_CALL = ("resume", "config", "as_json", "quiet")
_DATASETS = ("datasets", DATASETS_ARGUMENT)
_MAY_CHANGE = ("micro_batch_tokens", "checkpoint_every", "budget_cap")


def what_to_resume(reference: str, given: Given) -> tuple[RunRecord, dict[str, Any]]:
    """The run to go on with, and what is to change: of its hardware settings, or its budget cap.

    Args:
        reference: a run.
        given: options of ``train``, wherever they came from.

    Raises:
        NotFoundError: there is no such run.
        UsageError: it is completed; or an option asks for something else than the run was begun with.
        LockedError: it is running.
    """
    store = Store()
    record = store.resolve(reference)
    with store.take(record) as taken:  # refused now, if it is, and not after seconds of loading libraries
        record = taken.record
    given = given.without(*_OF_THIS_CALL)
    _check(given, store.spec(record))
    return record, {name: given.values[name] for name in _MAY_CHANGE if name in given.values}


def _check(given: Given, spec: RunSpec) -> None:
    if any(name in given.values for name in _DATASETS) and chosen_datasets(given) != (spec.data.dataset,):
        raise UsageError(
            f"the run is on {spec.data.dataset}, not on {', '.join(chosen_datasets(given))}",
            hint="a resumed run keeps its data: leave the dataset out, or train anew",
        )
    for name, value in given.without(*_DATASETS, *_MAY_CHANGE).values.items():
        if name not in FIELDS:
            raise UsageError(
                f"{option_name(name)}{_source(name, given)} has no effect with --resume", hint="leave it out"
            )
        part, field = FIELDS[name]
        stored = getattr(getattr(spec, part), field)
        if (name, value) == ("precision", "auto"):
            continue  # whatever it was settled to when the run began
        if as_stored(name, value) != stored:
            raise UsageError(
                f"{_said(name, value)}{_source(name, given)}, but the run was begun {_begun(name, stored)}",
                hint="a resumed run keeps all that decides its result: leave the option out, or train anew",
            )


def as_stored(name: str, value: Any) -> Any:
    """An option's value as a spec has it: paths absolute, lists as tuples."""
    if name in ("data_dir", "data_file", "validation_file"):
        return absolute(value)
    if name == "labels":
        return as_labels(value)
    if name == "text_column":
        return tuple(value)
    return model_spec(value).checkpoint if name == "model_checkpoint" else value


def _said(name: str, value: Any) -> str:
    if name == "enable_dp":
        return "--enable-dp is given" if value else "--no-dp is given"
    return f"{option_name(name)} is {value}"


def _begun(name: str, stored: Any) -> str:
    if name == "enable_dp":
        return "with privacy" if stored else "without it"
    return "without" if stored is None else f"with {stored}"


def _source(name: str, given: Given) -> str:
    return {2: f" (from DPFT_{name.upper()})", 1: " (from --config)"}.get(given.strength.get(name, 0), "")
