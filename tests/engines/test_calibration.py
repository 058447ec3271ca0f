"""Calibrations and figures."""

from __future__ import annotations

import numpy as np

from engines.manifest import Calibration
from engines.training import calibration

CLASSES = 3


def drawn(honest: calibration.Logits) -> calibration.Labels:
    """Labels as often as ``honest`` logits ``[n, classes]`` say."""
    rng = np.random.default_rng(1)
    probability = Calibration().probabilities(honest)
    return (rng.random((len(honest), 1)) > probability.cumsum(axis=1)).sum(axis=1).astype(np.int64)


def honest_logits(count: int = 40_000, spread: float = 2.0) -> calibration.Logits:
    return np.random.default_rng(0).normal(0, spread, (count, CLASSES))


def test_the_fitted_temperature_is_the_one_by_which_logits_are_too_large() -> None:
    honest = honest_logits()
    for temperature in (0.5, 1.0, 3.0):
        fitted = calibration.fitted_calibration(honest * temperature, drawn(honest))
        assert abs(fitted.temperature / temperature - 1) < 0.05
        np.testing.assert_allclose(fitted.bias, 0, atol=0.06)


def test_the_fitted_bias_mends_a_class_that_is_called_too_often() -> None:
    honest, wrong = honest_logits(), np.array([1.5, 0.0, -1.5])
    labels = drawn(honest)
    fitted = calibration.fitted_calibration(honest + wrong, labels)
    np.testing.assert_allclose(fitted.bias, -wrong, atol=0.08)
    assert calibration.expected_calibration_error(Calibration().probabilities(honest + wrong), labels) > 0.1
    assert calibration.expected_calibration_error(fitted.probabilities(honest + wrong), labels) < 0.01


def test_a_class_that_never_occurs_keeps_the_bias_finite() -> None:
    logits = honest_logits(2000)
    fitted = calibration.fitted_calibration(logits, np.minimum(drawn(logits), 1))
    assert np.isfinite(fitted.bias).all() and fitted.probabilities(logits)[:, 2].max() < 0.2


def test_doubt_makes_few_removals_raise_confidence_and_stays_calibrated() -> None:
    whole = honest_logits()
    labels = drawn(whole)
    noise = np.random.default_rng(2).normal(0, 1.0, whole.shape)
    rows = np.arange(0, len(whole), 2)
    complete = Calibration().probabilities(whole)
    plain = calibration.fitted_calibration(whole + noise, labels)
    found = calibration.doubted(plain, whole + noise, labels, [(complete, rows)])

    def rises(of: Calibration) -> float:
        return float((of.probabilities(whole + noise).max(axis=1) > complete.max(axis=1))[rows].mean())

    assert 0.0 == plain.doubt < found.doubt
    assert rises(found) < rises(plain)
    error = calibration.expected_calibration_error(found.probabilities(whole + noise), labels)
    assert error <= calibration.MOST_ERROR and (
        rises(found) <= calibration.MOST_RISES + 0.01 or error > 0.9 * calibration.MOST_ERROR
    )


def test_no_doubt_where_nothing_was_removed_or_confidence_falls_anyway() -> None:
    logits = honest_logits(2000)
    plain = calibration.fitted_calibration(logits, drawn(logits))
    certain = np.eye(CLASSES)[np.zeros(2000, np.int64)]
    for before in ([], [(certain, np.arange(2000))], [(certain, np.arange(0))]):
        assert calibration.doubted(plain, logits, drawn(logits), before) == plain


def test_balanced_accuracy_counts_every_class_alike() -> None:
    labels = np.array([0] * 98 + [1] * 2)
    assert calibration.balanced_accuracy(np.zeros(100, np.int64), labels) == 0.5


def test_every_subset_but_the_empty_one_is_listed_once_with_all_streams_first() -> None:
    subsets = calibration.stream_subsets(4)
    assert subsets[0] == (True,) * 4
    assert len(set(subsets)) == len(subsets) == 15
    assert (False,) * 4 not in subsets
