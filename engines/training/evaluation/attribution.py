"""Which stream a decision rests on: exact Shapley values over the subsets of streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.training.evaluation.bootstrap import Estimate, Resampling, replicated_mean
from engines.training.evaluation.metrics import Floats


def alarm_log_odds(logits: Floats, alarm_classes: Sequence[int] = ()) -> NDArray[np.float64]:
    """Log-odds of the alarm classes (by default all but the first) from logits ``[n, classes]``, ``[n]``."""
    exact = np.asarray(logits, np.float64)
    alarms = np.isin(np.arange(exact.shape[1]), alarm_classes or range(1, exact.shape[1]))
    result: NDArray[np.float64] = np.logaddexp.reduce(exact[:, alarms], axis=1) - np.logaddexp.reduce(exact[:, ~alarms], axis=1)
    return result


def shapley_values(values: Mapping[str, Floats]) -> NDArray[np.float64]:
    """Each stream's Shapley value by tick, ``[n, streams]`` (Shapley, 1953), exact over all subsets.

    ``values``: availability mask (``"1011"``) to the worth ``[n]`` of those streams, the log-odds of an alarm. The empty mask
    must be there: what the network says with every stream absent. A row sums to the worth of all less that of none.
    Raises ValueError naming a mask that lacks.
    """
    streams = len(next(iter(values)))
    lacking = [m for m in (format(i, f"0{streams}b") for i in range(2**streams)) if m not in values]
    if lacking:
        raise ValueError(f"Shapley values need every subset, also the empty one; lacking: {', '.join(lacking)}")
    result = np.zeros((len(next(iter(values.values()))), streams))
    for mask in values:
        joined = mask.count("1")
        for stream in (place for place, there in enumerate(mask) if there == "0"):
            weight = factorial(joined) * factorial(streams - joined - 1) / factorial(streams)
            grown = mask[:stream] + "1" + mask[stream + 1 :]
            result[:, stream] += weight * (np.asarray(values[grown], np.float64) - values[mask])
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionFigures:
    """Shapley values of one head against the world's own decisive stream.

    ``agreement``: share of ticks with a decisive stream whose largest absolute value is that stream's. ``chance``: what
    the two would agree by if they knew nothing of one another. ``table[i][j]``: share of the ticks that stream i decides
    which have stream j on top. ``mean_absolute``: mean absolute value of each stream over all ticks.
    """

    head: str
    streams: tuple[str, ...]
    ticks: int
    agreement: Estimate
    chance: float
    by_stream: tuple[Estimate | None, ...]
    table: tuple[tuple[float, ...], ...]
    mean_absolute: tuple[float, ...]
    mean_when_decisive: tuple[float, ...]


def attribution_figures(
    head: str,
    streams: Sequence[str],
    shapley: NDArray[np.float64],
    decisive: NDArray[np.integer[Any]],
    cluster: NDArray[np.integer[Any]],
    drawn: Resampling,
) -> AttributionFigures:
    """Compare ``shapley [n, streams]`` with ``decisive [n]`` (-1: no single stream decides). Raises ValueError if none does."""
    decided = np.asarray(decisive) >= 0
    if not decided.any():
        raise ValueError(f"head {head!r}: no tick has a decisive stream to compare with")
    count = len(streams)
    size = np.abs(shapley)
    top, true = size[decided].argmax(axis=1), np.asarray(decisive)[decided].astype(np.int64)
    of = np.asarray(cluster)[decided]
    table = np.bincount(true * count + top, minlength=count**2).reshape(count, count).astype(np.float64)
    share_true, share_top = table.sum(axis=1) / table.sum(), table.sum(axis=0) / table.sum()
    rows = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    hit = top == true

    def of_stream(stream: int) -> Estimate | None:
        there = true == stream
        return replicated_mean(hit[there], of[there], drawn).estimate() if there.any() else None

    return AttributionFigures(
        head=head,
        streams=tuple(streams),
        ticks=len(true),
        agreement=replicated_mean(hit, of, drawn).estimate(),
        chance=float((share_true * share_top).sum()),
        by_stream=tuple(of_stream(s) for s in range(count)),
        table=tuple(tuple(float(v) for v in row) for row in rows),
        mean_absolute=tuple(float(v) for v in size.mean(axis=0)),
        mean_when_decisive=tuple(
            float(size[decided][true == s, s].mean()) if (true == s).any() else float("nan") for s in range(count)
        ),
    )
