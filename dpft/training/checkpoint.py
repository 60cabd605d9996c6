"""Checkpoints: what it takes to go on with a run as if it had never stopped.

One folder a checkpoint, ``checkpoints/step-000123/``, complete or not there at all::

    weights.safetensors     what trains
    optimizer.safetensors   the optimizer's state
    random.safetensors      PyTorch's generator; only without privacy, and only where dropout uses it
    state.json              the step, and what must be the same when the run goes on
    files.json              digest and size of the others

Everything in the checkpoint of a private run is post-processing of released, noisy gradients. There is no
key, no seed and no generator's state in it: who resumes draws a new key, and the steps to come are as random
as if nobody had stopped. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dpft.errors import NotFoundError, PrivacyError, StoreError, UntrustedError
from dpft.runs.confine import list_folder, read_json
from dpft.runs.files import ensure_directory, file_table, publish_dir, write_json_atomic
from dpft.runs.manifest_parts import Event
from dpft.runs.schema import major
from dpft.runs.tensors import read_header
from dpft.spec import Frozen
from dpft.training.learner import Learner, LearnerValues

__all__ = ["Checkpoint", "CheckpointState", "Checkpoints", "Origin"]

_SCHEMA = "1.0"
_KEPT = 2
_NAME = re.compile(r"step-(\d{6,12})")
_WEIGHTS, _OPTIMIZER, _RANDOM = "weights.safetensors", "optimizer.safetensors", "random.safetensors"
_STATE, _TABLE = "state.json", "files.json"
_RNG = "torch"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class Origin(Frozen):
    """What must be the same when a run goes on.

    Attributes:
        run_id: the run.
        spec: digest of the spec, speed and labels left out.
        dataset: keyed fingerprint of the training rows, in any order.
        examples: keyed fingerprint of the tokenised training examples, in order.
        base_model: hash of the pretrained tensors.
        steps_planned: of the schedule.
        event: sample rate, noise multiplier and planned steps; None without privacy.
    """

    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    spec: Digest
    dataset: Digest
    examples: Digest
    base_model: Digest
    steps_planned: Count
    event: Event | None


class CheckpointState(Frozen):
    """What ``state.json`` holds.

    Attributes:
        step: steps taken.
        origin: what they were taken with.
        learner: the optimizer's settings and the schedule's position.
        seconds: that the run has taken so far.
        software: versions by package; another one may round differently.
    """

    schema_version: str = _SCHEMA
    step: Count
    origin: Origin
    learner: LearnerValues
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    software: dict[str, str]


class Checkpoint:
    """One checkpoint on the disk, checked; from :meth:`Checkpoints.newest`.

    Attributes:
        folder: where it is.
        state: what it says.
    """

    def __init__(self, folder: Path, state: CheckpointState) -> None:
        self.folder = folder
        self.state = state

    def restore(self, parameters: Mapping[str, Tensor], learner: Learner) -> None:
        """Put weights, optimizer and generator back as they were.

        Raises:
            StoreError: a tensor is missing, unknown, or of another shape or type; the weights may have
                changed by then, and must not be used.
        """
        like = {name: (value.dtype, tuple(value.shape)) for name, value in parameters.items()}
        with _damage(self.folder), torch.no_grad():
            for name, value in _tensors(self.folder / _WEIGHTS, like):
                parameters[name].copy_(value)
            learner.restore(self.state.step, dict(_tensors(self.folder / _OPTIMIZER)), self.state.learner)
            if (self.folder / _RANDOM).exists():
                torch.set_rng_state(dict(_tensors(self.folder / _RANDOM))[_RNG])


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: ``checkpoints/`` in the run's folder; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(
        self,
        state: CheckpointState,
        weights: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        random: Tensor | None = None,
    ) -> None:
        """Add one, and drop all but the newest two once it is on the disk.

        Args:
            state: the step, and all but tensors.
            weights: what trains, by name.
            optimizer: its state, by name.
            random: the state of PyTorch's generator; never of a private run.

        Raises:
            PrivacyError: a private run's generator.
            StoreError: the disk is full or fails; nothing of this checkpoint is left, those before are whole.
        """
        if random is not None and state.origin.event is not None:
            raise PrivacyError("a private run's checkpoint may hold no generator state", hint="report it")
        ensure_directory(self._folder)
        self._sweep()
        final = self._folder / f"step-{state.step:06d}"
        staging = self._folder / f".{final.name}-{secrets.token_hex(4)}.tmp"
        try:
            with _saving(self._folder):
                staging.mkdir(mode=0o700)
                _save(staging / _WEIGHTS, weights)
                _save(staging / _OPTIMIZER, optimizer)
                if random is not None:
                    _save(staging / _RANDOM, {_RNG: random})
                write_json_atomic(staging / _STATE, state.model_dump(mode="json"))
                table = [entry.to_json() for entry in file_table(staging)]
                write_json_atomic(staging / _TABLE, {"schema_version": _SCHEMA, "files": table})
                publish_dir(staging, final, overwrite=True)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        for old in self._all()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def newest(self) -> Checkpoint | None:
        """The newest, whole and as it was written; None where there is none.

        Raises:
            StoreError: it is damaged, written by a newer dpft, or has something in it that does not belong.
        """
        if self._folder.is_symlink():
            raise StoreError(f"{self._folder} is a symbolic link", hint="put the folder itself in its place")
        found = self._all()
        if not found:
            return None
        with _damage(found[-1]):
            return Checkpoint(found[-1], _state(found[-1]))

    def remove(self) -> None:
        """Remove all of them; what cannot be removed stays."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        """Oldest first; a link under such a name is found too, and refused when it is opened."""
        paths = self._folder.iterdir() if self._folder.is_dir() else iter(())
        return sorted((path for path in paths if _NAME.fullmatch(path.name)), key=_step_of)

    def _sweep(self) -> None:
        """Remove what processes that were killed left half-written."""
        for path in self._folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match.group(1))


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: _alone(value) for name, value in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o600)


def _alone(value: Tensor) -> Tensor:
    """Contiguous and in storage of its own, which safetensors wants; copied only where it is not."""
    value = value.detach().contiguous()
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()


def _state(folder: Path) -> CheckpointState:
    """Check a checkpoint's files against its table, and read its state."""
    if folder.is_symlink():
        raise UntrustedError("it is a symbolic link", hint="")
    document = read_json(folder / _STATE)
    if not isinstance(document, dict) or major(document, folder / _STATE) != 1:
        raise UntrustedError(f"{_STATE} is of another version of dpft", hint="")
    table = read_json(folder / _TABLE)
    stated = table.get("files") if isinstance(table, dict) else None
    if [name for name in list_folder(folder) if name not in (_TABLE, _STATE)] not in _FILES:
        raise UntrustedError("its files are not those of a checkpoint", hint="")
    if stated != [entry.to_json() for entry in file_table(folder, exclude={_TABLE})]:
        raise UntrustedError("its files are not those it was written with", hint="")
    state = CheckpointState.model_validate(document)
    if state.step != _step_of(folder):
        raise UntrustedError(f"it is of step {state.step}", hint="")
    if state.origin.event is not None and (folder / _RANDOM).exists():
        raise UntrustedError("it is of a private run, and holds a generator's state", hint="")
    return state


