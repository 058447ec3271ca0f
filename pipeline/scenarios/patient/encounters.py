"""The simulated encounters at the bedside, written one after the other onto the latents' grid.

Not a medical device; simulation. The probabilities below decide what each sensor is worth alone; they were chosen so that
for an alarm the Bayes-optimal AUROC of telemetry alone is near 0.88, of no pair above 0.965, of all sensors above 0.985.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.patient.course import (
    ALARM_MIX,
    ALARMS,
    APNEA_AFTER_S,
    CHARTS,
    CRITICAL_SPO2,
    DEFAULT_LIMITS_BPM,
    GRID_HZ,
    POSTURES,
    WIDE_LIMITS_BPM,
    Encounter,
    Room,
)

_CLEAR_PLETH, _FLAT, _NOISY, _OFF = range(4)
_LIMITS, _WIDE, _LOW_PERFUSION, _PACEMAKER, _FALL_RISK, _PHYSIO, _OPIOIDS = range(1, 8)
_EDGE, _FLOOR = POSTURES.index("edge"), POSTURES.index("floor")
_BRADY, _TACHY, _FLUTTER, _VT = (ALARMS.index(a) for a in ("bradycardia", "tachycardia", "ventricular flutter", ALARMS[5]))
_DECK = ("alarm",) * 12 + ("apnea",) * 3 + ("distress",) * 5 + ("routine",) * 2

HIDDEN_SHARE, MASKED_SHARE, WRONG_SHARE = 0.35, 0.40, 0.15
"""How often the bed is hidden from the camera, the room's sound drowned, a chart line stale or wrong."""
_ACTS = ("still", "limp", "moving", "nurse")
_ACT_IF_TRUE, _ACT_IF_FALSE, _ACT_IF_NEITHER = (0.09, 0.84, 0.05, 0.02), (0.15, 0.02, 0.48, 0.35), (0.70, 0.05, 0.13, 0.12)
_VOICES = ("silent", "gasp", "talk")
_VOICE_IF_TRUE, _VOICE_IF_FALSE, _VOICE_IF_NEITHER = (0.14, 0.84, 0.02), (0.24, 0.02, 0.74), (0.82, 0.04, 0.14)
_RUSTLE_OF_MOTION, _RUSTLE_OTHERWISE, _VOICE_OF_NURSE, _NURSE_OTHERWISE = 0.7, 0.1, 0.75, 0.1
_PLETH_SHARES = (0.38, 0.18, 0.28, 0.16)
"""Clean, low perfusion, disturbed, slipped off: whatever is true."""
_PACED_IF_FALSE, _PACED_IF_TRUE = 0.30, 0.05
_FALLING_SPO2 = (0.35, 0.60)
FILLERS = (
    "chart: no notes",
    "chart: vitals noted",
    "ward: visiting hours until 8 pm",
    "chart: fluids running",
    "ward: dinner is served",
    "monitor: self test passed",
)
_FILLER_S, _REPEAT_S = 5.0, 3.0
_RESTING: dict[str, float] = {"effort": 0.85, "airflow": 0.7, "impedance": 1.0}


