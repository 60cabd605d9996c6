"""Our own hooks beside a library's: rows kept apart, and norms without cancellation between tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dpft.privacy.gradients import Norms

__all__ = ["Magnitudes"]


class Magnitudes:
    """Watches every module that holds a trainable parameter.

    The libraries record a module only in training mode, and expect its input to have one row per example;
    position ids and prompts often have one row for all. So, while recording, modules that hold a trainable
    parameter are in training mode (they hold no dropout; the preflight would tell) and get expanded input.

    Attributes:
        owners: the modules by the qualified names of the parameters they hold.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        wanted = {id(parameter) for parameter in parameters.values()}
        self.owners = {
            f"{module_name}.{local}".lstrip("."): module
            for module_name, module in model.named_modules()
            for local, parameter in module.named_parameters(recurse=False)
            if id(parameter) in wanted
        }
        self._modules = list(dict.fromkeys(self.owners.values()))
        self._batch: int | None = None
        self._sums: dict[int, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Hook the modules; nothing happens but while recording."""
        for module in self._modules:
            self._handles.append(module.register_forward_pre_hook(self._expand))
            self._handles.append(module.register_forward_hook(self._watch))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def recording(self, batch_size: int) -> Iterator[None]:
        """Keep rows apart, and sum magnitudes anew, for a micro-batch of ``batch_size`` examples."""
        asleep = [module for module in self._modules if not module.training]
        self._batch, self._sums = batch_size, {}
        for module in asleep:
            module.training = True
        try:
            yield
        finally:
            self._batch = None
            for module in asleep:
                module.training = False

    def norms(self, parameter: nn.Parameter, square: Tensor) -> Norms:
        """``square`` beside the squared norm without cancellation, where that is known to be larger."""
        magnitude = self._sums.get(id(parameter))
        return Norms(square, square if magnitude is None else torch.maximum(square, magnitude.square()))

    def _expand(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._batch is None or not args or not isinstance(args[0], Tensor):
            return None
        value = args[0]
        if value.dim() >= 2 and value.shape[0] == 1:
            value = value.expand(self._batch, *value.shape[1:])
        # Opacus views the ids of an embedding as one row: they must lie in memory as such.
        return (value if value.is_floating_point() else value.contiguous(), *args[1:])

    def _watch(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        weight = getattr(module, "weight", None)
        if self._batch is None or not isinstance(weight, nn.Parameter) or weight.dim() != 2:
            return
        if not args or not isinstance(output, Tensor) or not output.requires_grad:
            return
        # Σ_t ‖a_t‖ ‖g_t‖; a row of an embedding table is read as it is, ‖a_t‖ = 1.
        inputs = None if isinstance(module, nn.Embedding) else _token_norms(args[0].detach())

        def add(gradient: Tensor) -> None:
            norms = _token_norms(gradient)
            product = (norms if inputs is None else norms * inputs).flatten(1).sum(1)
            self._sums[id(weight)] = self._sums.get(id(weight), 0) + product

        output.register_hook(add)  # type: ignore[no-untyped-call]


def _token_norms(value: Tensor) -> Tensor:
    """L2 norms over the last axis, float64, at least (b, 1)."""
    norms: Tensor = torch.linalg.vector_norm(value, dim=-1, dtype=torch.float64)
    return norms if norms.dim() > 1 else norms[:, None]
