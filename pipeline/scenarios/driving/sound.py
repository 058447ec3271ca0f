"""The simulated microphone: fan, road, wind, rain, sirens with Doppler and 1/r, horn, skidding, radio."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.driving.drive import FRAME_RATE_HZ, SIREN_KINDS, SOURCES, Drive
from pipeline.scenarios.spans import spans_of

SAMPLE_RATE_HZ = 16_000
SOUND_MPS = 343.0
_RADIO = SOURCES.index("radio")
_SIREN_LEVEL = 0.42
"""Amplitude at the reference distance."""
_REFERENCE_M = 14.0
_NOISE_S = 11
Samples = NDArray[np.float32]


def pcm(drive: Drive) -> NDArray[np.int16]:
    """The simulated sound of the drive: int16 ``[16000 * duration]``, mono, 16 kHz; a pure function of the drive."""
    n = round(drive.duration_s * SAMPLE_RATE_HZ)
    rng = np.random.Generator(np.random.PCG64([drive.seed, 2]))
    speed = _at_rate(drive.speed_mps, n)
    mix = _hum(n, rng)
    mix += _noise(drive, speed, rng)
    for first, last in spans_of(drive.siren_audible > 0):
        _add_siren(mix, drive, first, last, rng)
    for loud, synth in ((drive.horn, _horn), (drive.skid, _skid)):
        for first, last in spans_of(loud > 0):
            start, stop = _span(first, last, n)
            mix[start:stop] += synth(stop - start, rng) * (0.35 * float(loud[first]) * _edges(stop - start))
    mix *= 0.55 * drive.surroundings.microphone_gain
    np.tanh(mix, out=mix)
    return (mix * 32000).astype(np.int16)


def _at_rate(values: NDArray[np.float64], n: int) -> Samples:
    """Frame-rate values at the sample rate, linear in between."""
    grid = np.arange(n, dtype=np.float32) * np.float32(FRAME_RATE_HZ / SAMPLE_RATE_HZ)
    resampled: Samples = np.interp(grid, np.arange(len(values)), values).astype(np.float32)
    return resampled


def _span(first: int, last: int, n: int) -> tuple[int, int]:
    per = SAMPLE_RATE_HZ // FRAME_RATE_HZ
    return min(n, first * per), min(n, last * per)


def _edges(n: int, fade: int = 1200) -> Samples:
    """A fade at both ends."""
    ramp = np.arange(n, dtype=np.float32)
    edges: Samples = np.minimum(1.0, np.minimum(ramp, n - 1 - ramp) / fade).astype(np.float32)
    return edges


def _hum(n: int, rng: np.random.Generator) -> Samples:
    """The car is electric: its compressor and fan hum at a pitch of their own, whatever the speed."""
    phase = np.arange(n) * (2 * np.pi * float(rng.uniform(26.0, 72.0)) / SAMPLE_RATE_HZ)
    sine = np.sin(phase).astype(np.float32)
    # sin of multiples by the Chebyshev recurrence: one sine, one cosine for all harmonics
    twice = 2 * np.cos(phase).astype(np.float32)
    second = twice * sine
    third = twice * second - sine
    fourth = twice * third - second
    result: Samples = np.float32(rng.uniform(0.012, 0.04)) * (sine + 0.7 * second + 0.4 * third + 0.3 * fourth)
    return result


def _surface(n: int, rng: np.random.Generator) -> Samples:
    """How loud the road is: 0.4 to 2.5 times, another every few seconds, so that loudness says little of the speed."""
    knots = np.cumsum(np.concatenate([[0.0], rng.uniform(1.5, 6.0, n // SAMPLE_RATE_HZ + 2)])) * SAMPLE_RATE_HZ
    loud = np.exp(rng.uniform(np.log(0.4), np.log(2.5), len(knots)))
    steps: Samples = np.interp(np.arange(n, dtype=np.float32), knots, loud).astype(np.float32)
    return steps


def _coloured(rng: np.random.Generator, exponent: float, low_hz: float, high_hz: float) -> Samples:
    """Noise of unit power with a spectrum ~ 1/f^exponent within a band, `_NOISE_S` seconds, seamless when repeated."""
    n = _NOISE_S * SAMPLE_RATE_HZ
    hz = np.fft.rfftfreq(n, 1 / SAMPLE_RATE_HZ)
    shape = np.where((hz >= low_hz) & (hz <= high_hz), np.maximum(hz, 1.0) ** -exponent, 0.0)
    spectrum = shape * np.exp(2j * np.pi * rng.random(len(hz)))
    noise = np.fft.irfft(spectrum, n)
    unit: Samples = (noise / noise.std()).astype(np.float32)
    return unit


def _tiled(noise: Samples, n: int, start: int = 0) -> Samples:
    return np.resize(np.roll(noise, -start), n)


def _noise(drive: Drive, speed: Samples, rng: np.random.Generator) -> Samples:
    n, around = len(speed), drive.surroundings
    road = _tiled(_coloured(rng, 0.8, 40, 2500), n)
    hiss = _tiled(_coloured(rng, 0.3, 150, 7500), n, 5000)
    road *= np.float32(around.noise_level) * _surface(n, rng) * (0.012 + 0.0008 * speed)
    hiss *= np.float32(around.noise_level) * (0.006 + 0.0001 * speed + 0.022 * around.rain)
    road += hiss
    return road


def _phase(kind: str, seconds: NDArray[np.float64], offset: float) -> NDArray[np.float64]:
    """The phase of a siren in rad at its own time, in closed form, so that Doppler is a warp of time."""
    if kind == "hi-lo":
        period, high, low = 1.1, 660.0, 450.0
        whole, part = np.divmod(seconds + offset, period)
        ahead = np.minimum(part, period / 2) * high + np.maximum(part - period / 2, 0.0) * low
        return 2 * np.pi * (whole * (high + low) * period / 2 + ahead)
    period, centre, swing = (3.2, 1050.0, 400.0) if kind == "wail" else (0.35, 1100.0, 400.0)
    turn = 2 * np.pi * (seconds + offset) / period
    return 2 * np.pi * centre * seconds - swing * period * np.cos(turn)


def _add_siren(mix: Samples, drive: Drive, first: int, last: int, rng: np.random.Generator) -> None:
    start, stop = _span(first, last, len(mix))
    kind = SIREN_KINDS[int(drive.siren_kind[first])]
    offset = float(rng.uniform(0, 3.0))
    frames = np.arange(first, last)
    grid = np.arange(start, stop) * (FRAME_RATE_HZ / SAMPLE_RATE_HZ)
    seconds = np.arange(start, stop) / SAMPLE_RATE_HZ
    audible = np.interp(grid, frames, drive.siren_audible[first:last]).astype(np.float32)
    if int(drive.siren_source[first]) == _RADIO:
        phase = _phase(kind, seconds, offset).astype(np.float32)
        voice = np.sin(phase) + 0.25 * np.sin(3 * phase)
        crackle = _tiled(_coloured(rng, 0.0, 500, 3000), stop - start)
        mix[start:stop] += audible * np.float32(rng.uniform(0.06, 0.12)) * (voice + 0.25 * crackle)
        return
    frame_range = np.hypot(np.hypot(drive.siren_x_m[first:last], drive.siren_y_m[first:last]), 2.0)
    metres = np.interp(grid, frames, frame_range)
    # what is heard now left the siren metres / c ago: the warp of time is the Doppler shift
    phase64 = _phase(kind, seconds - metres / SOUND_MPS, offset)
    phase = np.mod(phase64, 2 * np.pi).astype(np.float32)
    distance = metres.astype(np.float32)
    gain = _SIREN_LEVEL * np.minimum(1.0, _REFERENCE_M / distance)
    # buildings between us and a cross street take level and treble
    if SOURCES[int(drive.siren_source[first])] == "cross":
        gain *= np.float32(0.8)
    sine, twice = np.sin(phase), 2 * np.cos(phase)
    second = twice * sine
    third = twice * second - sine
    air = np.exp(-distance / 90.0)
    mix[start:stop] += audible * gain * (sine + 0.6 * air * second + 0.4 * air * air * third)


def _horn(n: int, rng: np.random.Generator) -> Samples:
    """Two tones a third apart, rich in harmonics."""
    seconds = np.arange(n) / SAMPLE_RATE_HZ
    low = float(rng.uniform(330, 440))
    tone = np.sin(2 * np.pi * low * seconds) + np.sin(2 * np.pi * low * 1.26 * seconds)
    return np.tanh(2.0 * tone).astype(np.float32)


def _skid(n: int, rng: np.random.Generator) -> Samples:
    """A squeal: narrow noise about a gliding pitch."""
    squeal = _tiled(_coloured(rng, 0.0, 1900, 2600), n)
    rough = _tiled(_coloured(rng, 0.2, 800, 5000), n)
    result: Samples = 0.8 * squeal + 0.35 * rough
    return result
