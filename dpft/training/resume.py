"""What a resumed run takes over, and what is refused instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dpft.errors import PrivacyError, UsageError
from dpft.privacy.plan import OrdinaryPlan, PrivatePlan
from dpft.runs.manifest_parts import Event
from dpft.runs.record import RunRecord
from dpft.spec import HardwareSpec, PrivacySpec, RunSpec
from dpft.training.assemble import Assembled
from dpft.training.checkpoint import Checkpoint, Origin
from dpft.training.declare import software_versions
from dpft.training.keeper import materials
from dpft.training.learner import Learner
from dpft.training.loop import begin
from dpft.training.observer import Observer

__all__ = ["Carried", "Continued", "carry", "changed", "check_materials"]

_MAY_CHANGE = frozenset({"micro_batch_tokens", "num_threads", "checkpoint_every", "budget_cap"})
_ROUNDING = ("torch", "transformers", "peft")


@dataclass(frozen=True)
class Continued:
    """What a plan is continued with.

    Attributes:
        step: steps taken.
        privacy: the run's, with the very noise that it was begun with.
    """

    step: int
    privacy: PrivacySpec


@dataclass(frozen=True)
class Carried:
    """What training begins with.

    Attributes:
        learner: optimizer and schedule.
        initial: weights before the first step of all, by name.
        seconds: that the run took before.
    """

    learner: Learner
    initial: Mapping[str, Tensor]
    seconds: float = 0.0


def changed(spec: RunSpec, changes: Mapping[str, Any]) -> RunSpec:
    """The stored spec on other hardware, or under another budget cap (which can only stop it).

    Raises:
        UsageError: a change to anything that decides the result.
    """
    odd = sorted(changes.keys() - _MAY_CHANGE)
    if odd:
        raise UsageError(
            f"{', '.join(odd)} cannot change when a run is resumed",
            hint=f"only these can: {', '.join(sorted(_MAY_CHANGE))}",
        )
    caps = {name: value for name, value in changes.items() if name == "budget_cap"}
    speed = {name: value for name, value in changes.items() if name not in caps}
    hardware = HardwareSpec.model_validate({**spec.hardware.model_dump(), **speed})
    privacy = PrivacySpec.model_validate({**spec.privacy.model_dump(), **caps})
    return spec.model_copy(update={"hardware": hardware, "privacy": privacy})


def check_materials(
    checkpoint: Checkpoint | None, record: RunRecord, spec: RunSpec, assembled: Assembled, home: Path
) -> Continued | None:
    """Is this what the checkpoint was made with? ``home`` is the store that has the key.

    Returns:
        What to continue the plan with; None without a checkpoint.

    Raises:
        PrivacyError: it belongs to another run; or spec, data or base model have changed since.
    """
    if checkpoint is None:
        return None
    origin = checkpoint.state.origin
    found = materials(spec, assembled, home)
    if origin.run_id != record.run_id:
        raise _refusal(f"the checkpoint is of run {origin.run_id}", "put each run's checkpoints back into it")
    if origin.spec != found["spec"]:
        raise _refusal(
            "config.yaml has changed since the checkpoint was written", "restore it, or train anew with it"
        )
    if origin.dataset != found["dataset"]:
        raise _refusal(
            f"the training rows of {spec.data.dataset} are not those that the run was begun with",
            "put the same rows in their place, and the store's own secret.key, or train anew",
        )
    if origin.examples != found["examples"]:
        raise _refusal(
            f"the rows of {spec.data.dataset} are the same, but their order or their tokens are not",
            "put back the file and the tokenizer that the run was begun with, or train anew",
        )
    if origin.base_model != found["base_model"]:
        raise _refusal(
            f"base model {spec.model.checkpoint!r} is not the one that the run was begun with",
            "put back the folder or hub revision that it was begun with, or train anew",
        )
    if (origin.event is not None) != spec.privacy.enabled or _noise(origin) != record.noise_multiplier:
        raise _refusal(
            f"the checkpoint has noise multiplier {_noise(origin)}, the run has {record.noise_multiplier}",
            "restore run.json and checkpoints from a backup, or train anew",
        )
    noise = {"noise_multiplier": _noise(origin), "target_epsilon": None}
    privacy = spec.privacy.model_copy(update=noise if spec.privacy.enabled else {})
    return Continued(checkpoint.state.step, privacy)


def carry(
    found: Checkpoint | None,
    spec: RunSpec,
    assembled: Assembled,
    plan: PrivatePlan | OrdinaryPlan,
    observer: Observer,
) -> Carried:
    """Set weights, optimizer and generator to where the run is.

    Args:
        found: the checkpoint, checked; None for a run that begins.
        spec: the run's.
        assembled: freshly put together, at its initial weights.
        plan: continued from the same checkpoint.
        observer: warned where other software may round differently.

    Raises:
        PrivacyError: the plan is another than the checkpoint's.
        StoreError: a tensor that does not fit.
    """
    parameters = assembled.parameters
    learner = begin(parameters, spec.optimisation, plan.schedule.steps)
    initial = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    if found is None:
        return Carried(learner, initial)
    origin = found.state.origin
    event = Event(**plan.planned_event.to_dict()) if isinstance(plan, PrivatePlan) else None
    if (event, plan.schedule.steps) != (origin.event, origin.steps_planned):
        raise _refusal(
            f"{plan.schedule.steps} steps would be planned with {event}, the checkpoint has "
            f"{origin.steps_planned} with {origin.event}",
            "go on with the version of dpft that wrote it, or train anew",
        )
    now, then = software_versions(), found.state.software
    others = [f"{name} {then.get(name)}" for name in _ROUNDING if now.get(name) != then.get(name)]
    if others:
        observer.warned(f"the run was begun with {', '.join(others)}: its result may differ by rounding")
    found.restore(parameters, learner)
    return Carried(learner, initial, found.state.seconds)


def _noise(origin: Origin) -> float | None:
    return None if origin.event is None else origin.event.noise_multiplier


def _refusal(problem: str, remedy: str) -> PrivacyError:
    return PrivacyError(f"this run cannot be resumed: {problem}", hint=remedy)
