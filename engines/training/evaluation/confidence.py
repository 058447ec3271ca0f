"""Whether confidence means something: by subset, on removal of a stream, and as a reason to abstain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.training.evaluation.bootstrap import Estimate, Resampling, replicated_mean
from engines.training.evaluation.metrics import Curve, Flags, Prediction, ReliabilityBin, reliability, thinned


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceFigures:
    """Confidence of one head.

    ``rises``: share of removals (a tick and a stream that was present there) after which the top probability is higher at
    all; ``rises_by_stream`` the same by stream; ``rises_clearly``: higher by more than ``margin``. ``risk``: share of wrong
    ticks (y) among those kept (x) when the least confident are left out; ``risk_area`` the area under it, and ``risk_best`` what
    a perfect order of confidence would give.
    """

    head: str
    streams: tuple[str, ...]
    rises: Estimate
    rises_clearly: Estimate
    margin: float
    rises_by_stream: tuple[Estimate, ...]
    reliability: Mapping[str, tuple[ReliabilityBin, ...]]
    risk: Curve
    risk_area: float
    risk_best: float


def confidence_figures(
    head: str,
    streams: Sequence[str],
    by_mask: Mapping[str, Prediction],
    present: Flags,
    drawn: Resampling,
    *,
    margin: float = 0.01,
) -> ConfidenceFigures:
    """Figures from one head's calibrated predictions by availability mask, all of the same ticks.

    ``present [n, streams]``: which streams were present at each tick, for removing an absent one changes nothing.
    Raises KeyError for a mask with one stream removed that is not there, ValueError if no stream was ever present.
    """
    everything = "1" * len(streams)
    whole = by_mask[everything]
    rise, cluster, removed = [], [], []
    for place in range(len(streams)):
        less = by_mask[everything[:place] + "0" + everything[place + 1 :]]
        rows = np.flatnonzero(present[:, place])
        rise.append(less.confidence[rows] - whole.confidence[rows])
        cluster.append(whole.cluster[rows])
        removed.append(np.full(len(rows), place))
    rises, of, which = np.concatenate(rise), np.concatenate(cluster), np.concatenate(removed)
    if not len(rises):
        raise ValueError(f"head {head!r}: no stream is present at any tick, so none can be removed")
    risk, area, best = risk_curve(whole)
    return ConfidenceFigures(
        head=head,
        streams=tuple(streams),
        rises=replicated_mean(rises > 0, of, drawn).estimate(),
        rises_clearly=replicated_mean(rises > margin, of, drawn).estimate(),
        margin=margin,
        rises_by_stream=tuple(
            replicated_mean(rises[which == p] > 0, of[which == p], drawn).estimate() for p in range(len(streams))
        ),
        reliability={mask: reliability(prediction) for mask, prediction in by_mask.items()},
        risk=risk,
        risk_area=area,
        risk_best=best,
    )


def risk_curve(prediction: Prediction) -> tuple[Curve, float, float]:
    """Share of wrong ticks among the most confident (El-Yaniv and Wiener, 2010): curve, its area, and the least possible area.

    Ticks of equal confidence are kept or left out together.
    """
    confidence = prediction.confidence
    order = np.argsort(-confidence, kind="stable")
    wrong = ~prediction.hit[order]
    kept = np.arange(1, len(wrong) + 1)
    last = np.append(np.diff(confidence[order]) != 0, True)
    risk = (np.cumsum(wrong) / kept)[last]
    share = kept[last] / len(wrong)
    area = float((risk * np.diff(np.append(0.0, share))).sum())
    best = float((np.cumsum(np.sort(wrong)) / kept).mean())
    return thinned(share, risk), area, best
