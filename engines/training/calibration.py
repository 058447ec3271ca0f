"""Temperatures that make probabilities honest, and the figures that say how honest they are."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float64]
Labels = NDArray[np.int64]


def stream_subsets(streams: int) -> list[tuple[bool, ...]]:
    """Every availability mask but the empty one, all streams first."""
    return [present for present in product((True, False), repeat=streams) if any(present)]


def fitted_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature with the least negative log likelihood of ``labels [n]`` under ``logits [n, classes]``.

    Golden-section search over ln T (Guo et al., 2017, use one scalar too); between 1/8 and 8.
    """
    low, high = -np.log(8), np.log(8)
    ratio = (5**0.5 - 1) / 2
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _negative_log_likelihood(logits / np.exp(left), labels) < _negative_log_likelihood(logits / np.exp(right), labels):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


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


def probabilities(logits: Logits) -> Logits:
    """Softmax over the last axis."""
    exponential = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Logits = exponential / exponential.sum(axis=-1, keepdims=True)
    return result


def expected_calibration_error(probability: Logits, labels: Labels, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the top probability (Naeini et al., 2015)."""
    top, hit = probability.max(axis=1), probability.argmax(axis=1) == labels
    place = np.minimum((top * bins).astype(int), bins - 1)
    gaps = [abs(top[place == b].mean() - hit[place == b].mean()) * np.mean(place == b) for b in np.unique(place)]
    return float(np.sum(gaps))


def balanced_accuracy(predicted: Labels, labels: Labels) -> float:
    """Mean recall over the classes that occur."""
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))


def _negative_log_likelihood(logits: Logits, labels: Labels) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sum - shifted[np.arange(len(labels)), labels]).mean())