@dataclass(slots=True, kw_only=True)
class Encounters:
    """Writes encounter after encounter; ``at`` is the step being written."""

    rng: np.random.Generator
    room: Room
    steps: int
    at: int = 0
    encounters: list[Encounter] = field(default_factory=list)
    lines: list[tuple[float, str]] = field(default_factory=list)
    arrays: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ["alarm", "apnea", "distress", "alarm_on", "rhythm", "pleth", "hidden", "posture", "masked", "chart", "told"]
        names += ["burst", "covered", "limp", "moving", "nurse", "gasp", "talk", "rustle", "nurse_voice", "cry", "thump"]
        names += ["heart_bpm", "pulse_bpm", "effort", "airflow", "impedance", "cardiac", "spo2", "motion_hz", "decisive"]
        self.arrays = {name: np.zeros(self.steps) for name in names}
        for name, value in _RESTING.items():
            self.arrays[name][:] = value
        self.arrays["heart_bpm"][:] = self.arrays["pulse_bpm"][:] = self.room.heart_bpm
        self.arrays["spo2"][:] = self.room.spo2
        self.arrays["decisive"][:] = -1.0

    @property
    def now_s(self) -> float:
        """Where the script has got to."""
        return self.at / GRID_HZ

    # -- the script -----------------------------------------------------------------------------------------------

    def shuffled(self, *, routine: bool) -> list[str]:
        """The kinds of a deck of encounters, in random order."""
        cards = [card for card in _DECK if routine or card != "routine"]
        return [cards[i] for i in self.rng.permutation(len(cards))]

    def segment(self, kind: str, routine_s: float | None = None) -> None:
        """A short gap and one encounter, with what hides it drawn before and apart from its truth."""
        first = self.at
        gap_s = float(self.rng.uniform(2.0, 4.5))
        veil = self._veil()
        start = first + round(gap_s * GRID_HZ)
        busy: tuple[float, float] | None
        if kind == "alarm":
            stop, busy = self._alarm(start, veil)
        elif kind == "apnea":
            stop, busy = self._apnea(start, veil)
        elif kind == "distress":
            stop, busy = self._distress(start, veil)
        else:
            stop, busy = self._routine(start, routine_s or float(self.rng.uniform(8.0, 20.0)))
        self._hide(slice(first, stop), veil)
        self._fill(first, stop, busy)
        self.at = stop

    # -- what hides it --------------------------------------------------------------------------------------------

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _either(self, shares: tuple[float, ...]) -> int:
        return int(self.rng.choice(len(shares), p=shares))

    def _veil(self) -> dict[str, float]:
        """What each sensor cannot perceive in this segment."""
        rng = self.rng
        return {
            "hidden": 1 + self._either((0.4, 0.3, 0.3)) if self._chance(HIDDEN_SHARE) else 0,
            "masked": 1 + self._either((0.5, 0.5)) if self._chance(MASKED_SHARE) else 0,
            "pleth": (_CLEAR_PLETH, _FLAT, _NOISY, _OFF)[self._either(_PLETH_SHARES)],
            "pleth_from": 0,
            "covered": self._chance(0.25),
            "loose": self._chance(0.12),
            "snore": self._chance(0.25),
            "cardiac": float(rng.uniform(0.03, 0.15)),
        }

    def _hide(self, span: slice, veil: dict[str, float]) -> None:
        a = self.arrays
        for name in ("hidden", "masked", "covered", "cardiac"):
            a[name][span] = veil[name]
        a["impedance"][span] = 0.0 if veil["loose"] else 1.0
        if veil["pleth"] != _CLEAR_PLETH:
            a["pleth"][max(span.start, int(veil["pleth_from"])) : span.stop] = veil["pleth"]
        if veil["snore"]:
            a["airflow"][span] = np.where(a["airflow"][span] >= 0.6, 1.5, a["airflow"][span])

    def _span(self, start_s: float, stop_s: float) -> slice:
        return slice(max(0, round(start_s * GRID_HZ)), min(self.steps, round(stop_s * GRID_HZ)))

    # -- what patient and staff do --------------------------------------------------------------------------------

    def _signs(self, start_s: float, stop_s: float, act: int, voice: int) -> None:
        """Write what can be seen and heard of ``act`` and ``voice``; each begins about ``start_s`` and ends after ``stop_s``."""
        rng, a = self.rng, self.arrays
        seen = self._span(start_s + rng.uniform(-1.0, 1.2), stop_s + rng.uniform(0.0, 1.0))
        heard = self._span(start_s + rng.uniform(-1.0, 1.2), stop_s + rng.uniform(0.0, 1.0))
        if _ACTS[act] != "still":
            a[_ACTS[act]][seen] = 1
        a["motion_hz"][seen] = rng.uniform(1.2, 2.6)
        if _VOICES[voice] != "silent":
            a[_VOICES[voice]][heard] = 1
        if self._chance(_RUSTLE_OF_MOTION if _ACTS[act] == "moving" else _RUSTLE_OTHERWISE):
            a["rustle"][heard] = 1
            a["motion_hz"][heard] = a["motion_hz"][seen.start]
        if self._chance(_VOICE_OF_NURSE if _ACTS[act] == "nurse" else _NURSE_OTHERWISE):
            a["nurse_voice"][heard] = 1

    def _say(self, start_s: float, stop_s: float, chart: int, told: int, line: str) -> None:
        """Repeat a line from ``start_s`` on; the latents hold what the newest line says."""
        first_s = start_s + float(self.rng.uniform(0.0, 0.6))
        times = np.arange(first_s, stop_s - 0.5, _REPEAT_S)
        self.lines += [(float(t), line) for t in times]
        span = self._span(first_s, stop_s)
        self.arrays["chart"][span] = chart
        self.arrays["told"][span] = told

    def _fill(self, first: int, stop: int, busy: tuple[float, float] | None) -> None:
        """Lines that say nothing, where no other line is repeated."""
        for time_s in np.arange(first / GRID_HZ + self.rng.uniform(0.2, 1.5), stop / GRID_HZ, _FILLER_S):
            time_s += float(self.rng.uniform(0.0, 2.0))
            if busy is None or not busy[0] - 0.5 < time_s < busy[1] + 1.0:
                self.lines.append((float(time_s), FILLERS[int(self.rng.integers(len(FILLERS)))]))

    def _chart_line(self, chart: int) -> str:
        fast = f"{DEFAULT_LIMITS_BPM[0]}-{DEFAULT_LIMITS_BPM[1]}", f"{WIDE_LIMITS_BPM[0]}-{WIDE_LIMITS_BPM[1]}"
        return "chart: " + CHARTS[chart].format(default=fast[0], wide=fast[1])

    def _note(
        self, kind: str, what: str, truth: bool, span_s: tuple[float, float], true_s: tuple[float, float], **more: Any
    ) -> None:
        critical_s = more.pop("critical_s", true_s[1])
        self.encounters.append(
            Encounter(
                kind=kind, what=what, truth=truth, start_s=span_s[0], stop_s=span_s[1], onset_s=true_s[0], end_s=true_s[1],
                critical_s=critical_s, **more,
            )
        )  # fmt: skip

    # -- alarms ---------------------------------------------------------------------------------------------------

    def _alarm(self, start: int, veil: dict[str, float]) -> tuple[int, tuple[float, float]]:
        rng, a = self.rng, self.arrays
        counts = np.array([ALARM_MIX[name][1] for name in ALARMS[1:]], np.float64)
        kind = 1 + int(rng.choice(5, p=counts / counts.sum()))
        true, every = ALARM_MIX[ALARMS[kind]]
        truth = self._chance(true / every)
        of_rate = kind in (_BRADY, _TACHY)
        cause = "true" if truth else "limits" if of_rate and self._chance(0.6) else "artefact"
        wide = cause == "limits" or (of_rate and self._chance(0.2))
        on_s = start / GRID_HZ
        off_s = on_s + float(rng.uniform(10.0, 14.0))
        span = self._span(on_s, off_s)
        bpm = self._rate(kind, cause, wide)
        a["heart_bpm"][span] = bpm
        a["rhythm"][span] = a["alarm_on"][span] = kind
        a["alarm"][span] = truth
        if of_rate and cause != "artefact":
            a["pulse_bpm"][span] = bpm
        # Whatever takes the pulse wave, lost pulse or lost probe, takes it as the alarm begins: when says nothing.
        lost = self._span(on_s + rng.uniform(0.0, 0.8), off_s)
        veil["pleth_from"] = lost.start
        if truth and not of_rate:
            a["pleth"][lost] = _FLAT
        act = self._either(_ACT_IF_TRUE if truth else _ACT_IF_FALSE)
        voice = self._either(_VOICE_IF_TRUE if truth else _VOICE_IF_FALSE)
        self._signs(on_s, off_s, act, voice)
        said, right = self._chart_of_alarm(kind, truth, wide, int(veil["pleth"]))
        told_s = on_s
        self._say(told_s, off_s, said, kind, f"monitor: ALARM {ALARMS[kind]}; {self._chart_line(said)}")
        ended_s = off_s + float(rng.uniform(0.0, 0.3))
        self.lines.append((ended_s, "monitor: alarm off"))
        clean = veil["pleth"] == _CLEAR_PLETH
        cues = (
            not veil["hidden"] and (_ACTS[act] == "limp" if truth else _ACTS[act] in ("moving", "nurse")),
            not veil["masked"] and _VOICES[voice] == ("gasp" if truth else "talk"),
            clean and cause == "artefact",
            right and cause == "limits",
        )
        a["decisive"][span] = cues.index(True) if sum(cues) == 1 else -1
        self._note("alarm", ALARMS[kind], truth, (on_s, off_s), (on_s, off_s), cause=cause)
        return span.stop + round(float(rng.uniform(1.2, 2.0)) * GRID_HZ), (on_s, ended_s)

    def _rate(self, kind: int, cause: str, wide: bool) -> float:
        """Rate of the beats that the ECG shows; beyond the patient's own limits where the alarm is true."""
        rng = self.rng
        if kind == _TACHY:
            low, high = (122, 145) if cause == "limits" else (155, 172) if cause == "true" and wide else (122, 172)
        elif kind == _BRADY:
            low, high = (38, 48) if cause == "limits" else (26, 32) if cause == "true" and wide else (26, 48)
        elif kind == _VT:
            low, high = 140, 220
        else:
            low, high = (240, 330) if kind == _FLUTTER else (0, 0)
        return float(rng.uniform(low, high))

    def _chart_of_alarm(self, kind: int, truth: bool, wide: bool, pleth: int) -> tuple[int, bool]:
        """What the chart says beside the alarm, and whether that is right."""
        right = not self._chance(WRONG_SHARE)
        if kind in (_BRADY, _TACHY):
            return (_WIDE if wide == right else _LIMITS), right
        paced = kind == _VT and self._chance(_PACED_IF_TRUE if truth else _PACED_IF_FALSE)
        chart = _PACEMAKER if paced else _LOW_PERFUSION if pleth == _FLAT else 0
        if not right:
            chart = int(self.rng.choice([_LOW_PERFUSION, _PACEMAKER])) if chart == 0 else 0
        return chart, right

    # -- apnea ----------------------------------------------------------------------------------------------------

    def _apnea(self, start: int, veil: dict[str, float]) -> tuple[int, tuple[float, float]]:
        rng, a = self.rng, self.arrays
        what = ("central", "obstructive", "quiet breathing", "slipped probe", "calm")[self._either((0.3, 0.12, 0.25, 0.18, 0.15))]
        truth = what in ("central", "obstructive")
        # that the probe has slipped says little in itself: it does so beside true ones too
        veil["pleth"] = _OFF if self._chance(0.75 if what == "slipped probe" else 0.12) else float(rng.choice([0, 1, 2]))
        stop_s = start / GRID_HZ
        fall_s = stop_s + float(rng.uniform(20.0, 40.0))
        first = self.room.spo2
        rate = float(rng.uniform(*_FALLING_SPO2))
        critical_s = fall_s + (first - CRITICAL_SPO2) / rate
        resume_s = critical_s + float(rng.uniform(2.0, 7.0))
        low_s = resume_s + float(rng.uniform(6.0, 10.0))
        end_s = low_s + float(rng.uniform(14.0, 20.0))
        away = self._span(stop_s, resume_s)
        if what == "central":
            a["effort"][away] = a["airflow"][away] = 0.0
        elif what == "obstructive":
            a["effort"][away], a["airflow"][away] = float(rng.uniform(0.5, 0.9)), 0.0
        elif what == "quiet breathing":
            a["effort"][away], a["airflow"][away] = float(rng.uniform(0.12, 0.45)), float(rng.uniform(0.1, 0.55))
        if truth or what == "slipped probe":
            knots = (fall_s, critical_s, low_s, end_s)
            lowest = first - rate * (low_s - fall_s)
            span = self._span(stop_s, end_s)
            times = np.arange(span.start, span.stop) / GRID_HZ
            a["spo2"][span] = np.interp(times, knots, (first, CRITICAL_SPO2, lowest, first))
        if truth:
            a["apnea"][self._span(stop_s + APNEA_AFTER_S, resume_s)] = 1
        self._signs(stop_s, resume_s, self._either((0.82, 0.05, 0.05, 0.08)), 0)
        opioids = self._chance(0.5 if truth else 0.25)
        busy = None
        if opioids:
            self._say(stop_s - 2.0, resume_s, _OPIOIDS, 0, self._chart_line(_OPIOIDS))
            busy = (stop_s - 2.0, resume_s)
        true_s = (stop_s + APNEA_AFTER_S, resume_s)
        self._note("apnea", what, truth, (stop_s, end_s), true_s, critical_s=critical_s)
        return self._span(stop_s, end_s + 2.0).stop, busy or (0.0, 0.0)

    # -- falls and distress ---------------------------------------------------------------------------------------

    def _distress(self, start: int, veil: dict[str, float]) -> tuple[int, tuple[float, float]]:
        rng = self.rng
        sorts = ("fall", "distress", "dropped object", "sits up", "physio on the mat", "television", "exercise")
        what = sorts[self._either((0.26, 0.20, 0.13, 0.12, 0.13, 0.08, 0.08))]
        truth = what in ("fall", "distress")
        on_s = start / GRID_HZ
        off_s = on_s + float(rng.uniform(12.0, 20.0))
        # thump, posture, cry, moving arm, nurse, talk, movement of the trunk, faster heart, chart
        thump, posture, cry, moving, nurse, talk, burst, faster = {
            "fall": (0.92, _FLOOR, 0.6, 0.25, 0.08, 0.05, 0.8, 0.6),
            "distress": (0.15, 0, 0.9, 0.75, 0.08, 0.05, 0.7, 0.6),
            "dropped object": (0.95, 0, 0.04, 0.2, 0.15, 0.3, 0.1, 0.1),
            "sits up": (0.1, _EDGE, 0.04, 0.2, 0.1, 0.25, 0.7, 0.4),
            "physio on the mat": (0.3, _FLOOR, 0.05, 0.5, 0.9, 0.3, 0.7, 0.5),
            "television": (0.1, 0, 0.9, 0.1, 0.05, 0.05, 0.1, 0.1),
            "exercise": (0.1, 0, 0.05, 0.95, 0.25, 0.2, 0.6, 0.6),
        }[what]
        a = self.arrays
        span = self._span(on_s, off_s)
        if self._chance(thump):
            a["thump"][span.start] = 1
        a["posture"][span] = posture
        for name, share in (("cry", cry), ("moving", moving), ("nurse", nurse), ("talk", talk)):
            if self._chance(share):
                begins_s = on_s + float(rng.uniform(0.0, 1.0))
                a[name][self._span(begins_s, off_s)] = 1
        a["motion_hz"][span] = rng.uniform(1.2, 2.6)
        a["nurse_voice"][span] = self._chance(_VOICE_OF_NURSE if a["nurse"][span].any() else _NURSE_OTHERWISE)
        if self._chance(burst):
            a["burst"][self._span(on_s, on_s + rng.uniform(2.0, 4.0))] = 1
        if self._chance(faster):
            a["heart_bpm"][span] += 22.0
            a["pulse_bpm"][span] += 22.0
        a["distress"][span] = truth
        said = {"fall": _FALL_RISK, "physio on the mat": _PHYSIO, "exercise": _PHYSIO}.get(what, 0)
        if self._chance(WRONG_SHARE):
            said = int(rng.choice([_FALL_RISK, _PHYSIO])) if said == 0 else 0
        begins_s = on_s - float(rng.uniform(0.5, 2.0))
        self._say(begins_s, off_s, said, 0, self._chart_line(said))
        self._note("distress", what, truth, (on_s, off_s), (on_s, off_s))
        return span.stop + round(float(rng.uniform(1.0, 2.0)) * GRID_HZ), (begins_s, off_s)

    # -- routine --------------------------------------------------------------------------------------------------

    def _routine(self, start: int, seconds: float) -> tuple[int, tuple[float, float] | None]:
        on_s, off_s = start / GRID_HZ, start / GRID_HZ + seconds
        self._signs(on_s, off_s, self._either(_ACT_IF_NEITHER), self._either(_VOICE_IF_NEITHER))
        busy = None
        if self._chance(0.4):
            chart = 1 + self._either((0.15, 0.15, 0.15, 0.1, 0.2, 0.15, 0.1))
            self._say(on_s, off_s, chart, 0, self._chart_line(chart))
            busy = (on_s, off_s)
        self._note("routine", "routine", False, (on_s, off_s), (on_s, off_s))
        return start + round((seconds + 1.5) * GRID_HZ), busy
