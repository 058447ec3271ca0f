"""Figures against scikit-learn's and against hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from engines.training.calibration import expected_calibration_error
from engines.training.evaluation import metrics


def test_ties_count_half_and_a_missing_class_has_no_area() -> None:
    assert metrics.auroc(np.array([0.2, 0.5, 0.5, 0.9]), np.array([False, False, True, True])) == pytest.approx(0.875)
    assert np.isnan(metrics.auroc(np.array([0.2, 0.5]), np.array([True, True])))


def test_brier_is_what_scikit_learn_says() -> None:
    rng = np.random.default_rng(0)
    score, positive = rng.random(500), rng.random(500) < 0.3
    assert metrics.brier(score, positive) == pytest.approx(brier_score_loss(positive, score))


def test_the_alarm_score_sums_the_alarm_classes_and_is_by_default_all_but_the_first() -> None:
    probability = np.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]])
    labels, cluster = np.array([2, 1]), np.array([0, 1])
    assert metrics.Prediction(probability=probability, labels=labels, cluster=cluster).score == pytest.approx([0.5, 0.9])
    last = metrics.Prediction(probability=probability, labels=labels, cluster=cluster, alarm_classes=(2,))
    assert last.score == pytest.approx([0.3, 0.3])
    assert last.positive.tolist() == [True, False]


@pytest.mark.parametrize(
    ("probability", "labels", "named"),
    [(np.ones((2, 2)) / 2, np.array([0, 2]), "labels"), (np.full((2, 2), np.nan), np.array([0, 1]), "finite")],
)
def test_a_prediction_that_cannot_be_is_refused(probability: metrics.Floats, labels: np.ndarray, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        metrics.Prediction(probability=probability, labels=labels, cluster=np.zeros(2, np.int64))


def test_the_threshold_at_a_sensitivity_is_the_highest_that_reaches_it() -> None:
    score, positive = np.arange(100) / 100, np.ones(100, np.bool_)
    threshold = metrics.threshold_at_sensitivity(score, positive, 0.95)
    assert (score >= threshold).mean() == 0.95


def test_reliability_bins_add_up_to_the_calibration_error() -> None:
    rng = np.random.default_rng(1)
    score = rng.random(4000)
    prediction = metrics.binary_prediction(score, rng.random(4000) < 0.5, np.zeros(4000, np.int64))
    summed = sum(b.share * abs(b.confidence - b.accuracy) for b in metrics.reliability(prediction))
    assert summed == pytest.approx(expected_calibration_error(prediction.probability, prediction.labels))
    assert summed > 0.05


def test_a_thinned_curve_keeps_its_ends_and_its_area() -> None:
    rng = np.random.default_rng(2)
    positive = rng.random(20_000) < 0.1
    score = rng.normal(positive * 1.5, 1)
    prediction = metrics.binary_prediction(1 / (1 + np.exp(-score)), positive, np.zeros(20_000, np.int64))
    curve = metrics.receiver_curve(prediction)
    assert len(curve.x) <= metrics.CURVE_POINTS + 2
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(roc_auc_score(positive, score), abs=0.003)
