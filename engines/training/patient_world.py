"""The simulated bedside, as training sees it. Not a medical device; simulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from engines.networks.design import ScenarioDesign
from engines.networks.patient import PATIENT
from engines.training.token_set import Event
from engines.training.worlds import Array, Clue, SimulatedRun
from pipeline.scenarios.patient import biosignals, course, feeds, scene, sound, world
from pipeline.scenarios.patient.percepts import RELEVANT, percepts

_DEFAULT, _WIDE = (f"{low}-{high}" for low, high in (course.DEFAULT_LIMITS_BPM, course.WIDE_LIMITS_BPM))
_CHARTS = tuple(chart.format(default=_DEFAULT, wide=_WIDE) for chart in course.CHARTS)
MANY_ROOMS = ", many rooms"
"""What ends the name of a condition whose courses are seen as if the bed moved to another room every `ROOM_S`.

With one room a course, fusion learnt by heart what happened in which room: apnea at AUROC 0.95 from the camera of training runs,
and at 0.59 from that of others.
"""
ROOM_S = 6.0
NIGHT = 0.25
"""Daylight of the night condition: darker than any room of training."""


class PatientWorld:
    """See `engines.training.worlds.World`."""

    design: ScenarioDesign = PATIENT
    frame_rate_hz: int = course.GRID_HZ
    max_age_s: Mapping[str, float] = {"camera": 0.6, "microphone": 1.0, "telemetry": 1.0, "text": 30.0}
    percept_dims: Mapping[str, Mapping[str, Sequence[int]]] = RELEVANT
    asked_heads: Sequence[str] = ("alarm",)
    event_run_s: float = 300.0  # SpO2 falls 30 to 50 s after breathing stops: 40 runs of 60 s held four such events whole
    # 300 runs hold 458 alarms, too few: of those the camera alone tells 0.04 AUROC more than of alarms as they come
    dense_runs: int = 1000
    learnt: tuple[str, str] = ("dense" + MANY_ROOMS, "everyday" + MANY_ROOMS)
    unfamiliar: Sequence[str] = ("unfamiliar noise", "unfamiliar signals")
    sayings: Sequence[str] = (
        *(f"ALARM {alarm}; chart: {chart}" for alarm in course.ALARMS[1:] for chart in _CHARTS[1:]),
        *(f"ALARM {alarm}" for alarm in course.ALARMS[1:]),
        *(f"chart: {chart}" for chart in _CHARTS[1:]),
        "",
    )
    clues: Mapping[str, Clue] = {
        "seen_hidden": Clue(stream="camera", size=2, at="sample"),
        "seen_limp": Clue(stream="camera", size=2, at="sample"),
        "seen_moving": Clue(stream="camera", size=2, at="sample"),
        "seen_nurse": Clue(stream="camera", size=2, at="sample"),
        "seen_probe_off": Clue(stream="camera", size=2, at="sample"),
        "seen_chest": Clue(stream="camera", size=1, at="sample"),
        "seen_posture": Clue(stream="camera", size=len(course.POSTURES), at="sample"),
        "heard_masked": Clue(stream="microphone", size=2),
        "heard_breath": Clue(stream="microphone", size=1),
        "heard_voice": Clue(stream="microphone", size=3),
        "heard_rustle": Clue(stream="microphone", size=2),
        "heard_nurse": Clue(stream="microphone", size=2),
        "heard_cry": Clue(stream="microphone", size=2),
        "heard_thump": Clue(stream="microphone", size=2),
        "rhythm": Clue(stream="telemetry", size=len(course.ALARMS)),
        "wave": Clue(stream="telemetry", size=4),
        "breathless": Clue(stream="telemetry", size=1),
        "spo2": Clue(stream="telemetry", size=1),
        "rate": Clue(stream="telemetry", size=1),
        "said": Clue(stream="text", size=len(sayings)),
    }

    def __init__(self) -> None:
        self._renderer: scene.Renderer | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open panda3d."""
        with scene.Renderer() as renderer:
            self._renderer = renderer
            yield
        self._renderer = None

    def run(self, seed: int, duration_s: float, condition: str, *, with_senses: bool = True) -> SimulatedRun:
        """One course. Raises ValueError for a condition that there is not."""
        name = condition.removesuffix(MANY_ROOMS)
        if name not in (*world.SCRIPTS, "night", *self.unfamiliar):
            raise ValueError(f"condition is {condition!r}: give one of {', '.join((*world.SCRIPTS, 'night', *self.unfamiliar))}")
        drawn = _harder(world.sample_course(seed, duration_s, name if name in world.SCRIPTS else "dense"), name)
        seen = _moved(drawn) if condition.endswith(MANY_ROOMS) else [drawn]
        nothing = np.zeros((0, len(biosignals.CHANNELS)), np.float32)
        times_s, values, valid = biosignals.telemetry(drawn) if with_senses else (np.zeros(0), nothing, nothing > 0)
        return SimulatedRun(
            seed=seed,
            duration_s=duration_s,
            frames=len(drawn.times_s),
            frame=lambda index: self._frame(seen[min(int(index / ROOM_S / course.GRID_HZ), len(seen) - 1)], index),
            pcm=sound.pcm(drawn) if with_senses else np.zeros(0, np.int16),
            row_times_s=times_s,
            row_values=values,
            row_valid=valid,
            lines=feeds.text_lines(drawn),
            gaps_s=feeds.arrivals(drawn).gaps_s,
            labels={head: getattr(drawn, head) for head in PATIENT.heads},
            clues=_clues(drawn),
            scored=lambda frames: course.scored(drawn, drawn.times_s[frames]),
            percepts=lambda frames: percepts(drawn, drawn.times_s[frames]),
            decisive=lambda frames: course.decisive(drawn, drawn.times_s[frames]),
            events=tuple(
                Event(head=e.head, run=0, onset_s=e.onset_s, end_s=e.end_s, critical_s=e.critical_s) for e in course.events(drawn)
            ),
        )

    def _frame(self, drawn: course.Course, index: int) -> Array:
        if self._renderer is None:
            raise RuntimeError("frames are drawn only inside `opened`")
        return self._renderer.frame(drawn, index)


