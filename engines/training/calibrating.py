"""Calibration and thresholds of every availability mask, fitted on validation runs, and the figures of the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.manifest import Calibration, mask_key
from engines.networks.layout import FusionLayout
from engines.networks.variant import FusionNetwork
from engines.training.calibration import (
    Labels,
    Logits,
    balanced_accuracy,
    doubted,
    expected_calibration_error,
    fitted_calibration,
    fitted_threshold,
    stream_subsets,
)
from engines.training.fusing import predict
from engines.training.instants import PRESENT
from engines.training.token_set import TokenSet

Figures = dict[str, dict[str, dict[str, float]]]
"""Head, then mask (``"1011"``), then measure."""


def calibrate(network: FusionNetwork, layout: FusionLayout, tokens: TokenSet) -> tuple[list[dict[str, Any]], Figures]:
    """The manifest's heads with calibration and thresholds for every mask, and figures.

    Figures are two-fold: a run's probabilities have a calibration that was fitted on the other half of the runs. The manifest
    gets that of all.
    """
    folds = np.asarray(tokens.run) % 2
    there = np.asarray(tokens.state) == PRESENT
    logits = {mask_key(p): predict(network, tokens, present=p) for p in stream_subsets(len(layout.streams))}
    heads: list[dict[str, Any]] = []
    figures: Figures = {}
    for head, labels in layout.heads.items():
        truth = np.asarray(tokens.labels[head]).astype(np.int64)
        found = {mask: by_head[head].astype(np.float64) for mask, by_head in logits.items()}
        fitted = _fitted(found, truth, there)
        crossed = {mask: np.empty_like(value) for mask, value in found.items()}
        for fold in (0, 1):
            own, other = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            elsewhere = _fitted({mask: value[other] for mask, value in found.items()}, truth[other], there[other])
            for mask, calibration in elsewhere.items():
                crossed[mask][own] = calibration.probabilities(found[mask][own])
        figures[head] = {mask: _figures(probability, truth) for mask, probability in crossed.items()}
        thresholds = {mask: _thresholds(fitted[mask].probabilities(found[mask]), truth, labels) for mask in found}
        heads.append(
            {
                "name": head,
                "output": f"{head}_logits",
                "labels": list(labels),
                "calibration": fitted["1" * len(layout.streams)].model_dump(),
                "calibration_by_mask": {mask: calibration.model_dump() for mask, calibration in fitted.items()},
                "thresholds_by_mask": thresholds,
            }
        )
    return heads, figures


def _fitted(logits: Mapping[str, Logits], truth: Labels, there: NDArray[np.bool_]) -> dict[str, Calibration]:
    """Every mask's calibration; masks come with every one that has a stream more before them."""
    found: dict[str, Calibration] = {}
    before: dict[str, Logits] = {}
    for mask, value in logits.items():
        fuller = [
            (before[mask[:s] + "1" + mask[s + 1 :]], np.flatnonzero(there[:, s])) for s, bit in enumerate(mask) if bit == "0"
        ]
        found[mask] = doubted(fitted_calibration(value, truth), value, truth, fuller)
        before[mask] = found[mask].probabilities(value)
    return found


def _thresholds(probability: Logits, truth: Labels, labels: Sequence[str]) -> dict[str, float]:
    return {
        label: round(fitted_threshold(probability[:, index], truth == index), 3) for index, label in enumerate(labels) if index
    }


def _figures(calibrated: NDArray[np.float64], truth: NDArray[np.int64]) -> dict[str, float]:
    predicted = calibrated.argmax(axis=1)
    return {
        "balanced_accuracy": round(balanced_accuracy(predicted, truth), 4),
        "accuracy": round(float((predicted == truth).mean()), 4),
        "mean_top_probability": round(float(calibrated.max(axis=1).mean()), 4),
        "ece": round(expected_calibration_error(calibrated, truth), 4),
    }
