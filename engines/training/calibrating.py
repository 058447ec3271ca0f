"""Temperatures and thresholds of every availability mask, fitted on validation runs, and the figures of the model card."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.manifest import mask_key
from engines.networks.layout import FusionLayout
from engines.networks.variant import FusionNetwork
from engines.training.calibration import (
    balanced_accuracy,
    expected_calibration_error,
    fitted_temperature,
    fitted_threshold,
    probabilities,
    stream_subsets,
)
from engines.training.fusing import predict
from engines.training.token_set import TokenSet

Figures = dict[str, dict[str, dict[str, float]]]
"""Head, then mask (``"1011"``), then measure."""


def calibrate(network: FusionNetwork, layout: FusionLayout, tokens: TokenSet) -> tuple[list[dict[str, Any]], Figures]:
    """The manifest's heads with temperature and thresholds for every mask, and figures.

    Figures are two-fold: a run's probabilities have a temperature that was fitted on the other half of the runs. The manifest
    gets the temperature of all.
    """
    folds = np.asarray(tokens.run) % 2
    logits = {p: predict(network, tokens, present=p) for p in stream_subsets(len(layout.streams))}
    heads: list[dict[str, Any]] = []
    figures: Figures = {}
    for head, labels in layout.heads.items():
        truth = np.asarray(tokens.labels[head]).astype(np.int64)
        temperatures: dict[str, float] = {}
        thresholds: dict[str, dict[str, float]] = {}
        figures[head] = {}
        for present, by_head in logits.items():
            found, mask = by_head[head].astype(np.float64), mask_key(present)
            temperatures[mask] = round(fitted_temperature(found, truth), 4)
            whole = probabilities(found / temperatures[mask])
            thresholds[mask] = {
                label: round(fitted_threshold(whole[:, index], truth == index), 3) for index, label in enumerate(labels) if index
            }
            calibrated = np.empty_like(found)
            for fold in (0, 1):
                there = folds == fold
                calibrated[there] = probabilities(found[there] / fitted_temperature(found[~there], truth[~there]))
            figures[head][mask] = _figures(calibrated, truth)
        heads.append(
            {
                "name": head,
                "output": f"{head}_logits",
                "labels": list(labels),
                "temperature": temperatures["1" * len(layout.streams)],
                "temperature_by_mask": temperatures,
                "thresholds_by_mask": thresholds,
            }
        )
    return heads, figures


def _figures(calibrated: NDArray[np.float64], truth: NDArray[np.int64]) -> dict[str, float]:
    predicted = calibrated.argmax(axis=1)
    return {
        "balanced_accuracy": round(balanced_accuracy(predicted, truth), 4),
        "accuracy": round(float((predicted == truth).mean()), 4),
        "mean_top_probability": round(float(calibrated.max(axis=1).mean()), 4),
        "ece": round(expected_calibration_error(calibrated, truth), 4),
    }