_FILES = ([_OPTIMIZER, _WEIGHTS], [_OPTIMIZER, _RANDOM, _WEIGHTS])


def _tensors(
    path: Path, like: Mapping[str, tuple[torch.dtype, tuple[int, ...]]] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a file, one at a time; where ``like`` is given, exactly those."""
    names = set(read_header(path).tensors)
    if like is not None and names != like.keys():
        odd = sorted(names ^ like.keys())
        raise UntrustedError(f"{path.name} and the model differ in {odd[0]} and {len(odd) - 1} more", hint="")
    with safe_open(path, "pt") as opened:
        for name in sorted(names):
            value = opened.get_tensor(name)
            if like is not None and (value.dtype, tuple(value.shape)) != like[name]:
                raise UntrustedError(f"{name} is {value.dtype} of shape {tuple(value.shape)}", hint="")
            yield name, value


@contextlib.contextmanager
def _saving(folder: Path) -> Iterator[None]:
    """Tell in one line that the disk refused, whichever library met it."""
    try:
        yield
    except (OSError, SafetensorError, StoreError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise StoreError(
            f"no checkpoint could be written to {folder}: {reason}",
            hint="free some space there, then go on from the checkpoint before with 'dpft train --resume'",
        ) from error


@contextlib.contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Name the checkpoint, and the way out."""
    try:
        yield
    except (UntrustedError, NotFoundError, ValidationError, SafetensorError) as error:
        message = f"what it says is not valid ({type(error).__name__})"
        if isinstance(error, UntrustedError | NotFoundError):
            message = error.message
        raise StoreError(
            f"checkpoint {folder} cannot be used: {message}",
            hint="remove that folder to go on from the checkpoint before it, if there is one",
        ) from error
