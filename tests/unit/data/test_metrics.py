from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from dpft.data import metrics
from dpft.data.tasks.mnli import TASK as MNLI
from dpft.data.tasks.qqp import TASK as QQP
from dpft.errors import DataError


@pytest.mark.slow
def test_scores_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    predicted, true = random.integers(0, 2, 500), random.integers(0, 2, 500)
    scores = metrics.compute_metrics(QQP, predicted, true.tolist())
    assert scores == {"accuracy": accuracy_score(true, predicted), "f1": f1_score(true, predicted)}
    assert scores["accuracy"] != scores["f1"]
    predicted, true = random.integers(0, 3, 500), random.integers(0, 3, 500)
    assert metrics.compute_metrics(MNLI, predicted, true) == {"accuracy": accuracy_score(true, predicted)}


@pytest.mark.slow
def test_f1_is_defined_where_nothing_is_predicted() -> None:
    assert metrics.compute_metrics(QQP, [0, 0], [0, 1]) == {"accuracy": 0.5, "f1": 0.0}
    assert metrics.compute_metrics(QQP, [0, 0], [0, 0]) == {"accuracy": 1.0, "f1": 0.0}


@pytest.mark.slow
def test_names_are_those_of_the_offline_metrics() -> None:
    from dpft.data.offline_metrics import METRICS

    assert tuple(METRICS) == metrics.METRIC_NAMES


@pytest.mark.slow
def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    assert metrics.compute_metrics(QQP, [0, 1, 1], [0, 1, 0])["accuracy"] == pytest.approx(2 / 3)
    assert list(tmp_path.rglob("*")) == [tmp_path / "scratch"]


@pytest.mark.parametrize(("predictions", "references"), [([], []), ([1], [1, 0])])
def test_rows_must_match(predictions: list[int], references: list[int]) -> None:
    with pytest.raises(DataError):
        metrics.compute_metrics(QQP, predictions, references)


def test_majority_baseline() -> None:
    assert metrics.majority_baseline([2, 2, 0, 1, 2]) == 0.6
    assert metrics.majority_baseline(np.array([1])) == 1.0
    with pytest.raises(DataError):
        metrics.majority_baseline([])


def test_single_class_collapse() -> None:
    assert metrics.is_single_class_collapse(np.zeros(9, dtype=np.int64))
    assert not metrics.is_single_class_collapse([0, 0, 1])
    assert not metrics.is_single_class_collapse([])
    assert not metrics.is_single_class_collapse([1])


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 10), (801, 872)])
def test_wilson_interval_is_scipys(correct: int, n: int, confidence: float) -> None:
    low, high = metrics.wilson_interval(correct, n, confidence)
    expected = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= correct / n <= high <= 1


@pytest.mark.parametrize(
    ("correct", "n", "confidence"),
    [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, float("nan"))],
)
def test_wilson_interval_refuses(correct: int, n: int, confidence: float) -> None:
    with pytest.raises(DataError):
        metrics.wilson_interval(correct, n, confidence)
