"""How good predictions are, how sure one can be of it, and whether they are predictions at all."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from dpft.data.task import Task
from dpft.errors import DataError

__all__ = [
    "METRIC_NAMES",
    "Labels",
    "compute_metrics",
    "is_single_class_collapse",
    "majority_baseline",
    "wilson_interval",
]

METRIC_NAMES = ("accuracy", "f1")

Labels = Sequence[int] | npt.NDArray[np.integer]
"""Label integers, one per row."""


def compute_metrics(task: Task, predictions: Labels, references: Labels) -> dict[str, float]:
    """Score predictions by each of the task's metrics, offline and without leaving files behind.

    Args:
        task: names its metrics.
        predictions: predicted labels.
        references: true labels, as many.

    Returns:
        Metric name to value between 0 and 1.

    Raises:
        DataError: there are no rows, or not as many predictions as references.
    """
    predicted, true = _labels(predictions), _labels(references)
    if len(predicted) != len(true):
        raise DataError(f"{len(predicted)} predictions for {len(true)} rows")

    from dpft.data.offline_metrics import METRICS

    scores: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="dpft-") as scratch:  # evaluate makes a folder come what may
        for name in task.metrics:
            metric = METRICS[name](keep_in_memory=True, cache_dir=scratch)
            scores |= metric.compute(predictions=predicted, references=true)
    return scores


def majority_baseline(references: Labels) -> float:
    """The accuracy of always predicting the most frequent label.

    >>> majority_baseline([0, 1, 1, 1])
    0.75

    Raises:
        DataError: there are no rows.
    """
    true = _labels(references)
    return float(np.bincount(true).max() / len(true))


def is_single_class_collapse(predictions: Labels) -> bool:
    """Whether a model predicts one label whatever it reads, as one does that noise has overcome.

    A single row is no evidence of it.

    >>> [is_single_class_collapse(predictions) for predictions in ([1, 1, 1], [1, 0, 1], [1])]
    [True, False, False]
    """
    predicted = np.asarray(predictions)
    return len(predicted) > 1 and bool((predicted == predicted[0]).all())


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """A confidence interval for a share, good also for few rows and for shares near 0 and 1.

    The score interval of Wilson (1927), "Probable inference, the law of succession, and statistical
    inference", J. Am. Stat. Assoc. 22.

    Args:
        correct: how many of the rows were predicted right.
        n: how many rows.
        confidence: how often, over repeated samples, the interval holds the true share.

    Returns:
        Its lower and upper end, within [0, 1].

    Raises:
        DataError: not 0 ≤ correct ≤ n with n ≥ 1, or not 0 < confidence < 1.
    """
    if not (n >= 1 and 0 <= correct <= n):
        raise DataError(f"no interval for {correct} right of {n} rows")
    if not 0 < confidence < 1:
        raise DataError(f"confidence must lie between 0 and 1, not be {confidence}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (0.0 if correct == 0 else centre - reach, 1.0 if correct == n else centre + reach)


def _labels(values: Labels) -> npt.NDArray[np.int64]:
    labels = np.asarray(values)
    if not len(labels):
        raise DataError("no rows to score")
    return labels.astype(np.int64)
