"""The simulated patient world: latent states of a course at the bedside, from which every simulated sensor is rendered.

Not a medical device; simulation. A course is a sequence of scripted encounters (an alarm, a pause in breathing, a fall, and
their decoys). In each the truth is drawn first, then what the patient and the staff do given the truth, then what hides it
from each sensor, which is independent of the truth. `biosignals`, `sound`, `scene` and `feeds` render the rest.

Two things are simpler than at a bedside, so that the Bayes ceiling can be written down: the ECG of an artefact comes from the
same generator as that of the arrhythmia it imitates, and the rhythm of a movement says nothing of the rate of that ECG.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.patient.course import BOOL_ARRAYS, FLOAT_ARRAYS, GRID_HZ, INT_ARRAYS, Course, Encounter, Room
from pipeline.scenarios.patient.encounters import Encounters

__all__ = ["MAX_DURATION_S", "SCRIPTS", "in_another_room", "sample_course"]

SCRIPTS = ("dense", "everyday")
MAX_DURATION_S = 86_400.0
MEAN_REST_S = 115.0
"""Between two encounters of the everyday script: about 22 encounters an hour."""
_PAD_S = 200.0
"""Encounters are written past the end of the course and cut off there."""
_SKINS = ((0.93, 0.76, 0.65), (0.82, 0.62, 0.5), (0.62, 0.44, 0.33), (0.42, 0.29, 0.22))
_NURSES = ((0.15, 0.45, 0.65), (0.2, 0.55, 0.45), (0.45, 0.2, 0.5), (0.1, 0.2, 0.45))


def sample_course(seed: int, duration_s: float, script: str = "dense") -> Course:
    """The latents and labels of a simulated course: a pure function of its arguments.

    ``script``: ``dense`` is one encounter after the other (training); ``everyday`` has about 22 an hour, true ones and decoys,
    at random times with routine between them (false alarms per hour). Inside an encounter both draw alike.
    Raises ValueError when ``duration_s`` is not between 1 s and 24 h, or for an unknown script.
    """
    if not 1.0 <= duration_s <= MAX_DURATION_S:
        raise ValueError(f"duration_s is {duration_s}: give 1 to {MAX_DURATION_S:g} s")
    if script not in SCRIPTS:
        raise ValueError(f"script is {script!r}: give one of {', '.join(SCRIPTS)}")
    rng = np.random.Generator(np.random.PCG64([seed, SCRIPTS.index(script)]))
    room = _room(rng)
    play = Encounters(rng=rng, room=room, steps=round((duration_s + _PAD_S) * GRID_HZ))
    everyday = script == "everyday"
    next_s = float(rng.exponential(MEAN_REST_S)) if everyday else 0.0
    cards: list[str] = []
    while play.now_s < duration_s:
        if everyday and play.now_s < next_s:
            play.segment("routine", min(next_s - play.now_s, float(rng.uniform(40.0, 120.0))))
            continue
        cards = cards or play.shuffled(routine=not everyday)
        play.segment(cards.pop())
        next_s = play.now_s + float(rng.exponential(MEAN_REST_S))
    return _finished(play, seed, duration_s)


def in_another_room(course: Course, seed: int) -> Course:
    """The same happenings as another camera would see them elsewhere: only light, colours, camera and furniture are others.

    For training, so that a network cannot tell courses by their rooms. Sound and biosignals are to be taken from ``course``.
    """
    other = _room(np.random.Generator(np.random.PCG64([seed, len(SCRIPTS)])))
    seen = {name: getattr(other, name) for name in ("daylight", "camera_noise", "blanket", "gown", "skin", "nurse", "wall")}
    return replace(course, seed=seed, room=replace(course.room, **seen))


def _room(rng: np.random.Generator) -> Room:
    def colour(low: float, high: float) -> tuple[float, float, float]:
        red, green, blue = (float(c) for c in rng.uniform(low, high, 3))
        return red, green, blue

    return Room(
        daylight=float(rng.choice([1.0, 0.8, 0.6, 0.45], p=[0.35, 0.25, 0.15, 0.25])),
        camera_noise=float(rng.uniform(1.0, 5.0)),
        microphone_gain=float(rng.uniform(0.7, 1.3)),
        noise_level=float(rng.uniform(0.5, 1.5)),
        blanket=colour(0.3, 0.9),
        gown=colour(0.45, 0.95),
        skin=_SKINS[int(rng.integers(len(_SKINS)))],
        nurse=_NURSES[int(rng.integers(len(_NURSES)))],
        wall=colour(0.6, 0.85),
        pitch_hz=float(rng.choice([rng.uniform(95, 140), rng.uniform(170, 230)])),
        ecg_gain=float(rng.uniform(0.8, 1.25)),
        ecg_noise_mv=float(rng.uniform(0.01, 0.04)),
        heart_bpm=float(rng.uniform(62.0, 96.0)),
        breaths_per_minute=float(rng.uniform(13.0, 20.0)),
        spo2=float(rng.uniform(95.0, 98.0)),
    )


def _smoothed(values: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Running mean of the past ``steps``: nothing changes before its cause."""
    padded = np.concatenate([np.full(steps - 1, values[0]), values])
    total = np.cumsum(np.concatenate([[0.0], padded]))
    mean: NDArray[np.float64] = (total[steps:] - total[:-steps]) / steps
    return mean


def _finished(play: Encounters, seed: int, duration_s: float) -> Course:
    """Cut to length, smooth what changes smoothly, derive phase and action."""
    n = max(1, round(duration_s * GRID_HZ))
    rng = play.rng
    cut = {name: values[:n] for name, values in play.arrays.items()}
    arrays: dict[str, NDArray[Any]] = {name: cut[name].astype(np.uint8) for name in INT_ARRAYS}
    arrays |= {name: cut[name].astype(np.bool_) for name in BOOL_ARRAYS}
    arrays |= {name: cut[name].astype(np.float64) for name in FLOAT_ARRAYS}
    for name in ("effort", "airflow", "impedance"):
        arrays[name] = _smoothed(arrays[name], 5)
    sway = 1.0 + 0.12 * np.sin(np.arange(n) / GRID_HZ / 23.0 + rng.uniform(0, 6))
    rate_hz = play.room.breaths_per_minute / 60.0 * sway
    arrays["breath_phase"] = np.cumsum(2 * np.pi * rate_hz / GRID_HZ)
    action = np.where((arrays["alarm"] > 0) | (arrays["distress"] > 0), 2, np.where(arrays["apnea"] > 0, 1, 0))
    arrays["action"] = action.astype(np.uint8)
    arrays["decisive"] = cut["decisive"].astype(np.int8)
    arrays["times_s"] = np.arange(n) / GRID_HZ
    for array in arrays.values():
        array.setflags(write=False)
    encounters: tuple[Encounter, ...] = tuple(e for e in play.encounters if e.start_s < duration_s)
    lines = tuple(sorted((t, line) for t, line in play.lines if 0.0 <= t < duration_s))
    return Course(seed=seed, duration_s=duration_s, room=play.room, encounters=encounters, lines=lines, **arrays)
