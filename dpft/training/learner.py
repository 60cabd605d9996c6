"""Optimizer and schedule of a run, and how they are taken down and set up again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dpft.errors import StoreError
from dpft.spec import Frozen

__all__ = ["Learner", "LearnerValues"]

_SEPARATOR = ":"  # between a parameter's name and that of its state; neither has one


class LearnerValues(Frozen):
    """What a learner has besides tensors, as JSON has it.

    Attributes:
        groups: the optimizer's settings, by group.
        scalars: of its state what is no tensor, by ``parameter:name``.
        scheduled: steps the schedule has seen.
    """

    groups: list[dict[str, Any]]
    scalars: dict[str, float | int | bool | None] = Field(default_factory=dict)
    scheduled: int


class Learner:
    """What applies released gradients; all of it is post-processing.

    Args:
        parameters: trainable parameters by name; the optimizer has these and no others.
        optimizer: over them.
        scheduler: of the optimizer.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, scheduler: LRScheduler
    ) -> None:
        self.applied = 0
        self._parameters = parameters
        self._optimizer = optimizer
        self._scheduler = scheduler

    def step(self) -> None:
        """Apply the gradients that are set, and forget them."""
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.applied += 1

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's state, by ``parameter:name``; not copied."""
        return {name: value for name, value in self._state() if isinstance(value, Tensor)}

    def values(self) -> LearnerValues:
        """The rest of what it takes to go on."""
        return LearnerValues(
            groups=self._groups(),
            scalars={name: value for name, value in self._state() if not isinstance(value, Tensor)},
            scheduled=self._scheduler.last_epoch,
        )

    def restore(self, applied: int, tensors: Mapping[str, Tensor], values: LearnerValues) -> None:
        """Go on after ``applied`` steps, as if they had been taken here.

        Args:
            applied: steps.
            tensors: as :meth:`tensors` gave them.
            values: as :meth:`values` gave them.

        Raises:
            StoreError: they are of another optimizer, or of other parameters.
        """
        self._check(applied, tensors, values)
        for group, stored in zip(self._optimizer.param_groups, values.groups, strict=True):
            group["lr"] = stored["lr"]
        for key, value in (*tensors.items(), *values.scalars.items()):
            name, _, kind = key.rpartition(_SEPARATOR)
            parameter = self._parameters[name]
            if isinstance(value, Tensor) and value.shape == parameter.shape:  # counters stay on the CPU
                value = value.to(parameter.device)
            self._optimizer.state[parameter][kind] = value
        # A schedule here is a function of the step; LambdaLR's own state_dict has nothing else.
        self._scheduler.last_epoch = values.scheduled
        self._scheduler._step_count = values.scheduled + 1
        self._scheduler._last_lr = [group["lr"] for group in self._optimizer.param_groups]
        self.applied = applied

    def _check(self, applied: int, tensors: Mapping[str, Tensor], values: LearnerValues) -> None:
        kinds: dict[str, set[str]] = {name: set() for name in self._parameters}
        for key in (*tensors, *values.scalars):
            name, _, kind = key.rpartition(_SEPARATOR)
            if name not in kinds:
                raise _mismatch(f"it has a state of {name!r}, which does not train here")
            kinds[name].add(kind)
        if len({frozenset(found) for found in kinds.values()}) > 1:
            raise _mismatch("some parameters have more of it than others")
        for key, value in tensors.items():
            parameter = self._parameters[key.rpartition(_SEPARATOR)[0]]
            if value.shape not in (parameter.shape, ()) or not value.is_floating_point():
                raise _mismatch(f"{key} is {value.dtype} of shape {tuple(value.shape)}")
        if values.scheduled != applied:
            raise _mismatch(f"its schedule is at step {values.scheduled}, not {applied}")
        if len(values.groups) != len(self._groups()):
            raise _mismatch("it has other groups of parameters")
        for mine, stored in zip(self._groups(), values.groups, strict=True):
            for setting in mine.keys() & stored.keys() - {"lr"}:
                if mine[setting] != stored[setting]:
                    raise _mismatch(f"its {setting} is {stored[setting]}, not {mine[setting]}")
            if type(stored.get("lr")) is not float:
                raise _mismatch("it has no learning rate")

    def _state(self) -> Iterator[tuple[str, Any]]:
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                yield f"{name}{_SEPARATOR}{key}", value

    def _groups(self) -> list[dict[str, Any]]:
        return [
            {
                setting: list(value) if isinstance(value, tuple) else value
                for setting, value in group.items()
                if setting != "params"
            }
            for group in self._optimizer.param_groups
        ]


def _mismatch(problem: str) -> StoreError:
    return StoreError(
        f"the checkpoint's optimizer state does not fit: {problem}",
        hint="go on with the version of dpft and PyTorch that wrote it, or train anew",
    )