def _moved(drawn: course.Course) -> list[course.Course]:
    """The same course in one room after the other; only the camera is to look at them."""
    rooms = range(int(drawn.duration_s / ROOM_S) + 1)
    return [world.in_another_room(drawn, drawn.seed * len(rooms) + number) for number in rooms]


def _harder(drawn: course.Course, condition: str) -> course.Course:
    """Rooms beyond those of training: night, a loud ward, a poor ECG."""
    if condition == "night":
        return replace(drawn, room=replace(drawn.room, daylight=NIGHT))
    if condition == "unfamiliar noise":
        return replace(drawn, room=replace(drawn.room, noise_level=3.0 * drawn.room.noise_level))
    if condition == "unfamiliar signals":
        return replace(drawn, room=replace(drawn.room, ecg_noise_mv=3.0 * drawn.room.ecg_noise_mv, ecg_gain=0.5))
    return drawn


def _clues(drawn: course.Course) -> dict[str, Array]:
    """Targets by grid step, as `percepts` says what each sensor could tell."""
    found = percepts(drawn, drawn.times_s)
    seen, heard, shown = (found[stream][0] for stream in ("camera", "microphone", "telemetry"))
    clear, quiet = seen[:, 0] > 0, drawn.masked == 0
    chest = np.where(seen[:, 5] >= 0, 0.5 - 0.5 * np.cos(drawn.breath_phase), 0.0) * drawn.effort
    thump = np.convolve(drawn.thump & quiet, np.ones(3 * course.GRID_HZ))[: len(drawn.thump)] > 0
    return {
        "seen_hidden": drawn.hidden > 0,
        "seen_limp": seen[:, 1] > 0,
        "seen_moving": seen[:, 2] > 0,
        "seen_nurse": seen[:, 3] > 0,
        "seen_probe_off": seen[:, 4] > 0,
        "seen_chest": np.where(clear & (seen[:, 5] >= 0), chest, np.nan),
        "seen_posture": seen[:, 7],
        "heard_masked": drawn.masked > 0,
        "heard_breath": np.where(quiet, heard[:, 4], np.nan),
        "heard_voice": heard[:, 1],
        "heard_rustle": heard[:, 2] > 0,
        "heard_nurse": heard[:, 3] > 0,
        "heard_cry": heard[:, 7] > 0,
        "heard_thump": thump,
        "rhythm": drawn.rhythm,
        "wave": shown[:, 2],
        "breathless": shown[:, 4],
        "spo2": shown[:, 5],
        "rate": drawn.heart_bpm / 60.0,
    }
