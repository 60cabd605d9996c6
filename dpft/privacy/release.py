"""From clipped sums to a released gradient: noise added and divided in float64, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from dpft.errors import PrivacyError

__all__ = ["add_noise", "check_finite"]

_BLOCK = 1 << 16  # numbers at a time: half a megabyte of float64, which stays in the processor's caches


def check_finite(sums: Mapping[str, Tensor]) -> None:
    """Refuse sums that are not finite.

    Raises:
        PrivacyError: naming the parameter.
    """
    for name, value in sums.items():
        # Not finite if any element is not; but a sum of large finite elements may overflow, so look again.
        if not bool(torch.isfinite(value.sum())) and not bool(torch.isfinite(value).all()):
            raise PrivacyError(
                f"the clipped sum of {name} is not finite",
                hint="this is a defect in the engine; run with --engine of another kind and report it",
            )


def add_noise(
    sums: Mapping[str, Tensor], normals: Callable[[int], Tensor], deviation: float, divisor: float
) -> None:
    """``(sum + deviation · z) / divisor`` in float64, rounded once; in place.

    Args:
        sums: clipped sums by parameter, float32; afterwards the noisy means.
        normals: gives that many independent standard normals, float64, never the same ones twice.
        deviation: of the noise, σ·C.
        divisor: B.
    """
    for group in _blocks(sums):
        noise = normals(sum(map(len, group))).mul_(deviation)
        start = 0
        for part in group:
            drawn = noise[start : start + len(part)].to(part.device)
            part.copy_(drawn.add_(part).div_(divisor))
            start += len(part)


def _blocks(sums: Mapping[str, Tensor]) -> Iterator[list[Tensor]]:
    """All elements of all sums, once each, as flat views: large sums are split, small ones drawn together."""
    group: list[Tensor] = []
    size = 0
    for value in sums.values():
        for part in torch.split(value.view(-1), _BLOCK):
            group.append(part)
            size += len(part)
            if size >= _BLOCK:
                yield group
                group, size = [], 0
    if group:
        yield group
