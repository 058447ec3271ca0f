"""Rows of telemetry as every format gives them: times, values and which of them count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A recording's rows, in the order of time.

    ``times_ns`` int64 ``[rows]`` (never falling, from the recording's beginning), ``values`` float32 ``[rows,
    channels]`` in the scenario's channel order (0 where invalid, never NaN), ``valid`` bool ``[rows, channels]``.
    """

    times_ns: NDArray[np.int64]
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]


def rows_from_series(series: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]], channels: Sequence[str]) -> Rows:
    """Lay series of different rates side by side: a row for each instant at which any channel has a value.

    ``series``: by channel, times int64 ``[n]`` (never falling) and values float64 ``[n]``, all finite. Nothing is
    resampled; of two values of one channel at one instant the later counts. Channels not in ``channels`` are
    dropped.
    """
    used = {name: pair for name, pair in series.items() if name in channels}
    if not used:
        empty = np.zeros((0, len(channels)))
        return Rows(times_ns=np.zeros(0, np.int64), values=empty.astype(np.float32), valid=empty.astype(np.bool_))
    times_ns = np.unique(np.concatenate([times for times, _ in used.values()]))
    values = np.zeros((len(times_ns), len(channels)), dtype=np.float32)
    valid = np.zeros(values.shape, dtype=np.bool_)
    for column, name in enumerate(channels):
        if name in used:
            rows = np.searchsorted(times_ns, used[name][0])
            values[rows, column] = used[name][1]
            valid[rows, column] = True
    return Rows(times_ns=times_ns, values=values, valid=valid)
