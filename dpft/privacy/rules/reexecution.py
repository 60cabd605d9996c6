"""The exact fallback for a layer that no rule knows: run it again, one example at a time.

During the forward pass the layer is called once more for each example alone, and what it answers must be that
example's part of what it answered for the batch: else it mixes examples, draws random numbers or remembers,
and is refused. During the backward pass each of these small graphs gives the gradient of its own example.

The layer's own parameters take part in these graphs; those of layers inside it are recorded by their rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from dpft.errors import UnsupportedLayerError
from dpft.privacy.gradients import DenseGradient
from dpft.privacy.rules.base import Rule
from dpft.privacy.tape import Tape

__all__ = ["RULE", "ReexecutionRule"]

_LARGEST = 1 << 18  # numbers per example: beyond, one example at a time through the whole model is cheaper
_HINT = "freeze this layer, or choose another --finetune-mode"
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


class ReexecutionRule(Rule):
    """Any layer with few parameters of its own."""

    slow = True

    def owned(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """All parameters of the layer itself; containers compute nothing."""
        if isinstance(module, nn.ParameterDict | nn.ParameterList):
            return {}
        own = dict(module.named_parameters(recurse=False))
        return own if sum(parameter.numel() for parameter in own.values()) <= _LARGEST else {}

    def attach(
        self, site: str, module: nn.Module, wanted: dict[str, nn.Parameter], tape: Tape
    ) -> list[RemovableHandle]:
        """Run each example again; watch the outputs."""
        name = f"layer {site!r} ({type(module).__name__})"

        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if not tape.active:
                return None
            leaves = {local: p.detach().requires_grad_() for local, p in wanted.items()}
            whole = _map(name, output, lambda value: tape.batched(site, value))
            with tape.paused():
                alone = _one_by_one(name, module, leaves, args, kwargs, whole, tape.batch_size)
            positions = iter(range(len(alone[0])))

            def watch(value: Tensor) -> Tensor:
                position = next(positions)
                if not value.is_floating_point():
                    return value

                def record(gradient: Tensor) -> None:
                    pieces = [outputs[position] for outputs in alone]
                    for local, value in _differentiate(pieces, leaves, gradient).items():
                        tape.add(wanted[local], DenseGradient(value))

                return tape.watch(value, record)

            return _map(name, whole, watch)

        return [module.register_forward_hook(after, with_kwargs=True)]


def _one_by_one(
    name: str,
    module: nn.Module,
    leaves: dict[str, Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    whole: Any,
    batch: int,
) -> list[list[Tensor]]:
    """The layer's outputs for each example alone: for each, its tensors in order.

    Raises:
        UnsupportedLayerError: they are not the parts of ``whole``.
    """
    expected = [value.detach() for value in _tensors(name, whole)]
    before = [buffer._version for buffer in module.buffers()]
    for split in _readings(name, (args, kwargs), batch):
        answers: list[list[Tensor]] = []
        for row in range(batch):

            def part(value: Tensor, row: int = row, split: frozenset[int] = split) -> Tensor:
                return _part(value, row, batch).detach() if id(value) in split else value.detach()

            some_args, some_kwargs = _map(name, (args, kwargs), part)
            try:
                answer = functional_call(module, leaves, some_args, some_kwargs)
            except (RuntimeError, ValueError, IndexError):
                break
            found = list(_tensors(name, answer))
            if not _are_parts(found, expected, row, batch):
                break
            answers.append(found)
        if len(answers) == batch and before == [buffer._version for buffer in module.buffers()]:
            return answers
    raise UnsupportedLayerError(
        f"{name} does not answer for an example alone as it does in a batch", hint=_HINT
    )


def _readings(name: str, inputs: Any, batch: int) -> Iterator[frozenset[int]]:
    """Which input tensors have one row (or several, the same number) per example: the likely first."""
    tensors = {id(value): value for value in _tensors(name, inputs) if value.dim()}
    exact = frozenset(key for key, value in tensors.items() if value.shape[0] == batch)
    several = frozenset(key for key, value in tensors.items() if value.shape[0] % batch == 0)
    yield exact
    if several != exact:
        yield several
    for key in exact if batch > 1 else ():
        yield exact - {key}


def _part(value: Tensor, row: int, batch: int) -> Tensor:
    rows = value.shape[0] // batch
    return value[row * rows : (row + 1) * rows]


def _are_parts(found: list[Tensor], expected: list[Tensor], row: int, batch: int) -> bool:
    if len(found) != len(expected):
        return False
    for value, whole in zip(found, expected, strict=True):
        part = _part(whole, row, batch)
        low = value.dtype in (torch.bfloat16, torch.float16)
        size = float(part.double().nan_to_num(0.0, 0.0, 0.0).abs().max()) if part.numel() else 0.0
        tolerance = (3e-2 if low else 1e-4) * size
        if value.shape != part.shape or not torch.allclose(
            value.detach().double(), part.double(), rtol=0.0, atol=tolerance, equal_nan=True
        ):
            return False
    return True


def _differentiate(pieces: list[Tensor], leaves: dict[str, Tensor], gradient: Tensor) -> dict[str, Tensor]:
    """Per-example gradients (b …) of each leaf, float32."""
    rows = []
    for row, piece in enumerate(pieces):
        if not piece.requires_grad:
            return {}
        values = torch.autograd.grad(
            piece,
            list(leaves.values()),
            _part(gradient, row, len(pieces)),
            retain_graph=True,
            allow_unused=True,
        )
        rows.append(dict(zip(leaves, values, strict=True)))
    zeros = {local: torch.zeros_like(leaf) for local, leaf in leaves.items()}
    return {
        local: torch.stack([zero if row[local] is None else row[local] for row in rows]).float()
        for local, zero in zeros.items()
    }


def _tensors(name: str, value: Any) -> Iterator[Tensor]:
    """The tensors of a structure, in order."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _map(name, value, keep)
    yield from found


def _map(name: str, value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A structure with each tensor changed.

    Raises:
        UnsupportedLayerError: it holds something whose state a second call could change.
    """
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_map(name, item, change) for item in value)
    if type(value) is dict:
        return {key: _map(name, item, change) for key, item in value.items()}
    if isinstance(value, _PLAIN):
        return value
    raise UnsupportedLayerError(
        f"{name} takes or gives a {type(value).__name__}, which another call could change", hint=_HINT
    )


RULE = ReexecutionRule()
