"""Sample rate, steps and δ, derived once from n, batch size and epochs; without torch, for ``dpft plan``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dpft.errors import PrivacyError, UsageError
from dpft.runs.manifest_parts import DELTA_CHOSEN, DELTA_FROM_DECLARED_ROWS, DELTA_FROM_ROWS
from dpft.spec import OptimisationSpec, PrivacySpec

__all__ = ["Schedule", "derive_schedule", "schedule_for"]

_USUAL_BATCH = 1024
_LEAST_STEPS_PER_EPOCH = 16  # of a small dataset: fewer, larger batches would leave too few steps to learn in


@dataclass(frozen=True)
class Schedule:
    """What follows from n (or a public estimate of it), batch size and epochs, derived once.

    Attributes:
        examples: n; where n is private, the declared N in its place, so that nothing here depends on n.
        expected_batch_size: B.
        sample_rate: q = B/n.
        steps: ⌈epochs·n/B⌉.
        delta: δ.
        delta_rule: how δ was chosen, in words.
        declared: whether ``examples`` is a declared estimate.
    """

    examples: int
    expected_batch_size: int
    sample_rate: float
    steps: int
    delta: float
    delta_rule: str
    declared: bool = False


def derive_schedule(
    examples: int, optimisation: OptimisationSpec, target_delta: float | None, *, declared: bool = False
) -> Schedule:
    """Derive q, steps and δ.

    Args:
        examples: n, or a public estimate of it.
        optimisation: batch size and epochs.
        target_delta: δ; None for 1/(2n).
        declared: whether ``examples`` is an estimate.

    Raises:
        UsageError: no examples, or an expected batch larger than the dataset (never silently reduced: q would
            not be what the user asked for).
        PrivacyError: δ is so large that the guarantee would be empty.
    """
    if not examples >= 1:
        raise UsageError(
            f"the training split has {examples} examples", hint="give a dataset with training rows"
        )
    whose = "examples of --public-n" if declared else "training examples"
    batch = optimisation.batch_size
    if batch is None:
        batch = min(_USUAL_BATCH, max(1, examples // _LEAST_STEPS_PER_EPOCH))
    if not batch <= examples:
        raise UsageError(
            f"--batch-size {batch} is larger than the {examples} {whose}",
            hint=f"give a --batch-size of at most {examples}",
        )
    delta = target_delta if target_delta is not None else 1 / (2 * examples)
    rule = DELTA_CHOSEN
    if target_delta is None:
        rule = DELTA_FROM_DECLARED_ROWS if declared else DELTA_FROM_ROWS
    if not delta < 1 / examples:
        raise PrivacyError(
            f"delta {delta:g} is not below 1/n = {1 / examples:g}: it would allow publishing a whole example",
            hint=f"give a --target-delta below {1 / examples:.2g}, or leave it out for 1/(2n)",
        )
    steps = math.ceil(optimisation.epochs * examples / batch)
    return Schedule(examples, batch, batch / examples, steps, delta, rule, declared)


def schedule_for(examples: int, optimisation: OptimisationSpec, privacy: PrivacySpec) -> Schedule:
    """What a run plans with: :func:`derive_schedule` of n, or of the number declared for it."""
    declared = privacy.public_n if privacy.enabled else None
    return derive_schedule(
        declared or examples,
        optimisation,
        privacy.target_delta if privacy.enabled else None,
        declared=declared is not None,
    )
