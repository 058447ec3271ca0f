"""What each simulated sensor could perceive of a drive, as numbers with noise: what ceilings are computed from.

A ceiling is the Bayes posterior given these. They are meant to be generous, never less than the rendering reveals, for a network
must not be able to exceed its ceiling unless the label leaks. Networks read windows and have memory, so percepts hold what was
perceived up to now: how long a siren, a horn, brake lights or an even speed have lasted.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.driving import sirens
from pipeline.scenarios.driving.drive import FRAME_RATE_HZ, MOVING_MPS, Drive
from pipeline.scenarios.driving.feeds import text_lines
from pipeline.scenarios.spans import spans_of

Percept = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Clean values ``[n, dims]`` and the standard deviation of the sensor's noise ``[dims]``."""

FACT = 0.15
"""Noise of a fact that is 0 or 1."""
SAYINGS = ("from behind", "carriageway, ahead", "has passed", "cross street", "opposite", "parked", "tow truck", "slow zone,")
COLUMNS: Mapping[str, Mapping[str, float]] = {
    "camera": {
        "bar ahead": FACT, "bar driving away": FACT, "bar in the mirror": FACT, "bar beyond the divider": FACT,
        "bar at the roadside": FACT, "amber bar": FACT, "truck behind": FACT, "truck ahead": FACT, "divider": FACT,
        "obstacle": FACT, "ln m to it": 0.06, "truck in our lane": FACT, "brake lights": FACT, "s obstacle": 0.3,
        "s brake lights": 0.3, "m/s towards obstacle": 0.5, "greatest m/s towards it": 0.5, "cones": FACT,
    },
    "microphone": {
        "siren": FACT, "dB siren": 1.5, "m/s closing": 1.0, "radio": FACT, "m/s own": 6.0, "horn": FACT, "skid": FACT,
        "s siren": 0.2, "s horn or skid": 0.3, "m/s2 own": 3.0,
    },
    "telemetry": {"moving": FACT, "m/s": 1.0, "m/s2": 0.2, "s m/s2 even": 0.15, "m/s2 before": 0.2},
    "text": {**dict.fromkeys(SAYINGS, FACT), "s said": 0.3},
}  # fmt: skip
"""What the columns of each stream's percepts mean, in order, and the standard deviation of their noise. ``s x``: how long x has
lasted, `MEMORY_S` at most."""
_BEARING: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "emergency": {
        "camera": (
            "bar ahead", "bar driving away", "bar in the mirror", "bar beyond the divider", "bar at the roadside", "amber bar",
            "truck behind", "truck ahead", "divider", "obstacle", "cones",
        ),
        "microphone": ("siren", "dB siren", "m/s closing", "radio", "m/s own", "s siren"),
        "telemetry": ("moving", "m/s", "m/s2", "s m/s2 even"),
        "text": SAYINGS,
    },
    "collision": {
        "camera": (
            "obstacle", "ln m to it", "truck in our lane", "brake lights", "s obstacle", "s brake lights", "m/s towards obstacle",
            "greatest m/s towards it",
        ),
        "microphone": ("siren", "radio", "m/s own", "horn", "skid", "s siren", "s horn or skid", "m/s2 own"),
        "telemetry": tuple(COLUMNS["telemetry"]),
        "text": tuple(COLUMNS["text"]),
    },
}  # fmt: skip
DIMS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    head: {stream: tuple(list(COLUMNS[stream]).index(name) for name in names) for stream, names in bearing.items()}
    for head, bearing in _BEARING.items()
}
"""Head to the columns of each stream that bear on it. ``action`` needs all."""
TEXT_MAX_AGE_S = 30.0
MEMORY_S = 8.0
_CHANGED_MPS2 = 0.1


def percepts(drive: Drive, frames: NDArray[np.int64]) -> dict[str, Percept]:
    """Stream to what it could perceive at these frames of the simulated drive, in `COLUMNS`."""
    perceived = {"camera": _seen, "microphone": _heard, "telemetry": _driven, "text": _read}
    return {
        stream: (columns_of(drive, frames), np.array(list(COLUMNS[stream].values()), np.float32))
        for stream, columns_of in perceived.items()
    }


def noisy(percept: Percept, rng: np.random.Generator) -> NDArray[np.float32]:
    """One observation of clean values."""
    clean, spread = percept
    return clean + spread * rng.standard_normal(clean.shape, dtype=np.float32)


def decisive(drive: Drive, frames: NDArray[np.int64]) -> NDArray[np.int8]:
    """The stream (0 camera, 1 microphone, 2 telemetry, 3 text) without which an emergency cannot be told, or -1, ``[n]``.

    Telemetry: one comes on our carriageway while we stand. Text: it is hidden and dispatch is right. Camera: it is seen and
    dispatch is wrong. Microphone: dispatch speaks of one on our carriageway and nothing comes.
    """
    source = drive.siren_source[frames]
    said = _read(drive, frames)[:, : len(SAYINGS)]
    says_ours = said[:, :2].max(axis=1) > 0
    comes = np.isin(source, (sirens.BEHIND, sirens.AHEAD))
    elsewhere = np.isin(source, (sirens.CROSS, sirens.OPPOSITE))
    moving = drive.speed_mps[frames] > MOVING_MPS
    visible = drive.siren_visible[frames]
    nearing = comes | elsewhere
    right = says_ours == comes
    result = np.full(len(frames), -1, np.int8)
    result[nearing & moving & ~visible & right & (said.max(axis=1) > 0)] = 3
    result[nearing & moving & visible & ~right] = 0
    result[comes & ~moving] = 2
    result[(source == sirens.NONE) & says_ours & moving] = 1
    return result


