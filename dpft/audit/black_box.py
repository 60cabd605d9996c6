"""Layer 3: what someone without access to gradients sees. Informational: it decides nothing.

The texts of the synthetic dataset are random tokens with random labels, half of them (each by its own fair
coin) trained on: only remembering them can lower their loss. An attack from losses is much weaker than one
from gradients, so that a small number here is no evidence of privacy; a large one would be of the opposite.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from dpft.audit.bench import Bench
from dpft.audit.one_run import epsilon_lower_bound
from dpft.audit.result import Check
from dpft.audit.simulate import LEVEL, right_guesses
from dpft.engines.base import example_losses

__all__ = ["judge_losses", "text_losses"]

_GUESSES_PER_TEXT = 0.25


@torch.no_grad()
def text_losses(bench: Bench) -> npt.NDArray[np.float64]:
    """Loss of every text, in or out, under the model as it is; at float32, as all scores are."""
    subject = bench.subject
    rows = np.arange(subject.rows.canaries, subject.rows.split.rows)
    parts = np.array_split(rows, max(1, len(rows) // 32))
    losses = [example_losses(subject.model, subject.batch(part), "fp32") for part in parts]
    return torch.cat(losses).double().numpy()


def judge_losses(bench: Bench, before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> Check:
    """Membership guessed from how far training lowered each text's loss."""
    coins = bench.subject.rows.coins[bench.subject.rows.canaries :]
    drops = before - after
    scores = drops - np.median(drops)
    guesses = max(1, int(_GUESSES_PER_TEXT * len(coins)))
    right = int(right_guesses(scores, coins, guesses))
    bound = epsilon_lower_bound(len(coins), guesses, right, bench.claim.delta, level=LEVEL)
    inside, outside = scores[coins], scores[~coins]
    wins = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    area = float(wins) if len(inside) and len(outside) else 0.5
    return Check(
        "mislabelled texts",
        "black-box",
        "informational",
        f"from {len(coins)} losses: AUC {area:.3f}, {right} of {guesses} guesses right, ε ≥ {bound:.3f}",
        area,
        numbers={"epsilon_lower_bound": bound, "guesses": guesses, "right": right},
    )
