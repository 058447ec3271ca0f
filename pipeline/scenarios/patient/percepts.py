"""What each simulated sensor could at best perceive of a course: the input of the Bayes ceiling and of linear probes.

Not a medical device; simulation. Where a sensor cannot perceive a latent its dimension holds a constant. Discrete facts are
0/1 or small whole numbers, with a spread of 0.15. The rendering must never reveal more than this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.patient.course import (
    ALARMS,
    DEFAULT_LIMITS_BPM,
    GRID_HZ,
    HEARD_AIRFLOW,
    PLETH,
    SEEN_EFFORT,
    WIDE_LIMITS_BPM,
    Course,
    on_grid,
)

Percept = tuple[NDArray[np.float32], NDArray[np.float32]]
_BREATHLESS_S = 10.0
_THUMP_S = 12.0
_DISCRETE = 0.15

DIMENSIONS: dict[str, tuple[str, ...]] = {
    "camera": ("clear", "limp", "moving", "nurse", "probe off", "chest", "breathless", "posture"),
    "microphone": ("clear, alarm tone", "gasp or talk", "rustle", "nurse's voice", "breath", "breathless", "thump", "cry"),
    "telemetry": ("rhythm", "rate", "pulse wave", "breath", "breathless", "SpO2", "SpO2 slope", "movement"),
    "text": ("alarm", "chart"),
}
"""What the columns of each stream's percepts mean."""

RELEVANT: dict[str, dict[str, tuple[int, ...]]] = {
    "alarm": {"camera": (0, 1, 2, 3, 4), "microphone": (0, 1, 2, 3), "telemetry": (0, 1, 2), "text": (0, 1)},
}
"""Head to stream to the columns that matter, where a head is asked. While an alarm is on the other columns are drawn apart from
its truth: to leave them out changes the posterior not at all, and takes much variance from a Monte Carlo estimate of it."""


def percepts(course: Course, times_s: NDArray[Any]) -> dict[str, Percept]:
    """Stream to (clean float32 ``[n, dims]``, spread float32 ``[dims]``): what it could perceive up to each time.

    ``spread`` is the standard deviation of the Gaussian noise of that perception.
    """
    steps = on_grid(course, times_s)
    return {
        "camera": _camera(course, steps),
        "microphone": _microphone(course, steps),
        "telemetry": _telemetry(course, steps),
        "text": _packed([course.told, course.chart], [_DISCRETE, _DISCRETE], steps),
    }


def _since(happens: NDArray[np.bool_], most_s: float) -> NDArray[np.float64]:
    """Share of ``most_s`` gone since it last happened, 0 to 1, ``[n]``."""
    index = np.arange(len(happens))
    last = np.maximum.accumulate(np.where(happens, index, -1_000_000))
    share: NDArray[np.float64] = np.minimum(1.0, (index - last) / GRID_HZ / most_s)
    return share


def _packed(columns: list[NDArray[Any]], spread: list[float], steps: NDArray[np.int64]) -> Percept:
    clean = np.stack([np.asarray(column, np.float32)[steps] for column in columns], axis=1)
    return clean, np.asarray(spread, np.float32)


def _camera(course: Course, steps: NDArray[np.int64]) -> Percept:
    clear = course.hidden == 0
    chest_seen = clear & ~course.covered & (course.posture == 0)
    chest = np.where(chest_seen, course.effort, -1.0)
    breathless = np.where(chest_seen, _since((course.effort > SEEN_EFFORT) & chest_seen, _BREATHLESS_S), 0.0)
    columns = [
        clear,
        clear & course.limp,
        clear & course.moving,
        clear & course.nurse,
        clear & (course.pleth == PLETH.index("off")),
        chest,
        breathless,
        clear * course.posture,
    ]
    return _packed(columns, [_DISCRETE] * 5 + [0.15, 0.08, _DISCRETE], steps)


def _microphone(course: Course, steps: NDArray[np.int64]) -> Percept:
    clear = course.masked == 0
    heard = clear & (course.airflow > HEARD_AIRFLOW)
    voice = np.where(course.talk, 2.0, np.where(course.gasp, 1.0, 0.0))
    columns = [
        clear + 2.0 * (course.alarm_on > 0),  # the monitor's tones are heard through everything
        clear * voice,
        clear & course.rustle,
        clear & course.nurse_voice,
        np.where(heard, course.airflow, 0.0),
        np.where(clear, _since(heard, _BREATHLESS_S), 0.0),
        1.0 - _since(clear & course.thump, _THUMP_S),
        clear & course.cry,
    ]
    return _packed(columns, [_DISCRETE] * 4 + [0.2, 0.08, 0.1, _DISCRETE], steps)


def _rate(course: Course) -> NDArray[np.float64]:
    """The rate as far as it can matter, ``[n]``: 0 as always, 1 faster than usual or beyond the usual limits, 2 beyond wide ones.

    In the other rhythms the rate is drawn apart from everything else; to leave it out takes nothing from the posterior.
    """
    of_rate = (course.rhythm == ALARMS.index("bradycardia")) | (course.rhythm == ALARMS.index("tachycardia"))
    beyond = np.zeros(len(course.times_s))
    for low, high in (DEFAULT_LIMITS_BPM, WIDE_LIMITS_BPM):
        beyond += (course.heart_bpm < low) | (course.heart_bpm > high)
    usual: NDArray[np.float64] = np.where(course.heart_bpm > course.room.heart_bpm + 10.0, 1.0, 0.0)
    return np.where(of_rate, beyond, np.where(course.rhythm == 0, usual, 0.0))


def _telemetry(course: Course, steps: NDArray[np.int64]) -> Percept:
    # a flat wave looks the same whether the pulse, the perfusion or the probe is gone; pulses agree with the ECG or not
    flat = (course.pleth == PLETH.index("flat")) | (course.pleth == PLETH.index("off"))
    agrees = np.abs(course.pulse_bpm - course.heart_bpm) < 1.0
    wave = np.where(flat, 1.0, np.where(course.pleth == PLETH.index("noisy"), 2.0, np.where(agrees, 0.0, 3.0)))
    shown = course.effort * course.impedance
    past = np.concatenate([np.repeat(course.spo2[:1], 5 * GRID_HZ), course.spo2])[: len(course.spo2)]
    columns = [
        course.rhythm,
        _rate(course),
        wave,
        shown,
        _since(shown > 0.08, _BREATHLESS_S),
        (100.0 - course.spo2) / 5.0,
        (course.spo2 - past) / 2.0,
        course.burst,
    ]
    return _packed(columns, [_DISCRETE, _DISCRETE, _DISCRETE, 0.12, 0.08, _DISCRETE, 0.2, _DISCRETE], steps)