def scored(drive: Drive, frames: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Head to where its question is asked: a siren, a light bar or a line concerns us; something is in our way or sounds so."""
    said = _read(drive, frames)[:, :7].max(axis=1) > 0
    hazard = (drive.obstacle > 0) | (drive.horn > 0) | (drive.skid > 0) | drive.lead_braking
    return {
        "emergency": (drive.siren_source[frames] > 0) | said,
        "collision": hazard[frames],
        "action": np.ones(len(frames), np.bool_),
    }


def _seen(drive: Drive, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    source, y = drive.siren_source[frames], drive.siren_y_m[frames]
    bar = drive.siren_visible[frames] & (source > 0)
    behind = bar & (y < 0)
    ours = np.isin(source, (sirens.BEHIND, sirens.RECEDING))
    obstacle = drive.obstacle_visible & (drive.obstacle > 0)
    seen = obstacle[frames]
    lead = np.isfinite(drive.lead_m[frames])
    braking = np.isfinite(drive.lead_m) & drive.lead_braking
    columns = (
        bar & (source == sirens.AHEAD) & ~behind,
        bar & ours & ~behind,
        behind & (source != sirens.WORK),
        bar & (source == sirens.OPPOSITE),
        bar & (source == sirens.PARKED),
        bar & (source == sirens.WORK),
        np.isfinite(drive.truck_behind_m[frames]),
        np.isfinite(drive.truck_ahead_m[frames]),
        np.full(len(frames), drive.surroundings.divider),
        seen,
        np.where(seen, np.log(np.maximum(1.0, drive.obstacle_m[frames])), 0.0),
        lead & drive.lead_truck[frames],
        braking[frames],
        _lasting_s(obstacle)[frames],
        _lasting_s(braking)[frames],
        np.where(seen, drive.speed_mps[frames], 0.0),
        _fastest(drive.speed_mps, obstacle)[frames],
        drive.zone[frames],
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _heard(drive: Drive, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    metres = np.hypot(np.hypot(drive.siren_x_m, drive.siren_y_m), 2.0)
    on = drive.siren_audible[frames] > 0
    source = drive.siren_source[frames]
    vehicle = on & (source != sirens.RADIO)
    closing = -np.gradient(metres) * FRAME_RATE_HZ if len(metres) > 1 else np.zeros_like(metres)
    columns = (
        on,
        np.where(vehicle, 20 * np.log10(14.0 / np.maximum(1.0, metres[frames])), 0.0),
        np.where(vehicle, np.nan_to_num(closing[frames]), 0.0),
        on & (source == sirens.RADIO),
        drive.speed_mps[frames],
        drive.horn[frames] > 0,
        drive.skid[frames] > 0,
        _lasting_s(drive.siren_audible > 0)[frames],
        _lasting_s((drive.horn > 0) | (drive.skid > 0))[frames],
        drive.accel_mps2[frames],
    )
    return np.stack([np.nan_to_num(c) for c in columns], axis=1).astype(np.float32)


def _driven(drive: Drive, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    index = np.arange(len(drive.accel_mps2))
    changed = np.abs(np.diff(drive.accel_mps2, prepend=drive.accel_mps2[:1])) > _CHANGED_MPS2
    last = np.maximum.accumulate(np.where(changed, index, 0))
    even_s = np.minimum((index - last) / FRAME_RATE_HZ, MEMORY_S)
    # a gradient spreads a step over three frames
    before = drive.accel_mps2[np.maximum(last - 3, 0)]
    columns = (drive.speed_mps > MOVING_MPS, drive.speed_mps, drive.accel_mps2, even_s, before)
    return np.stack([c[frames] for c in columns], axis=1).astype(np.float32)


def _lasting_s(on: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How long it has been so, s, up to `MEMORY_S`; 0 where it is not, ``[n]``."""
    index = np.arange(len(on))
    off = np.maximum.accumulate(np.where(on, -1, index))
    lasting: NDArray[np.float64] = np.where(on, np.minimum((index - off) / FRAME_RATE_HZ, MEMORY_S), 0.0)
    return lasting


def _fastest(speed_mps: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The greatest speed since it has been seen, 0 where it is not, ``[n]``."""
    fastest = np.zeros(len(seen))
    for first, end in spans_of(seen):
        fastest[first:end] = np.maximum.accumulate(speed_mps[first:end])
    return fastest


def _read(drive: Drive, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """One column a saying, 1 where the latest line says it; s since that was first said."""
    lines = text_lines(drive)
    said = np.array([-1, *(next((i for i, phrase in enumerate(SAYINGS) if phrase in line), -1) for _, line in lines)])
    times = np.array([-np.inf, *(time_s for time_s, _ in lines)])
    now = frames / FRAME_RATE_HZ
    latest = np.searchsorted(times, now, side="right") - 1
    chosen = np.where(now - times[latest] <= TEXT_MAX_AGE_S, said[latest], -1)
    first = np.concatenate([[True], said[1:] != said[:-1]])
    began = np.maximum.accumulate(np.where(first, np.arange(len(said)), 0))[latest]
    age = np.where(chosen >= 0, np.minimum(now - times[began], MEMORY_S), 0.0)
    columns = (chosen[:, None] == np.arange(len(SAYINGS)), age[:, None])
    read: NDArray[np.float32] = np.concatenate(columns, axis=1).astype(np.float32)
    return read
