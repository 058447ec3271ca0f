"""Figures of one prediction against the truth.

Areas and curves are scikit-learn's; resampling by cluster needs other ways, see `engines.training.evaluation.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from engines.training.calibration import expected_calibration_error

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

BINS = 15
"""Equal-width bins of confidence for the calibration error."""
CURVE_POINTS = 200
"""Curves are thinned to at most so many points: the report carries them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What one predictor said about one head, with the truth, by tick.

    ``probability`` ``[n, classes]`` sums to 1 a row; ``labels`` ``[n]``; ``cluster`` ``[n]`` is what ticks belong together
    (the run's world seed). The alarm classes are those whose summed probability is the score, by default all but the first.
    Raises ValueError when lengths differ, a probability is not finite, or a label is out of range.
    """

    probability: Floats
    labels: NDArray[np.integer[Any]]
    cluster: NDArray[np.integer[Any]]
    alarm_classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes and ranges."""
        if self.probability.ndim != 2 or not len(self.probability) == len(self.labels) == len(self.cluster):
            shapes = (self.probability.shape, self.labels.shape, self.cluster.shape)
            raise ValueError(f"probability, labels and cluster have shapes {shapes}; use [n, classes], [n] and [n]")
        if not np.isfinite(self.probability).all():
            raise ValueError("probability: not all values are finite")
        classes = self.probability.shape[1]
        if len(self.labels) and (int(self.labels.min()) < 0 or int(self.labels.max()) >= classes):
            raise ValueError(f"labels: {int(self.labels.min())} to {int(self.labels.max())} in {classes} classes")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def alarms(self) -> tuple[int, ...]:
        """The alarm classes."""
        return self.alarm_classes or tuple(range(1, self.probability.shape[1]))

    @property
    def score(self) -> NDArray[np.float64]:
        """Probability of an alarm class, ``[n]``."""
        result: NDArray[np.float64] = self.probability[:, list(self.alarms)].sum(axis=1, dtype=np.float64)
        return result

    @property
    def positive(self) -> Flags:
        """Whether an alarm class is true, ``[n]``."""
        return np.isin(self.labels, self.alarms)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Top probability, ``[n]``."""
        result: NDArray[np.float64] = self.probability.max(axis=1).astype(np.float64)
        return result

    @property
    def hit(self) -> Flags:
        """Whether the top class is true, ``[n]``."""
        result: Flags = self.probability.argmax(axis=1) == self.labels
        return result

    def at(self, rows: NDArray[Any]) -> Prediction:
        """The same of some ticks: indices or flags."""
        return Prediction(
            probability=self.probability[rows],
            labels=self.labels[rows],
            cluster=self.cluster[rows],
            alarm_classes=self.alarm_classes,
        )


def binary_prediction(score: Floats, positive: NDArray[Any], cluster: NDArray[np.integer[Any]]) -> Prediction:
    """A prediction of two classes from the probability ``[n]`` of the second."""
    probability = np.stack([1.0 - score, score], axis=1)
    return Prediction(probability=probability, labels=np.asarray(positive, dtype=np.int64), cluster=cluster)


def auroc(score: Floats, positive: Flags) -> float:
    """Area under the receiver's curve; ties count half. NaN where one class is missing."""
    if not _has_both(positive):
        return float("nan")
    return float(roc_auc_score(positive, score))


def auprc(score: Floats, positive: Flags) -> float:
    """Average precision: the step-wise area under precision over recall. NaN where one class is missing."""
    if not _has_both(positive):
        return float("nan")
    return float(average_precision_score(positive, score))


def brier(score: Floats, positive: Flags) -> float:
    """Mean squared difference of the alarm's probability and its truth (Brier, 1950)."""
    return float(np.mean((score - positive) ** 2)) if len(score) else float("nan")


def measured(prediction: Prediction, measure: str) -> float:
    """AUROC, AUPRC or Brier of the alarm, or ECE of the top class."""
    if measure == "ece":
        return calibration_error(prediction)
    return {"auroc": auroc, "auprc": auprc, "brier": brier}[measure](prediction.score, prediction.positive)


def calibration_error(prediction: Prediction) -> float:
    """Expected calibration error of the top class in `BINS` bins."""
    if not len(prediction):
        return float("nan")
    probability, labels = prediction.probability.astype(np.float64), prediction.labels.astype(np.int64)
    return expected_calibration_error(probability, labels, BINS)


def threshold_at_sensitivity(score: Floats, positive: Flags, sensitivity: float = 0.95) -> float:
    """The highest threshold that at least this share of true ticks reaches. Raises ValueError without a true tick."""
    reached = np.sort(score[positive])[::-1]
    if not len(reached):
        raise ValueError("no tick is true: there is no sensitivity")
    return float(reached[max(int(np.ceil(sensitivity * len(reached) - 1e-9)), 1) - 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points of a curve, at most `CURVE_POINTS`; ``x`` and ``y`` say what they are in the owner's text."""

    x: tuple[float, ...]
    y: tuple[float, ...]


def receiver_curve(prediction: Prediction) -> Curve:
    """Sensitivity (y) over the share of false ticks that alarm (x)."""
    x, y, _ = roc_curve(prediction.positive, prediction.score)
    return thinned(x, y)


def precision_curve(prediction: Prediction) -> Curve:
    """Precision (y) over recall (x), recall rising."""
    y, x, _ = precision_recall_curve(prediction.positive, prediction.score)
    return thinned(x[::-1], y[::-1])


def thinned(x: Floats, y: Floats, points: int = CURVE_POINTS) -> Curve:
    """At most ``points`` points, evenly along the drawn curve so that corners stay."""
    if len(x) > points:
        spans = np.ptp(x) or 1.0, np.ptp(y) or 1.0
        walked = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x) / spans[0], np.diff(y) / spans[1]))])
        keep = np.unique(np.searchsorted(walked, np.linspace(0, walked[-1], points)))
        keep = np.unique(np.append(keep[keep < len(x)], [0, len(x) - 1]))
        x, y = x[keep], y[keep]
    return Curve(x=tuple(float(v) for v in x), y=tuple(float(v) for v in y))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """One bin of confidence: mean confidence in it, share of hits, share of all ticks."""

    confidence: float
    accuracy: float
    share: float


def reliability(prediction: Prediction, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """The bins of the calibration error that hold a tick, confidence rising."""
    confidence, hit = prediction.confidence, prediction.hit
    place = confidence_bins(confidence, bins)
    count = np.bincount(place, minlength=bins)
    held = np.flatnonzero(count)
    sums = np.bincount(place, weights=confidence, minlength=bins), np.bincount(place, weights=hit, minlength=bins)
    return tuple(
        ReliabilityBin(confidence=sums[0][b] / count[b], accuracy=sums[1][b] / count[b], share=count[b] / len(prediction))
        for b in held
    )


def confidence_bins(confidence: Floats, bins: int = BINS) -> NDArray[np.int64]:
    """Which equal-width bin each confidence lies in."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def by_subset(probability: Mapping[str, Floats], truth: Prediction) -> dict[str, Prediction]:
    """The predictions of one head by availability mask (``"1011"``), with the truth that ``truth`` holds."""
    return {
        mask: Prediction(probability=found, labels=truth.labels, cluster=truth.cluster, alarm_classes=truth.alarm_classes)
        for mask, found in probability.items()
    }


def _has_both(positive: Flags) -> bool:
    return bool(positive.any()) and not bool(positive.all())
