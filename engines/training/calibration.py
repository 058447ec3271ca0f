"""Calibrations that make probabilities honest, and the figures that say how honest they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from engines.manifest import Calibration

Logits = NDArray[np.float64]
Labels = NDArray[np.int64]
Rows = NDArray[np.int64]
BIAS_WEIGHT = 1e-3
MOST_RISES, MOST_ERROR = 0.06, 0.04
"""Of all removals of a stream, how many may raise confidence; and the calibration error that this may not cost. Both are tighter
than what is promised (0.10 and 0.05): they are kept on validation runs, the promise is of others."""


def stream_subsets(streams: int) -> list[tuple[bool, ...]]:
    """Every availability mask but the empty one, all streams first."""
    return [present for present in product((True, False), repeat=streams) if any(present)]


def fitted_calibration(logits: Logits, labels: Labels) -> Calibration:
    """Temperature and bias with the least negative log likelihood of ``labels [n]`` under ``logits [n, classes]``; no doubt.

    Bias-corrected temperature scaling (Alexandari et al., 2020): a temperature alone cannot mend a class that is called too
    often. The temperature stays between 1/8 and 8; a small weight on the bias keeps it finite where a class does not occur.
    """
    classes = logits.shape[1]
    truth = np.eye(classes)[labels]

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scale, bias = np.exp(values[0]), values[1:]
        scaled = logits * scale + bias
        shifted = scaled - scaled.max(axis=1, keepdims=True)
        total = np.exp(shifted).sum(axis=1, keepdims=True)
        gap = (np.exp(shifted) / total - truth) / len(labels)
        nll = float((np.log(total) - (shifted * truth).sum(axis=1, keepdims=True)).mean())
        slope = np.concatenate([[float((gap * logits).sum()) * scale], gap.sum(axis=0) + 2 * BIAS_WEIGHT * bias])
        return nll + BIAS_WEIGHT * float(bias @ bias), slope

    bounds = [(-np.log(8), np.log(8))] + [(None, None)] * classes
    found = minimize(loss, np.zeros(1 + classes), jac=True, method="L-BFGS-B", bounds=bounds).x
    return Calibration(temperature=round(float(np.exp(-found[0])), 4), bias=tuple(round(float(b), 4) for b in found[1:]))


def doubted(calibration: Calibration, logits: Logits, labels: Labels, before: Sequence[tuple[Logits, Rows]]) -> Calibration:
    """The same with the least doubt by which confidence rises on few removals (`MOST_RISES`), as far as it stays calibrated.

    ``before``: for each stream that this mask lacks, the probabilities ``[n, classes]`` of the mask that has it too, and the
    ticks at which that stream was there to be removed. Where both cannot be had calibration wins: the doubt ends where the
    calibration error would pass `MOST_ERROR`.
    """
    plain = calibration.probabilities(logits)
    confidence, even = plain.max(axis=1), 1.0 / plain.shape[1]
    most = 0.0
    for probability, rows in before:
        if len(rows):
            needed = (confidence[rows] - probability[rows].max(axis=1)) / np.maximum(confidence[rows] - even, 1e-9)
            most = max(most, float(np.quantile(needed, 1.0 - MOST_RISES)))

    def with_doubt(doubt: float) -> Calibration:
        return calibration.model_copy(update={"doubt": round(min(doubt, 1.0), 4)})

    least = 0.0
    if expected_calibration_error(with_doubt(most).probabilities(logits), labels) <= MOST_ERROR:
        return with_doubt(most)
    for _ in range(14):
        middle = (least + most) / 2
        if expected_calibration_error(with_doubt(middle).probabilities(logits), labels) <= MOST_ERROR:
            least = middle
        else:
            most = middle
    return with_doubt(least)


def fitted_threshold(probability: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The probability ``[n]`` from which a class is best called: the largest F1 against ``positive [n]``; 0.3 to 0.9.

    0.5 where the class does not occur.
    """
    if not positive.any():
        return 0.5
    candidates = np.linspace(0.3, 0.9, 61)
    called = probability[:, None] >= candidates
    hits = (called & positive[:, None]).sum(axis=0)
    f1 = 2 * hits / (called.sum(axis=0) + positive.sum())
    best = np.flatnonzero(f1 >= f1.max() - 1e-3)  # the middle of a plateau is the most robust
    return float(candidates[best[len(best) // 2]])


def expected_calibration_error(probability: Logits, labels: Labels, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the top probability (Naeini et al., 2015)."""
    top, hit = probability.max(axis=1), probability.argmax(axis=1) == labels
    place = np.minimum((top * bins).astype(int), bins - 1)
    gaps = [abs(top[place == b].mean() - hit[place == b].mean()) * np.mean(place == b) for b in np.unique(place)]
    return float(np.sum(gaps))


def balanced_accuracy(predicted: Labels, labels: Labels) -> float:
    """Mean recall over the classes that occur."""
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))
