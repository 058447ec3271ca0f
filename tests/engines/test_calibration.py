"""Temperatures and figures."""

from __future__ import annotations

import numpy as np

from engines.training import calibration


def overconfident(temperature: float, count: int = 40_000) -> tuple[calibration.Logits, calibration.Labels]:
    """Logits that are right when divided by ``temperature``."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (count, 3))
    probability = calibration.probabilities(honest)
    labels = (rng.random((count, 1)) > probability.cumsum(axis=1)).sum(axis=1)
    return honest * temperature, labels.astype(np.int64)


def test_the_fitted_temperature_is_the_one_by_which_logits_are_too_large() -> None:
    for temperature in (0.5, 1.0, 3.0):
        assert abs(calibration.fitted_temperature(*overconfident(temperature)) / temperature - 1) < 0.05


def test_calibration_error_falls_to_nothing_at_the_right_temperature() -> None:
    logits, labels = overconfident(3.0)
    assert calibration.expected_calibration_error(calibration.probabilities(logits), labels) > 0.1
    assert calibration.expected_calibration_error(calibration.probabilities(logits / 3.0), labels) < 0.01


def test_balanced_accuracy_counts_every_class_alike() -> None:
    labels = np.array([0] * 98 + [1] * 2)
    assert calibration.balanced_accuracy(np.zeros(100, np.int64), labels) == 0.5


def test_every_subset_but_the_empty_one_is_listed_once_with_all_streams_first() -> None:
    subsets = calibration.stream_subsets(4)
    assert subsets[0] == (True,) * 4
    assert len(set(subsets)) == len(subsets) == 15
    assert (False,) * 4 not in subsets
