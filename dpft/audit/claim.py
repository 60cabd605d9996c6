"""What the audited mechanism claims to be, in numbers; everything the audit measures is held against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD

__all__ = ["Claim"]


@dataclass(frozen=True)
class Claim:
    """A Poisson-subsampled Gaussian mechanism, run for some steps.

    Attributes:
        examples: n of the audit's synthetic dataset.
        expected_batch_size: B; released gradients are divided by it.
        sensitivity: S, the most that one example may change the clipped sum, in L2 norm.
        noise_multiplier: σ; the noise on the clipped sum has standard deviation σ·S.
        steps: T of the audited run.
        delta: δ.
        epsilon: ε of T steps at δ.
    """

    examples: int
    expected_batch_size: int
    sensitivity: float
    noise_multiplier: float
    steps: int
    delta: float
    epsilon: float

    @classmethod
    def of(
        cls,
        *,
        examples: int,
        expected_batch_size: int,
        sensitivity: float,
        noise_multiplier: float,
        steps: int,
        delta: float,
    ) -> Claim:
        """The claim with its ε, by the accountant that a manifest's ε comes from."""
        event = MechanismEvent(expected_batch_size / examples, noise_multiplier, steps)
        epsilon = PLD.epsilon([event], delta)
        return cls(examples, expected_batch_size, sensitivity, noise_multiplier, steps, delta, epsilon)

    @property
    def sample_rate(self) -> float:
        """Q = B/n."""
        return self.expected_batch_size / self.examples

    @property
    def event(self) -> MechanismEvent:
        """The record that ε follows from."""
        return MechanismEvent(self.sample_rate, self.noise_multiplier, self.steps)

    @property
    def noise_on_release(self) -> float:
        """Standard deviation of the noise on a released gradient: σ·S/B."""
        return self.noise_multiplier * self.sensitivity / self.expected_batch_size

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "sample_rate": self.sample_rate,
            "noise_multiplier": self.noise_multiplier,
            "sensitivity": self.sensitivity,
            "steps": self.steps,
            "examples": self.examples,
            "expected_batch_size": self.expected_batch_size,
            "adjacency": self.event.adjacency,
        }
