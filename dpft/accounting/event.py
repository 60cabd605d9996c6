"""What was done to the data: the frozen record that accountants compose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, get_args

from dpft.errors import UsageError

__all__ = ["Adjacency", "MechanismEvent"]

Adjacency = Literal["add-or-remove-one", "replace-one"]

_ADJACENCIES: Final[tuple[str, ...]] = get_args(Adjacency)

# Beyond any training; keeps the arithmetic of accountants away from overflow.
_MOST_STEPS: Final = 10**12


@dataclass(frozen=True)
class MechanismEvent:
    """So many steps of the Poisson-subsampled Gaussian mechanism (Mironov et al. 2019, arXiv 1908.10530).

    In each step every example joins the sum with probability q, independently of all others; its
    contribution has L2 norm at most C, and normal noise of standard deviation noise multiplier times C is
    added to every coordinate. C cancels, and is no part of the record.

    Args:
        sample_rate: q, in (0, 1]; 1 is the full batch.
        noise_multiplier: finite and above 0, in units of the clipping norm.
        steps: noisy updates taken, from 0 to 10¹²; after 0 steps nothing has been released.
        adjacency: which datasets count as neighbours. Under ``"add-or-remove-one"`` they differ by the
            presence of one example; under ``"replace-one"`` one example is exchanged for another.

    Raises:
        UsageError: a value out of its range, or of the wrong type (NaN is in no range).
    """

    sample_rate: float
    noise_multiplier: float
    steps: int
    adjacency: Adjacency = "add-or-remove-one"

    def __post_init__(self) -> None:
        if not (_is_real(self.sample_rate) and 0 < self.sample_rate <= 1):
            raise UsageError(
                f"sample_rate is {self.sample_rate!r}, not a number in (0, 1]",
                hint="the sample rate is the expected batch size divided by the number of examples",
            )
        if not (_is_real(self.noise_multiplier) and 0 < self.noise_multiplier < math.inf):
            raise UsageError(
                f"noise_multiplier is {self.noise_multiplier!r}, not a finite number above 0",
                hint="without noise there is no (ε, δ) guarantee; give a noise multiplier such as 1.0",
            )
        if not (type(self.steps) is int and 0 <= self.steps <= _MOST_STEPS):
            raise UsageError(
                f"steps is {self.steps!r}, not a whole number from 0 to {_MOST_STEPS}",
                hint="count the noisy updates, empty batches included",
            )
        if self.adjacency not in _ADJACENCIES:
            raise UsageError(
                f"adjacency is {self.adjacency!r}, not a known one",
                hint=f"choose one of: {', '.join(_ADJACENCIES)}",
            )

    def with_steps(self, steps: int) -> MechanismEvent:
        """Return the same mechanism, run for ``steps`` steps."""
        return replace(self, steps=steps)

    def with_adjacency(self, adjacency: Adjacency) -> MechanismEvent:
        """Return the same steps, seen under another ``adjacency``."""
        return replace(self, adjacency=adjacency)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values, in the order of the fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> MechanismEvent:
        """Return the event that :meth:`to_dict` wrote.

        Nothing is defaulted: evidence with a missing field is no evidence.

        Raises:
            UsageError: a field is missing, unknown or out of range.
        """
        fields = cls.__dataclass_fields__
        if set(record) != set(fields):
            raise UsageError(
                f"a mechanism event has the fields {', '.join(sorted(map(str, record))) or '(none)'}",
                hint=f"it must have exactly these: {', '.join(fields)}",
            )
        return cls(**record)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
