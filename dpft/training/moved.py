"""Trainable parameters away from where they start, for as long as a check looks at them.

Some start where a gradient is exactly zero: LoRA's second factor is zero, so its first one gets no gradient,
and a fault in how that is clipped would show in no comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["moved"]

_SHARE = 0.1  # of a parameter's own size
_FROM_ZERO = 0.05


@contextmanager
def moved(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Add a little made-up noise to each parameter; on exit, however it comes, every bit is as it was.

    The noise is a tenth of the parameter's root mean square, or 0.05 where that is zero. No global random
    state is touched.

    Args:
        parameters: by name; no two of them share memory.
    """
    generator = torch.Generator().manual_seed(0)
    before: dict[str, torch.Tensor] = {}
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                before[name] = parameter.detach().clone()
                size = float(parameter.double().square().mean().sqrt())
                noise = torch.randn(parameter.shape, generator=generator)
                scale = _SHARE * size if size > 0 else _FROM_ZERO
                parameter.add_(noise.to(parameter), alpha=scale)
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)
