"""Who is in a step, and how a logical batch is cut into pieces that fit through the model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dpft.errors import UsageError
from dpft.privacy.noise import KeyStream

__all__ = ["PoissonSampler", "ShuffleSampler", "micro_batches"]

Indices = npt.NDArray[np.int64]


class PoissonSampler:
    """Each example joins each step by its own coin of probability q, independently of everything else.

    This is the sampler the accountant assumes. It draws from the keyed stream: amplification by sampling
    counts only while nobody can tell who was sampled.

    Args:
        examples: n.
        sample_rate: q.
        stream: keyed randomness.
    """

    description = "Poisson: each example independently with probability sample_rate"

    def __init__(self, examples: int, sample_rate: float, stream: KeyStream) -> None:
        self.examples = examples
        self.sample_rate = sample_rate
        self._stream = stream

    def draw(self) -> Indices:
        """Indices of the examples in the next step, ascending; may be empty."""
        return np.flatnonzero(self._stream.uniforms(self.examples) <= self.sample_rate)


class ShuffleSampler:
    """Fixed-size batches over a fresh permutation per epoch: for training without privacy only.

    Args:
        examples: n.
        batch_size: examples per step; the last batch of an epoch may be smaller.
        seed: of the permutations.
    """

    description = "shuffled epochs"

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        self._examples = examples
        self._batch_size = batch_size
        self._generator = np.random.default_rng(seed)
        self._order: Indices = np.empty(0, dtype=np.int64)

    def draw(self) -> Indices:
        """Indices of the examples in the next step."""
        if not len(self._order):
            self._order = self._generator.permutation(self._examples)
        batch, self._order = self._order[: self._batch_size], self._order[self._batch_size :]
        return np.sort(batch)

    def skip(self, steps: int) -> None:
        """Pass over ``steps`` draws, as :meth:`draw` would have made them; permutations are all it costs."""
        for _ in range(steps):
            self.draw()


def micro_batches(indices: Indices, lengths: npt.NDArray[np.integer], token_budget: int) -> Iterator[Indices]:
    """Cut a logical batch into length-sorted pieces of at most ``token_budget`` tokens, padding included.

    Sorting by length keeps padding small; it changes only the order of a sum. An example longer than the
    budget goes through alone.

    Args:
        indices: the logical batch.
        lengths: tokens of every example of the dataset.
        token_budget: the most tokens of one piece: longest length × number of examples.

    Yields:
        Index arrays that partition ``indices``; nothing for an empty batch.

    Raises:
        UsageError: the budget is not positive.
    """
    if not token_budget >= 1:
        raise UsageError(
            f"micro_batch_tokens is {token_budget}", hint="give a --micro-batch-tokens of 1 or more"
        )
    ordered = indices[np.argsort(lengths[indices], kind="stable")[::-1]]
    start = 0
    while start < len(ordered):
        longest = max(1, int(lengths[ordered[start]]))
        size = max(1, token_budget // longest)
        yield ordered[start : start + size]
        start += size
