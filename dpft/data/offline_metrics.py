"""Metrics that compute here. ``evaluate.load`` would fetch each metric's script from a hub first.

Importing this module imports ``evaluate``, and with it transformers' pipelines (seconds), so
:mod:`dpft.data.metrics` does so only when something is scored.
"""

from __future__ import annotations

from typing import Any, ClassVar

import datasets
import evaluate
from sklearn.metrics import accuracy_score, f1_score

__all__ = ["F1", "METRICS", "Accuracy"]


class _OfflineMetric(evaluate.Metric):  # type: ignore[misc]
    """A metric over integer predictions and references."""

    description: ClassVar[str]

    def _info(self) -> Any:
        label = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description="predictions and references: label integers, one per row",
            features=datasets.Features(predictions=label, references=label),
        )


class Accuracy(_OfflineMetric):
    """The share of rows whose prediction is the reference."""

    description = "share of rows predicted right"

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(_OfflineMetric):
    """The harmonic mean of precision and recall of label 1; 0 where neither is defined."""

    description = "harmonic mean of precision and recall of label 1"

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        score = f1_score(references, predictions, labels=[1], average=None, zero_division=0.0)[0]
        return {"f1": float(score)}


METRICS: dict[str, type[_OfflineMetric]] = {"accuracy": Accuracy, "f1": F1}
