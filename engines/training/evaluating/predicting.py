"""Calibrated predictions of a fusion on a token set, by subset of the streams."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from engines.manifest import Calibration, Manifest, mask_key
from engines.networks.layout import FusionLayout
from engines.networks.variant import FusionNetwork
from engines.training.calibration import fitted_calibration
from engines.training.evaluation.metrics import Prediction
from engines.training.fusing import predict
from engines.training.token_set import TokenSet

Rows = NDArray[np.int64]


def clusters(tokens: TokenSet, rows: Rows) -> NDArray[np.int64]:
    """World seed of each tick."""
    return np.asarray(tokens.seeds, np.int64)[np.asarray(tokens.run)[rows]]


def scored_rows(tokens: TokenSet, head: str) -> Rows:
    """The ticks at which the head's question is asked."""
    return np.flatnonzero(np.asarray(tokens.scored[head]))


def everything(tokens: TokenSet) -> Rows:
    """Every tick."""
    return np.arange(len(tokens))


def masks(layout: FusionLayout) -> tuple[str, ...]:
    """Every availability mask but the empty one, all streams first."""
    streams = len(layout.streams)
    return tuple(format(i, f"0{streams}b") for i in range(2**streams - 1, 0, -1))


def flags(mask: str) -> tuple[bool, ...]:
    """``"1011"`` as booleans."""
    return tuple(bit == "1" for bit in mask)


class Predictor:
    """The shipped fusion with its manifest's calibration."""

    def __init__(self, network: FusionNetwork, manifest: Manifest) -> None:
        self.network, self._manifest = network, manifest

    def predictions(
        self,
        tokens: TokenSet,
        mask: str,
        *,
        delay_s: Mapping[str, float] | None = None,
        frozen: Mapping[str, tuple[float, float]] | None = None,
    ) -> dict[str, Prediction]:
        """Every head at every tick, with only the streams of ``mask``."""
        present = flags(mask)
        logits = predict(self.network, tokens, present=present, delay_s=delay_s, frozen=frozen)
        rows = everything(tokens)
        return {
            head: prediction(self._manifest.head(head).calibration_for(present).probabilities(found), tokens, head, rows)
            for head, found in logits.items()
        }


class Refitted:
    """A rival, calibrated on the validation set as the shipped one was, but without doubt: that needs no removal."""

    def __init__(self, network: FusionNetwork, validation: TokenSet) -> None:
        self.network, self._validation = network, validation
        self._calibrations: dict[str, dict[str, Calibration]] = {}

    def predictions(self, tokens: TokenSet, mask: str) -> dict[str, Prediction]:
        """Every head at every tick, with only the streams of ``mask``."""
        if mask not in self._calibrations:
            logits = predict(self.network, self._validation, present=flags(mask))
            self._calibrations[mask] = {
                head: fitted_calibration(found.astype(np.float64), np.asarray(self._validation.labels[head]).astype(np.int64))
                for head, found in logits.items()
            }
        rows = everything(tokens)
        return {
            head: prediction(self._calibrations[mask][head].probabilities(found), tokens, head, rows)
            for head, found in predict(self.network, tokens, present=flags(mask)).items()
        }


def prediction(probability: NDArray[np.float64], tokens: TokenSet, head: str, rows: Rows) -> Prediction:
    """Probabilities of some ticks with their truth."""
    labels = np.asarray(tokens.labels[head])[rows].astype(np.int64)
    return Prediction(probability=probability, labels=labels, cluster=clusters(tokens, rows))


def full_mask(layout: FusionLayout) -> str:
    """All streams."""
    return mask_key([True] * len(layout.streams))
