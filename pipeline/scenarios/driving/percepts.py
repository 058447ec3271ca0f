"""What each simulated sensor could perceive of a drive, as numbers with noise: what ceilings are computed from.

A ceiling is the Bayes posterior given these. They are generous: never less than the rendering reveals, for a network must not
be able to exceed its ceiling unless the label leaks. Networks read windows and have memory, so percepts hold what was perceived
up to now: how long a siren, a horn, brake lights or an even speed have lasted. Without these 27 of 72 predictors exceeded theirs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.driving import sirens
from pipeline.scenarios.driving.drive import FRAME_RATE_HZ, MOVING_MPS, Drive
from pipeline.scenarios.driving.feeds import text_lines

Percept = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Clean values ``[n, dims]`` and the standard deviation of the sensor's noise ``[dims]``."""

FACT = 0.15
"""Noise of a fact that is 0 or 1."""
DIMS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "emergency": {
        "camera": (*range(10), 17),
        "microphone": (0, 1, 2, 3, 4, 7),
        "telemetry": (0, 1, 2, 3),
        "text": tuple(range(8)),
    },
    "collision": {
        "camera": tuple(range(9, 17)),
        "microphone": (0, 3, 4, 5, 6, 7, 8, 9),
        "telemetry": (0, 1, 2, 3, 4),
        "text": tuple(range(9)),
    },
}
"""Head to the dimensions of each stream that bear on it. ``action`` needs all."""
SAYINGS = ("from behind", "carriageway, ahead", "has passed", "cross street", "opposite", "parked", "tow truck", "slow zone,")
TEXT_MAX_AGE_S = 30.0
MEMORY_S = 8.0
"""What lasted longer is perceived as having lasted so long."""
_CHANGED_MPS2 = 0.1
_CAMERA_NOISE = (*(FACT,) * 6, *(FACT,) * 3, FACT, 0.06, FACT, FACT, 0.3, 0.3, 0.5, 0.5, FACT)
_MICROPHONE_NOISE = (FACT, 1.5, 1.0, FACT, 6.0, FACT, FACT, 0.2, 0.3, 3.0)
_TELEMETRY_NOISE = (FACT, 1.0, 0.2, 0.15, 0.2)
_TEXT_NOISE = (*(FACT,) * len(SAYINGS), 0.3)


def percepts(drive: Drive, frames: NDArray[np.int64]) -> dict[str, Percept]:
    """Stream to what it could perceive at these frames of the simulated drive.

    Camera: bar coming ahead, bar driving away, bar in the mirror, bar beyond the divider, bar at the roadside, amber; truck
    behind, truck ahead, divider; obstacle, ln metres to it, truck in our lane, its brake lights, s the obstacle has been seen,
    s the brake lights have been on, m/s at which the obstacle nears, the greatest so far; cones. Microphone: siren, level in dB,
    closing speed in m/s, crackle of a radio, own speed in m/s; horn, skid; s the siren has sounded, s horn or skid have; own
    acceleration in m/s². Telemetry: moving, speed in m/s, acceleration in m/s², s it has been the same, what it was before.
    Text: what the latest line says (`SAYINGS`), s since that was first said.
    """
    return {
        "camera": (_seen(drive, frames), np.array(_CAMERA_NOISE, np.float32)),
        "microphone": (_heard(drive, frames), np.array(_MICROPHONE_NOISE, np.float32)),
        "telemetry": (_driven(drive, frames), np.array(_TELEMETRY_NOISE, np.float32)),
        "text": (_read(drive, frames), np.array(_TEXT_NOISE, np.float32)),
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
        lead & drive.lead_braking[frames],
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
    edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(np.int8), [0]])))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        fastest[first:end] = np.maximum.accumulate(speed_mps[first:end])
    return fastest


def _read(drive: Drive, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """One column a saying, 1 where the latest line says it; how old it is, s."""
    lines = text_lines(drive)
    said = np.array([-1, *(next((i for i, phrase in enumerate(SAYINGS) if phrase in line), -1) for _, line in lines)])
    times = np.array([-np.inf, *(time_s for time_s, _ in lines)])
    now = frames / FRAME_RATE_HZ
    latest = np.searchsorted(times, now, side="right") - 1
    chosen = np.where(now - times[latest] <= TEXT_MAX_AGE_S, said[latest], -1)
    first = np.concatenate([[True], said[1:] != said[:-1]])
    began = np.maximum.accumulate(np.where(first, np.arange(len(said)), 0))[latest]
    age = np.where(chosen >= 0, np.minimum(now - times[began], MEMORY_S), 0.0)
    columns = (chosen[:, None] == np.arange(len(SAYINGS)), np.nan_to_num(age)[:, None])
    read: NDArray[np.float32] = np.concatenate(columns, axis=1).astype(np.float32)
    return read
