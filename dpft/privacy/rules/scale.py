"""IA³ scales (Liu et al. 2022, arXiv 2205.05638): a learnt vector times a linear layer's input or output.

The layout is PEFT's: a wrapper with ``base_layer``, a parameter dictionary ``ia3_l`` and ``is_feedforward``
(true: the scale multiplies the base layer's input; false: its output). It is recognised by those attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dpft.privacy.gradients import DenseGradient
from dpft.privacy.rules.base import Rule, live_tokens, tokens
from dpft.privacy.rules.conv1d import RULE as CONV1D

if TYPE_CHECKING:
    from dpft.privacy.tape import Tape

__all__ = ["RULE", "ScaleRule"]


class ScaleRule(Rule):
    """One active IA³ scale around a linear layer."""

    def owned(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The single scale of an IA³ layer; several adapters on one layer are not handled."""
        scales = getattr(module, "ia3_l", None)
        if not isinstance(scales, nn.ParameterDict) or not _is_linear(getattr(module, "base_layer", None)):
            return {}
        items = dict(scales.items())
        return items if len(items) == 1 else {}

    def attach(
        self, site: str, module: nn.Module, wanted: dict[str, nn.Parameter], tape: Tape
    ) -> list[RemovableHandle]:
        """Watch the scaled tensor; keep the tensor before scaling."""
        ((_, scale),) = wanted.items()
        base = module.base_layer
        assert isinstance(base, nn.Module)
        before_scaling: list[Tensor] = []

        def record(unscaled: Tensor, gradient: Tensor) -> None:
            seen, g = live_tokens(tokens(unscaled), tokens(tape.examples(gradient)))  # b t d
            tape.add(scale, DenseGradient((seen * g).sum(1).view(-1, *scale.shape)))

        def keep_input(_: nn.Module, args: tuple[Any, ...]) -> None:
            if tape.active:
                before_scaling.append(tape.examples(tape.batched(site, args[0]).detach()))

        def watch_input(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not tape.active:
                return None
            unscaled = before_scaling.pop()
            scaled = tape.watch(tape.batched(site, args[0]), lambda gradient: record(unscaled, gradient))
            return (scaled, *args[1:])

        def keep_output(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if tape.active:
                before_scaling.append(tape.examples(tape.batched(site, output).detach()))

        def watch_output(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if not tape.active:
                return None
            unscaled = before_scaling.pop()
            return tape.watch(tape.batched(site, output), lambda gradient: record(unscaled, gradient))

        if module.is_feedforward:
            return [module.register_forward_pre_hook(keep_input), base.register_forward_pre_hook(watch_input)]
        return [base.register_forward_hook(keep_output), module.register_forward_hook(watch_output)]


def _is_linear(layer: object) -> bool:
    """Features in, features out, on the last axis: where a scale of features can sit."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Module) and bool(CONV1D.owned(layer)))


RULE = ScaleRule()
