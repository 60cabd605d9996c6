"""The one sentence a manifest begins with, made from its fields so that it cannot say anything else."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Context, Decimal

__all__ = [
    "NOTHING_CLAIMED",
    "NOTHING_RELEASED",
    "NOT_PRIVATE",
    "SEVERAL_RUNS",
    "round_up_delta",
    "round_up_epsilon",
    "statement_for",
]

NOTHING_CLAIMED = "no valid (ε, δ) claimed"
NOTHING_RELEASED = (
    "Nothing was released: the run ended before its first noisy step, so no weights depend on any example."
)
NOT_PRIVATE = (
    "This model was trained without differential privacy: nothing is promised about what it reveals of its "
    "training examples."
)
SEVERAL_RUNS = (
    "This speaks of one run alone: several runs on the same data compose, and releasing them, or choosing "
    "the best of them, reveals more than any one does."
)

_RELEASED = {
    "final-adapter": "the released adapter",
    "checkpoints": "the released adapter and its checkpoints",
}
_PROTECTED = {
    "add-or-remove-one": "Whether any one example ({example}) was in the training data",
    "replace-one": "Which content any one example ({example}) of the training data had",
}


_EXACT = Context(prec=400, rounding=ROUND_CEILING)  # digits enough for any float


def round_up_epsilon(epsilon: float) -> str:
    """ε with 4 decimals, never below its value.

    >>> round_up_epsilon(7.99901)
    '7.9991'
    """
    return str(Decimal(repr(epsilon)).quantize(Decimal("0.0001"), context=_EXACT))


def round_up_delta(delta: float) -> str:
    """δ with 3 significant digits, never below its value.

    >>> round_up_delta(7.4240e-6)
    '7.43e-06'
    """
    exact = Decimal(repr(delta))
    rounded = exact.quantize(Decimal((0, (1,), exact.adjusted() - 2)), context=_EXACT)
    return f"{float(rounded):.2e}"


def statement_for(
    *,
    private: bool,
    assumptions_hold: bool = True,
    example: str = "",
    adjacency: str = "add-or-remove-one",
    release: str = "final-adapter",
    epsilon: float | None = None,
    delta: float | None = None,
    steps: int = 0,
    steps_planned: int = 0,
    not_covered: Sequence[str] = (),
    superseding_epsilon: float | None = None,
) -> str:
    """Say what is protected, from whom, and how well.

    Args:
        private: whether training was differentially private.
        assumptions_hold: whether what ran is what was accounted for.
        example: what one example is, in words.
        adjacency: ``add-or-remove-one`` or ``replace-one``.
        release: ``final-adapter`` or ``checkpoints``.
        epsilon: ε of the steps taken; rounded up to 4 decimals.
        delta: δ; rounded up to 3 significant digits.
        steps: really taken.
        steps_planned: of the schedule; told where fewer were taken.
        not_covered: uses and releases of data that the guarantee leaves out.
        superseding_epsilon: ε against whoever also has an earlier adapter of the run, made of other steps;
            None where there was none.

    Returns:
        One sentence. Where nothing valid can be claimed it is exactly ``NOTHING_CLAIMED``; so also where ε or
        δ is missing.
    """
    if not private:
        return NOT_PRIVATE
    if not assumptions_hold:
        return NOTHING_CLAIMED
    if steps == 0:
        return NOTHING_RELEASED
    if epsilon is None or delta is None:
        return NOTHING_CLAIMED
    subject = _PROTECTED[adjacency].format(example=example)
    sentence = (
        f"{subject} is protected from anyone who sees {_RELEASED[release]}, by differential privacy "
        f"with ε ≤ {round_up_epsilon(epsilon)} and δ ≤ {round_up_delta(delta)} under {adjacency} adjacency"
    )
    if steps < steps_planned:
        sentence += f", for the {steps} of {steps_planned} planned steps that were taken"
    if superseding_epsilon is not None:
        sentence += (
            "; an earlier adapter of this run was made of other steps in part: against anyone who sees both "
            f"it is ε ≤ {round_up_epsilon(superseding_epsilon)}"
        )
    if not_covered:
        sentence += f"; this does not cover: {', '.join(not_covered)}"
    return sentence + "."
