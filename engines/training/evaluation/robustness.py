"""What is lost under conditions that training did not promise: noise, night, frozen buses, delay, unseen worlds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engines.training.evaluation.bootstrap import REPLICATES, Estimate, Replicated, replicated, resampling
from engines.training.evaluation.metrics import Prediction

NOISE, CAMERA, BUS, DELAY, UNSEEN = "noise", "camera", "bus", "delay", "unseen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One way to make it harder.

    ``group`` joins conditions that lie on one axis (`NOISE`: SNR in dB; `DELAY`: ms), ``stream`` is what it happens to (empty:
    the world), ``level`` the place on that axis where there is one.
    """

    name: str
    group: str
    stream: str = ""
    level: float | None = None
    unit: str = ""


STANDARD = (
    *(Condition(name=f"SNR {db} dB", group=NOISE, stream="microphone", level=db, unit="dB") for db in (20, 10, 0, -10)),
    Condition(name="night", group=CAMERA, stream="camera"),
    Condition(name="blur", group=CAMERA, stream="camera"),
    Condition(name="frozen CAN", group=BUS, stream="telemetry"),
)
"""Those that every driving-like scenario has; delays and unseen worlds are its own."""

DELAYS_MS = (0, 100, 200, 300, 400, 500)


def delays(stream: str) -> tuple[Condition, ...]:
    """One stream late by each of `DELAYS_MS`."""
    return tuple(
        Condition(name=f"{stream} {ms} ms late", group=DELAY, stream=stream, level=float(ms), unit="ms") for ms in DELAYS_MS
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionFigures:
    """One head under one condition. ``loss`` is the AUROC of clean input less that under the condition."""

    head: str
    condition: Condition
    auroc: Estimate
    loss: Estimate
    is_paired: bool
    """Whether both are of the same ticks, so that the loss has the paired, narrower interval."""


def condition_figures(
    head: str, clean: Prediction, harder: Mapping[Condition, Prediction], *, replicates: int = REPLICATES, seed: int = 0
) -> tuple[ConditionFigures, ...]:
    """AUROC and its loss under each condition.

    Predictions of the same ticks are compared on the same resamples; those of other worlds (an unseen split) are resampled on
    their own.
    """
    drawn = resampling(clean.cluster, replicates=replicates, seed=seed)
    before = replicated(clean, drawn, ("auroc",))["auroc"]
    found = []
    for condition, prediction in harder.items():
        paired = np.array_equal(clean.cluster, prediction.cluster) and np.array_equal(clean.labels, prediction.labels)
        own = drawn if paired else resampling(prediction.cluster, replicates=replicates, seed=seed + 1)
        after: Replicated = replicated(prediction, own, ("auroc",))["auroc"]
        found.append(
            ConditionFigures(
                head=head,
                condition=condition,
                auroc=after.estimate(),
                loss=before.minus(after).estimate(),
                is_paired=paired,
            )
        )
    return tuple(found)
