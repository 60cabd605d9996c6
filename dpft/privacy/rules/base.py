"""What a layer rule is, and the common case: parameters determined by input and output gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dpft.errors import UnsupportedLayerError
from dpft.privacy.gradients import tokens

if TYPE_CHECKING:
    from dpft.privacy.tape import Tape

__all__ = ["InputOutputRule", "Rule", "close", "live_tokens", "tokens"]

_FEW = 4  # tokens: not worth a look


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
    tokenwise = False  # whether the gradient is a sum over tokens, each linear in its output gradient

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
            version = seen._version
            tape.expect(wanted.values())

            def on_gradient(gradient: Tensor) -> None:
                if seen._version != version:
                    raise UnsupportedLayerError(
                        f"the input of layer {site!r} was changed in place after the layer had read it",
                        hint="freeze this layer, or choose another --finetune-mode",
                    )
                gradient = tape.examples(gradient)
                if self.tokenwise:
                    self.record(module, wanted, *live_tokens(seen, gradient), tape)
                else:
                    self.record(module, wanted, seen, gradient, tape)

            return tape.watch(tape.batched(site, output), on_gradient)

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


def live_tokens(seen: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Only the tokens that some example's gradient reaches, where that is at most half of them.

    Where a classifier looks at one token, no other token of the last layer has a gradient: in a model of two
    layers, two fifths of all weight gradients are products with zeros. What is left out is exactly zero (or
    below 1e-19, whose square float32 does not hold), in the norm and in the sum alike.

    Args:
        seen: the layer's input, (b t …).
        gradient: the gradient at its output, (b t …).
    """
    tokens = gradient.shape[1]
    if gradient.dim() != 3 or seen.shape[:2] != gradient.shape[:2] or gradient.device.type != "cpu":
        return seen, gradient
    if tokens < _FEW or bool(gradient[0, tokens // 2].any()):  # a look at one token: most are like it
        return seen, gradient
    live = torch.linalg.vector_norm(gradient, dim=2).any(0).nonzero().flatten()
    if 2 * len(live) > tokens:
        return seen, gradient
    live = live if len(live) else live.new_zeros(1)
    return seen.index_select(1, live), gradient.index_select(1, live)


def close(found: Any, expected: Tensor) -> bool:
    """Whether ``found`` is ``expected`` but for float32 rounding, on the scale of its largest element."""
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    found, expected = found.double(), expected.double()
    size = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0.0, atol=1e-5 * size, equal_nan=True)
