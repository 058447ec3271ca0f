"""The latents of a simulated patient's course: what is true, before any sensor perceives it.

Not a medical device; simulation. Nothing here is recorded from, or validated on, a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID_HZ = 10
"""Latents per second; the bedside camera takes one frame at each."""
STREAMS = ("camera", "microphone", "telemetry", "text")
HEADS: dict[str, tuple[str, ...]] = {
    "alarm": ("no", "true"),
    "apnea": ("breathing", "apnea"),
    "distress": ("calm", "distress"),
    "action": ("none", "check", "respond"),
}
ALARMS = ("none", "asystole", "bradycardia", "tachycardia", "ventricular flutter", "ventricular tachycardia")
"""What the monitor says, and (same index) what the ECG looks like."""
ALARM_MIX = {
    "asystole": (22, 122),
    "bradycardia": (46, 89),
    "tachycardia": (131, 140),
    "ventricular flutter": (6, 58),
    "ventricular tachycardia": (89, 341),
}
"""True and all alarms of the training set of the PhysioNet/Computing in Cardiology challenge 2015 (Clifford et al., 2015)."""
CAUSES = ("true", "artefact", "limits")
"""Why an alarm is on: a real arrhythmia; an artefact of the ECG; a real rate within the patient's own limits."""
PLETH = ("pulses", "flat", "noisy", "off")
"""What the pulse wave shows: pulses at `Course.pulse_bpm`, next to nothing, disturbed, a probe that has slipped off."""
HIDDEN = ("clear", "curtain", "dark", "visitor")
"""Why the camera does not see the bed."""
MASKED = ("clear", "tv", "pump")
"""What drowns the room's sounds at the microphone."""
POSTURES = ("lying", "edge", "floor")
CHARTS = (
    "no notes",
    "HR limits {default}",
    "HR limits {wide}",
    "low perfusion",
    "pacemaker",
    "fall risk",
    "out of bed with physio",
    "opioids given",
)
"""What the chart says; 0 says nothing that matters."""
DEFAULT_LIMITS_BPM, WIDE_LIMITS_BPM = (50, 120), (35, 150)
APNEA_AFTER_S = 6.0
"""No effective breath for this long is an apnea."""
HEARD_AIRFLOW, SEEN_EFFORT = 0.3, 0.25
"""A breath below this is not heard in a quiet room, a chest that rises less is not seen to."""
CRITICAL_SPO2 = 90.0
ALARM_SCORED_AFTER_S = 3.0
KINDS = ("alarm", "apnea", "distress", "routine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What stays the same over one simulated course."""

    daylight: float
    """1 noon, 0.45 a night lamp."""
    camera_noise: float
    """Standard deviation of the sensor noise in grey levels."""
    microphone_gain: float
    noise_level: float
    """Factor on the ward's noise."""
    blanket: tuple[float, float, float]
    gown: tuple[float, float, float]
    skin: tuple[float, float, float]
    nurse: tuple[float, float, float]
    wall: tuple[float, float, float]
    pitch_hz: float
    """Of the patient's voice."""
    ecg_gain: float
    ecg_noise_mv: float
    heart_bpm: float
    breaths_per_minute: float
    spo2: float
    """In percent, while nothing is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encounter:
    """One scripted happening. ``onset_s`` to ``end_s`` is when it is true, if it is; ``critical_s`` what lead counts to."""

    kind: str
    """One of `KINDS`."""
    what: str
    """The alarm, or the sort of apnea, fall or decoy."""
    truth: bool
    start_s: float
    stop_s: float
    onset_s: float
    end_s: float
    critical_s: float
    cause: str = ""
    """One of `CAUSES`, of an alarm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseEvent:
    """A true event of one head, in seconds from the start of the course.

    ``critical_s`` is what lead time is counted to: of an apnea when the SpO2 number falls below 90 %, else ``end_s``.
    """

    head: str
    onset_s: float
    end_s: float
    critical_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The latents of one simulated course; all arrays have one entry a grid step of 0.1 s, ``[n]``, and are read-only."""

    seed: int
    duration_s: float
    room: Room
    encounters: tuple[Encounter, ...]
    lines: tuple[tuple[float, str], ...]
    """The text feed: time in s and line, in order."""
    times_s: NDArray[np.float64]
    alarm: NDArray[np.uint8]
    """1: the monitor's alarm is on, and true."""
    apnea: NDArray[np.uint8]
    distress: NDArray[np.uint8]
    action: NDArray[np.uint8]
    """Index of ``HEADS["action"]``."""
    alarm_on: NDArray[np.uint8]
    """Index of `ALARMS`: what the monitor says now."""
    rhythm: NDArray[np.uint8]
    """Index of `ALARMS`: what the ECG looks like; 0 a normal rhythm."""
    heart_bpm: NDArray[np.float64]
    """Rate of the beats that the ECG shows, and so of the monitor's number."""
    pulse_bpm: NDArray[np.float64]
    """Rate of the real pulse."""
    pleth: NDArray[np.uint8]
    """Index of `PLETH`."""
    effort: NDArray[np.float64]
    """0 to 1: how far the chest rises."""
    airflow: NDArray[np.float64]
    """0 to 1.6: how loud the breath is; above 1 it is a snore."""
    impedance: NDArray[np.float64]
    """0 to 1: how much of the breath the chest impedance shows."""
    cardiac: NDArray[np.float64]
    """How much of the heartbeat it shows."""
    breath_phase: NDArray[np.float64]
    """In rad; 0 is breathed out."""
    spo2: NDArray[np.float64]
    """The monitor's number, in percent, before rounding."""
    burst: NDArray[np.bool_]
    """A movement of the trunk disturbs ECG and impedance."""
    hidden: NDArray[np.uint8]
    """Index of `HIDDEN`."""
    covered: NDArray[np.bool_]
    """A thick blanket hides the chest."""
    posture: NDArray[np.uint8]
    """Index of `POSTURES`."""
    limp: NDArray[np.bool_]
    """The head has fallen to the side and an arm hangs off the bed."""
    moving: NDArray[np.bool_]
    """The free arm moves in a rhythm."""
    nurse: NDArray[np.bool_]
    """A nurse is at the bed, hands at the electrodes (or at the mat)."""
    motion_hz: NDArray[np.float64]
    masked: NDArray[np.uint8]
    """Index of `MASKED`."""
    gasp: NDArray[np.bool_]
    talk: NDArray[np.bool_]
    rustle: NDArray[np.bool_]
    nurse_voice: NDArray[np.bool_]
    cry: NDArray[np.bool_]
    thump: NDArray[np.bool_]
    """True in the one step in which something hits the floor."""
    chart: NDArray[np.uint8]
    """Index of `CHARTS`: what the newest line says of the chart."""
    told: NDArray[np.uint8]
    """Index of `ALARMS`: the alarm that the newest line names."""
    decisive: NDArray[np.int8]
    """Index of `STREAMS`: the only one that shows what an alarm is worth; -1 where none or several do."""


INT_ARRAYS = ("alarm", "apnea", "distress", "alarm_on", "rhythm", "pleth", "hidden", "posture", "masked", "chart", "told")
BOOL_ARRAYS = ("burst", "covered", "limp", "moving", "nurse", "gasp", "talk", "rustle", "nurse_voice", "cry", "thump")
FLOAT_ARRAYS = ("heart_bpm", "pulse_bpm", "effort", "airflow", "impedance", "cardiac", "spo2", "motion_hz")


def on_grid(course: Course, times_s: NDArray[Any]) -> NDArray[np.int64]:
    """The grid step that holds each time: int64 ``[n]``."""
    steps: NDArray[np.int64] = np.clip(
        np.floor(np.asarray(times_s, np.float64) * GRID_HZ + 1e-6).astype(np.int64), 0, len(course.times_s) - 1
    )
    return steps


def labels(course: Course, times_s: NDArray[Any]) -> dict[str, NDArray[np.uint8]]:
    """The true class of every head at each time, ``[n]`` each."""
    steps = on_grid(course, times_s)
    return {head: getattr(course, head)[steps] for head in HEADS}


def scored(course: Course, times_s: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Where each head's question is asked, ``[n]`` each: of an alarm from its third second on, of the others everywhere."""
    steps = on_grid(course, times_s)
    wait = round(ALARM_SCORED_AFTER_S * GRID_HZ)
    on = np.asarray(course.alarm_on > 0)
    since: NDArray[np.int64] = np.cumsum(on, dtype=np.int64)
    # steps since the alarm began: the count of steps on less that at its last step off
    held: NDArray[np.int64] = since - np.maximum.accumulate(np.where(on, 0, since))
    long_on: NDArray[np.bool_] = held > wait
    everywhere = np.ones(len(steps), np.bool_)
    return {"alarm": long_on[steps], "apnea": everywhere, "distress": everywhere.copy(), "action": everywhere.copy()}


def decisive(course: Course, times_s: NDArray[Any]) -> NDArray[np.int8]:
    """Index of `STREAMS` without which an alarm's truth cannot be told, ``[n]``; -1 where no single one decides."""
    return course.decisive[on_grid(course, times_s)]


def events(course: Course) -> tuple[CourseEvent, ...]:
    """The true events of the heads ``alarm``, ``apnea`` and ``distress``, by onset."""
    return tuple(
        CourseEvent(head=e.kind, onset_s=e.onset_s, end_s=min(e.end_s, course.duration_s), critical_s=e.critical_s)
        for e in course.encounters
        if e.truth and e.onset_s < course.duration_s
    )
