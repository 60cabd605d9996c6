"""What a clipper is, and the arithmetic all of them share.

A clipper states its sensitivity: the L2 norm by which adding or removing one example can change the clipped
sum. It divides the trainable parameters into groups, and scales each example's gradient group by group, by a
factor that depends on that example's norm over the group alone.

The bound must hold for the numbers that are actually delivered, so factors are computed in float64 from norms
enlarged by what float32 rounding may have hidden. With n the computed norm and m the magnitude (the norm
without cancellation between tokens), rounding errors of both the norm and the later weighted sum are at most
a few units in the last place *of m*; a factor computed from √(n² + ROUNDING_GUARD·m²) keeps the delivered
norm at or below its bound times (1 + 1e-6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from dpft.errors import UsageError
from dpft.privacy.gradients import Norms

__all__ = ["ROUNDING_GUARD", "Clipper", "Factors", "GroupFactors", "check_positive", "norm_of"]

ROUNDING_GUARD = 1e-6  # about 2·(3 float32 units)²/1e-7, see tests/property/test_delivered_norm.py

_SMALLEST = torch.finfo(torch.float32).tiny  # below it, a float32 factor loses the digits the bound needs


class Factors(Protocol):
    """Turns the norms of one micro-batch into factors."""

    def __call__(self, norms: Mapping[str, Norms]) -> dict[str, Tensor]:
        """Factors per parameter and example.

        Args:
            norms: by parameter name, each for the same examples; a parameter that no example reaches may be
                absent.

        Returns:
            By the same names: float32, shape (batch,), finite, at least 0. An example whose norm over *any*
            group is not finite has factor zero for all parameters.
        """


class Clipper(Protocol):
    """Bounds what one example contributes."""

    @property
    def name(self) -> str:
        """Its name in ``tables.CLIPPERS``."""

    @property
    def sensitivity(self) -> float:
        """L2 sensitivity of the clipped sum, over all parameters, to adding or removing one example."""

    @property
    def stability(self) -> float | None:
        """γ of a formula that has one, in units of the gradient norm."""

    def groups(self, names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
        """The parameters ``names``, divided into those that are clipped together."""

    def over(self, names: Iterable[str]) -> Factors:
        """The factors for a model whose trainable parameters are ``names``: all of them, fixed for the run.

        Groups and their bounds are settled here, once. Were they settled by what a micro-batch happens to
        reach, one example could change the bounds of the others.
        """

    def contribution(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What one example contributes, by definition: the slow truth, which shares no code with the factors.

        Args:
            gradient: of one example, written out, by parameter name: all trainable parameters.

        Returns:
            The clipped gradient, float64.
        """


class GroupFactors:
    """A function of the guarded norm, applied to each group.

    Args:
        groups: parameter names, divided into those clipped together.
        factor: from guarded norms (groups, batch), float64, to factors of that shape.
    """

    def __init__(self, groups: tuple[tuple[str, ...], ...], factor: Callable[[Tensor], Tensor]) -> None:
        self._group = {name: number for number, group in enumerate(groups) for name in group}
        self._count = len(groups)
        self._factor = factor

    def __call__(self, norms: Mapping[str, Norms]) -> dict[str, Tensor]:
        """See :class:`Factors`."""
        group = [self._group[name] for name in norms]
        squares = torch.stack([n.square for n in norms.values()])
        if all(n.square_magnitude is n.square for n in norms.values()):  # nothing could cancel
            squares.mul_(1.0 + ROUNDING_GUARD)
        else:
            squares.add_(torch.stack([n.square_magnitude for n in norms.values()]), alpha=ROUNDING_GUARD)
        if self._count == 1:
            guarded = squares.sum(0, keepdim=True).sqrt()
        else:
            index = torch.tensor(group, device=squares.device)
            guarded = squares.new_zeros(self._count, squares.shape[1]).index_add_(0, index, squares).sqrt()
        factors = self._factor(guarded)
        usable = torch.isfinite(guarded).all(0) & (factors >= _SMALLEST)
        rows = torch.where(usable, factors, 0.0).float().unbind(0)
        return {name: rows[number] for name, number in zip(norms, group, strict=True)}


def check_positive(argument: str, value: float) -> None:
    """Refuse a bound that bounds nothing.

    Raises:
        UsageError: ``value`` is not above 0, or not finite.
    """
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"{argument} is {value}", hint=f"give a finite {argument} above 0")


def norm_of(values: Iterable[Tensor]) -> float:
    """L2 norm of tensors taken together, in float64."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in values))
