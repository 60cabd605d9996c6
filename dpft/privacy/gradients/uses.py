"""Parameters that are used more than once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dpft.privacy.gradients.base import PerExampleGradient
from dpft.privacy.gradients.dense import DenseGradient
from dpft.privacy.gradients.indexed import IndexedGradient
from dpft.privacy.gradients.outer import OuterGradient

__all__ = ["merge"]


def merge(uses: Sequence[PerExampleGradient]) -> PerExampleGradient:
    """The gradient of a parameter used several times in one forward pass: the *sum* of its uses.

    A norm of each use on its own would be wrong (the uses of one example can add up), so uses of one kind are
    joined along the token axis, which sums them exactly; uses of different kinds are summed densely.
    """
    first = uses[0]
    if len(uses) == 1:
        return first
    if all(isinstance(use, OuterGradient) for use in uses):
        return OuterGradient(
            torch.cat([use.activations for use in uses if isinstance(use, OuterGradient)], 1),
            torch.cat([use.output_gradients for use in uses if isinstance(use, OuterGradient)], 1),
        )
    if isinstance(first, IndexedGradient) and all(
        isinstance(use, IndexedGradient) and use.padding == first.padding for use in uses
    ):
        return IndexedGradient(
            torch.cat([use.ids for use in uses if isinstance(use, IndexedGradient)], 1),
            torch.cat([use.output_gradients for use in uses if isinstance(use, IndexedGradient)], 1),
            first.rows,
            first.padding,
        )
    return DenseGradient(torch.stack([use.dense() for use in uses]).sum(0))
