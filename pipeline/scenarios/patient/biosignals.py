"""The simulated monitor: ECG, pulse wave, chest impedance and its own numbers, at 125 Hz.

Not a medical device; simulation. Single beats, pulses and breaths are neurokit2's (Makowski et al., 2021; ECGSYN, McSharry et
al., 2003), made once a course and laid out here by the rhythm; the ventricular rhythms are shapes of our own. Whatever the
cause of an alarm, the ECG comes from the same generator: only pulse wave, rate and rhythm tell anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.patient.course import ALARMS, GRID_HZ, PLETH, Course
from pipeline.scenarios.spans import spans_of

CHANNELS = ("ecg_mv", "pleth", "resp", "spo2_percent", "heart_rate_bpm")
UNITS = ("mV", "1", "1", "percent", "bpm")
TELEMETRY_RATE_HZ = 125
_BEFORE_S, _AFTER_S = 0.3, 0.5
_REFRACTORY_S = 0.22
_NOISE_S = 64
_FLUTTER, _VT = ALARMS.index("ventricular flutter"), ALARMS.index("ventricular tachycardia")
Signal = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Templates:
    beat: Signal
    """From 0.3 s before the R peak to 0.5 s after, in mV."""
    pulse: Signal
    """One cycle, 0 to 1."""
    breath: Signal
    """One cycle from breathed out, -1 to 1."""


def telemetry(course: Course) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_]]:
    """The simulated monitor's rows: ``times_s [m]`` (rising, jittered about 125 Hz), ``values [m, 5]``, ``valid [m, 5]``.

    Channels as in `CHANNELS`; invalid values are 0. ECG in steps of 5 µV, the numbers whole and a second apart. Raises
    RuntimeError when neurokit2 is missing.
    """
    rng = np.random.Generator(np.random.PCG64([course.seed, 3]))
    shapes = _templates(course.seed)
    m = round(course.duration_s * TELEMETRY_RATE_HZ)
    grid = np.arange(m) / TELEMETRY_RATE_HZ
    steps = np.minimum((grid * GRID_HZ + 1e-6).astype(np.int64), len(course.times_s) - 1)
    breath = np.interp(grid, course.times_s, course.breath_phase)
    noise = _Noise(rng)
    burst = course.burst[steps] * noise.taken("movement", m)
    pulse_phase, beat_phase = _phases(course, steps, breath, noise.taken("slow", m))
    ecg = _ecg(course, steps, beat_phase, shapes, rng, noise)
    ecg += 0.04 * np.sin(breath + 0.5) + 0.03 * noise.taken("slow", m) + 0.5 * burst
    ecg += course.room.ecg_noise_mv * rng.standard_normal(m)
    pleth = _pleth(course, steps, pulse_phase, shapes, rng, noise)
    resp = _resp(course, grid, steps, breath, beat_phase, shapes) + 0.8 * burst + 0.015 * rng.standard_normal(m)
    values = np.stack(
        [np.round(ecg / 0.005) * 0.005, np.round(pleth * 512) / 512, np.round(resp * 512) / 512, *_numbers(course, grid, rng)],
        axis=1,
    )
    valid = rng.random((m, len(CHANNELS)), dtype=np.float32) > 0.001
    times = np.maximum(0.0, (np.arange(m) + rng.uniform(-0.2, 0.2, m)) / TELEMETRY_RATE_HZ)
    return times, np.where(valid, values, 0.0).astype(np.float32), valid


def _templates(seed: int) -> _Templates:
    """One beat, one pulse, one breath: neurokit2's, by the course's seed."""
    try:
        import neurokit2 as nk
    except ImportError as error:
        raise RuntimeError("neurokit2 is missing: install the extra `sim`") from error
    state = seed % 2**31
    rate = TELEMETRY_RATE_HZ
    # 250 Hz inside ECGSYN, so that the R peak is met; one beat in four is kept
    long = np.asarray(
        nk.ecg_simulate(duration=8, sampling_rate=2 * rate, heart_rate=62, noise=0, method="ecgsyn", random_state=state)
    )
    inner = long[2 * rate : -2 * rate]
    peak = int(np.argmax(inner)) + 2 * rate
    beat = long[peak - round(2 * rate * _BEFORE_S) : peak + round(2 * rate * _AFTER_S) : 2].astype(np.float64)
    ramp = np.linspace(beat[0], beat[-1], len(beat))
    wave = np.asarray(
        nk.ppg_simulate(
            duration=6, sampling_rate=rate, heart_rate=60, frequency_modulation=0, ibi_randomness=0, drift=0, motion_amplitude=0,
            powerline_amplitude=0, burst_number=0, burst_amplitude=0, random_state=state,
        ),
        np.float64,
    )  # fmt: skip
    foot = rate + int(np.argmin(wave[rate : 2 * rate]))
    pulse = wave[foot : foot + rate]
    chest = np.asarray(
        nk.rsp_simulate(duration=20, sampling_rate=100, respiratory_rate=15, noise=0, method="sinusoidal", random_state=state),
        np.float64,
    )
    low = 400 + int(np.argmin(chest[400:800]))
    breath = chest[low : low + 400]
    return _Templates(
        beat=(beat - ramp) / float(np.max(beat - ramp)),
        pulse=(pulse - pulse.min()) / float(np.ptp(pulse)),
        breath=2.0 * (breath - breath.min()) / float(np.ptp(breath)) - 1.0,
    )


class _Noise:
    """Unit noise of three colours, made once and read from random places."""

    _BANDS_HZ: ClassVar[dict[str, tuple[float, float]]] = {"slow": (0.03, 0.4), "movement": (0.6, 12.0), "pulse-like": (0.5, 3.5)}

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        n = _NOISE_S * TELEMETRY_RATE_HZ
        hz = np.fft.rfftfreq(n, 1 / TELEMETRY_RATE_HZ)
        self._tiles: dict[str, Signal] = {}
        for name, (low, high) in self._BANDS_HZ.items():
            spectrum = np.where((hz >= low) & (hz <= high), np.maximum(hz, low) ** -0.5, 0.0)
            tile = np.fft.irfft(spectrum * np.exp(2j * np.pi * rng.random(len(hz))), n)
            self._tiles[name] = tile / tile.std()

    def taken(self, name: str, n: int) -> Signal:
        """``n`` values of a colour."""
        tile = self._tiles[name]
        return np.resize(np.roll(tile, int(self._rng.integers(len(tile)))), n)


def _phases(course: Course, steps: NDArray[np.int64], breath: Signal, sway: Signal) -> tuple[Signal, Signal]:
    """Cycles of the pulse and of what the ECG shows. They are one but while the ECG shows another rate."""
    vary = 1.0 + 0.025 * np.sin(breath) + 0.015 * sway
    pulse = np.cumsum(course.pulse_bpm[steps] * vary) / (60.0 * TELEMETRY_RATE_HZ)
    shown = np.cumsum(course.heart_bpm[steps] * vary) / (60.0 * TELEMETRY_RATE_HZ)
    apart = shown - pulse
    same = course.heart_bpm[steps] == course.pulse_bpm[steps]
    index = np.maximum.accumulate(np.where(same, np.arange(len(steps)), 0))
    return pulse, pulse + apart - apart[index]


def _ecg(
    course: Course, steps: NDArray[np.int64], phase: Signal, shapes: _Templates, rng: np.random.Generator, noise: _Noise
) -> Signal:
    """Beat after beat, each laid at its R peak; flutter is a swinging wave."""
    m = len(phase)
    rhythm = course.rhythm[steps]
    before, after = round(_BEFORE_S * TELEMETRY_RATE_HZ), round(_AFTER_S * TELEMETRY_RATE_HZ)
    ecg = np.zeros(m + before + after)
    stretched = {share: _stretched(shapes.beat, before, share) for share in (0.55, 0.7, 0.85, 1.0)}
    wide: Signal = shapes.beat
    episode = -1
    starts = np.flatnonzero(np.diff(rhythm == _VT, prepend=False))
    last, rows = -1000, np.flatnonzero(np.diff(np.floor(phase), prepend=0.0) > 0)
    sizes = 1.0 + 0.06 * rng.standard_normal(len(rows))
    for row, size in zip(rows.tolist(), sizes.tolist(), strict=True):
        kind = rhythm[row]
        gap_s = (row - last) / TELEMETRY_RATE_HZ
        if kind in (1, _FLUTTER) or gap_s < _REFRACTORY_S:
            continue
        last = row
        if kind == _VT:
            number = int(np.searchsorted(starts, row, side="right"))
            if number != episode:
                episode, wide = number, _wide_beat(rng, before, after)
            ecg[row : row + before + after] += size * wide
        else:
            share = min(stretched, key=lambda s: abs(s - min(1.0, gap_s**0.5)))
            ecg[row : row + before + after] += size * stretched[share]
    result = ecg[before : before + m]
    for first, stop in spans_of(rhythm == _FLUTTER):
        result[first:stop] += _flutter(stop - first, course.heart_bpm[steps[first]] / 60.0, rng)
    quiet = (rhythm == 1) * noise.taken("slow", m)
    ecg_mv: Signal = course.room.ecg_gain * (result + 0.02 * quiet)
    return ecg_mv


def _stretched(beat: Signal, before: int, share: float) -> Signal:
    """The beat with everything nearer to its R peak, as at a faster rate; the QRS itself hardly narrows."""
    offsets = np.arange(len(beat)) - before
    bent = np.where(np.abs(offsets) < 6, offsets, np.sign(offsets) * (6 + (np.abs(offsets) - 6) / share))
    faster: Signal = np.interp(bent, offsets, beat, left=0.0, right=0.0)
    return faster


def _wide_beat(rng: np.random.Generator, before: int, after: int) -> Signal:
    """A ventricular beat: a broad complex and a T wave against it."""
    seconds = (np.arange(before + after) - before) / TELEMETRY_RATE_HZ
    width = rng.uniform(0.045, 0.065)
    sign = float(rng.choice([-1.0, 1.0]))
    shape = np.exp(-0.5 * (seconds / width) ** 2) - rng.uniform(0.35, 0.6) * np.exp(-0.5 * ((seconds - 0.16) / 0.06) ** 2)
    wide: Signal = sign * float(rng.uniform(0.9, 1.4)) * shape
    return wide


def _flutter(n: int, hz: float, rng: np.random.Generator) -> Signal:
    """A wave without beats, whose rate and size swing."""
    seconds = np.arange(n) / TELEMETRY_RATE_HZ
    slow = rng.uniform(0.3, 0.9, 2)
    turn = 2 * np.pi * hz * seconds + 0.9 * np.sin(2 * np.pi * slow[0] * seconds + rng.uniform(0, 6))
    size = rng.uniform(0.45, 0.8) * (1.0 + 0.35 * np.sin(2 * np.pi * slow[1] * seconds + rng.uniform(0, 6)))
    wave: Signal = size * (np.sin(turn) + 0.25 * np.sin(0.61 * turn + 1.0))
    return wave


def _pleth(
    course: Course, steps: NDArray[np.int64], phase: Signal, shapes: _Templates, rng: np.random.Generator, noise: _Noise
) -> Signal:
    """The pulse wave a quarter of a second after the beat. Flat is flat, whatever has made it so."""
    m = len(phase)
    late = round(0.25 * TELEMETRY_RATE_HZ)
    delayed = np.concatenate([np.full(late, phase[0]), phase])[:m]
    cycle = np.mod(delayed, 1.0) * len(shapes.pulse)
    wave = np.interp(cycle, np.arange(len(shapes.pulse) + 1), np.append(shapes.pulse, shapes.pulse[0])) - 0.4
    state = course.pleth[steps]
    gain = float(rng.uniform(0.7, 1.1))
    pleth = np.where(state == PLETH.index("pulses"), gain * wave, 0.0)
    pleth += np.where(state == PLETH.index("noisy"), 0.45 * noise.taken("pulse-like", m), 0.0)
    pleth += 0.015 * rng.standard_normal(m) + 0.02 * noise.taken("slow", m)
    return pleth


def _resp(course: Course, grid: Signal, steps: NDArray[np.int64], breath: Signal, phase: Signal, shapes: _Templates) -> Signal:
    """Chest impedance: the breath as far as the electrodes show it, and the heartbeat."""
    shown = np.interp(grid, course.times_s, course.effort * course.impedance)
    cycle = np.mod(breath / (2 * np.pi), 1.0) * len(shapes.breath)
    wave = np.interp(cycle, np.arange(len(shapes.breath) + 1), np.append(shapes.breath, shapes.breath[0]))
    beats = np.where(np.isin(course.rhythm[steps], (1, _FLUTTER)), 0.0, np.sin(2 * np.pi * phase))
    resp: Signal = 0.5 * shown * wave + 0.5 * course.cardiac[steps] * beats
    return resp


def _numbers(course: Course, grid: Signal, rng: np.random.Generator) -> tuple[Signal, Signal]:
    """The monitor's SpO2 and heart rate: whole, once a second, the rate as a mean of the past second and a half."""
    seconds = np.arange(int(np.ceil(course.duration_s)) + 1)
    steps = np.minimum(seconds * GRID_HZ, len(course.times_s) - 1)
    length = round(1.5 * GRID_HZ)
    total = np.cumsum(np.concatenate([np.full(length, course.heart_bpm[0]), course.heart_bpm]))
    mean = (total[length:] - total[:-length]) / length
    spo2 = np.clip(course.spo2[steps] + 0.3 * rng.standard_normal(len(seconds)), 50.0, 100.0)
    rate = np.maximum(0.0, mean[steps] + rng.standard_normal(len(seconds)))
    rows = grid.astype(np.int64)
    return np.asarray(np.round(spo2)[rows], np.float64), np.asarray(np.round(rate)[rows], np.float64)
