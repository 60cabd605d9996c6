"""What a layer rule is, and the common case: parameters determined by input and output gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from dpft.privacy.tape import Tape

__all__ = ["InputOutputRule", "Rule", "close", "tokens"]


class Rule(ABC):
    """How to differentiate one type of layer per example.

    Attributes:
        slow: whether the user should be told.
    """

    slow = False

    @abstractmethod
    def owned(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters of ``module`` itself that this rule handles, by name; empty if it is not its type.

        A rule must look at what the module computes, not only at its class: a subclass with a ``forward`` of
        its own is not handled.
        """

    @abstractmethod
    def attach(
        self, site: str, module: nn.Module, wanted: dict[str, nn.Parameter], tape: Tape
    ) -> list[RemovableHandle]:
        """Hook ``module`` so that each use adds the gradients of ``wanted`` to ``tape``."""


class InputOutputRule(Rule):
    """A layer called with one tensor, whose parameter gradients follow from (input, output gradient)."""

    layer: type[nn.Module]

    def owned(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Direct parameters of a ``layer`` whose forward is the library's own."""
        if not isinstance(module, self.layer) or type(module).forward is not self.layer.forward:
            return {}
        return dict(module.named_parameters(recurse=False))

    def attach(
        self, site: str, module: nn.Module, wanted: dict[str, nn.Parameter], tape: Tape
    ) -> list[RemovableHandle]:
        """Watch the output; keep the input."""

        def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if not tape.active:
                return None
            seen = tape.examples(tape.batched(site, args[0]).detach())
            return tape.watch(
                tape.batched(site, output),
                lambda gradient: self.record(module, wanted, seen, tape.examples(gradient), tape),
            )

        return [module.register_forward_hook(after)]

    @abstractmethod
    def record(
        self, module: nn.Module, wanted: dict[str, nn.Parameter], seen: Tensor, gradient: Tensor, tape: Tape
    ) -> None:
        """Add the gradients of ``wanted`` to ``tape``.

        Args:
            module: the layer.
            wanted: its trainable parameters by local name.
            seen: its input, one row per example.
            gradient: the gradient at its output, one row per example.
            tape: where to add them.
        """


def tokens(value: Tensor) -> Tensor:
    """``value`` (b … d) as float32 (b t d): axes between example and features are tokens."""
    value = value.float()
    return value.unsqueeze(1) if value.dim() == 2 else value.flatten(1, -2)


def close(found: Any, expected: Tensor) -> bool:
    """Whether ``found`` is ``expected`` but for float32 rounding, on the scale of its largest element."""
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    found, expected = found.double(), expected.double()
    size = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0.0, atol=1e-5 * size, equal_nan=True)
