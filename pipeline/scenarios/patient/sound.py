"""The simulated room microphone: breath, snoring, gasps, rustle, voices, thumps, the monitor, television and the ward.

Not a medical device; simulation. Each source has its place in the room: level falls with distance, and what happens on the
floor comes with the room's reverberation. A drowned sound is left out: the masker is far louder.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.patient.course import GRID_HZ, HEARD_AIRFLOW, MASKED, Course

SAMPLE_RATE_HZ = 16_000
_PER_STEP = SAMPLE_RATE_HZ // GRID_HZ
_TILE_S = 16
_REFERENCE_M = 1.0
_DISTANCE_M = {"patient": 1.2, "nurse": 1.8, "floor": 2.2, "monitor": 2.0, "television": 3.0}
Samples = NDArray[np.float32]


def pcm(course: Course, start_s: float = 0.0, stop_s: float | None = None) -> NDArray[np.int16]:
    """The simulated sound: int16 ``[16000 * duration]``, mono, 16 kHz; a pure function of the course.

    ``start_s`` and ``stop_s`` (multiples of 0.1 s) cut a part out of it, rendered without the rest.
    """
    first = round(start_s * GRID_HZ)
    last = len(course.times_s) if stop_s is None else min(len(course.times_s), round(stop_s * GRID_HZ))
    room = _Sounds(course)
    parts = []
    for begin in range(first, last, _CHUNK):
        parts.append(room.rendered(begin, min(last, begin + _CHUNK)))
    return np.concatenate(parts) if parts else np.zeros(0, np.int16)


_CHUNK = 600
"""Steps rendered at once: a minute."""


def _gain(place: str) -> float:
    return _REFERENCE_M / _DISTANCE_M[place]


class _Sounds:
    """Tiles of every source, made once a course; a sound is a tile under an envelope, so that any part costs its length."""

    def __init__(self, course: Course) -> None:
        self._course = course
        rng = np.random.Generator(np.random.PCG64([course.seed, 2]))
        n = _TILE_S * SAMPLE_RATE_HZ
        self._length = n
        seconds = (np.arange(n) / SAMPLE_RATE_HZ).astype(np.float32)
        pitch = course.room.pitch_hz
        hiss = _coloured(rng, 0.25, 120, 7500)
        breath = _coloured(rng, 0.4, 300, 4500)
        self._ward = _coloured(rng, 0.9, 40, 1500) * 0.7 + hiss * 0.3
        self._breath = breath
        self._snore = _buzz(seconds, 55.0) * 0.6 + breath * 0.3
        self._gasp = _gasps(seconds, _coloured(rng, 0.2, 500, 3500), rng)
        self._talk = _speech(seconds, pitch, rng)
        self._nurse = _speech(seconds, 215.0 if pitch < 150 else 120.0, rng)
        self._cry = _cries(seconds, pitch, rng)
        self._rustle = _coloured(rng, 0.0, 1800, 7000)
        self._tv = 0.75 * _speech(seconds, 150.0, rng) + 0.8 * _music(seconds, rng) + 0.5 * breath
        self._pump = _pump(seconds, hiss, rng)
        self._thump = _thump(rng)
        self._low_tv = bool(rng.random() < 0.3)

    def _tile(self, tile: Samples, first: int, last: int) -> Samples:
        start = first * _PER_STEP % self._length
        count = (last - first) * _PER_STEP
        repeats = -(-(start + count) // self._length)
        return (np.tile(tile, repeats) if repeats > 1 else tile)[start : start + count]

    def _level(self, values: NDArray[np.float64], first: int, last: int) -> Samples:
        """Steps as a smooth envelope at the sample rate: linear, from one step before, so that parts join."""
        before = values[max(0, first - 1)]
        knots = np.concatenate([[before], values[first:last]])
        ramp = np.arange(1, _PER_STEP + 1, dtype=np.float32) / np.float32(_PER_STEP)
        low, high = knots[:-1].astype(np.float32), knots[1:].astype(np.float32)
        level: Samples = (low[:, None] + (high - low)[:, None] * ramp).reshape(-1)
        return level

    def rendered(self, first: int, last: int) -> NDArray[np.int16]:
        """Steps ``first`` to ``last``."""
        c = self._course
        clear = (c.masked == 0).astype(np.float64)
        mix = np.float32(0.006 * c.room.noise_level) * self._tile(self._ward, first, last)
        inhaled = np.maximum(0.0, np.sin(c.breath_phase[max(0, first - 1) : last])) ** 0.7
        exhaled = 0.6 * np.maximum(0.0, -np.sin(c.breath_phase[max(0, first - 1) : last])) ** 0.7
        breathing = np.zeros(len(c.times_s))
        breathing[max(0, first - 1) : last] = inhaled + exhaled
        soft = np.clip(c.airflow - HEARD_AIRFLOW, 0.0, 0.5) / 0.5  # what is too quiet to be heard is not there at all
        parts: list[tuple[Samples, NDArray[np.float64]]] = [
            (self._breath, 0.075 * _gain("patient") * clear * soft * breathing),
            (self._snore, 0.16 * _gain("patient") * clear * (c.airflow > 1.0) * breathing),
            (self._gasp, 0.30 * _gain("patient") * clear * c.gasp),
            (self._talk, 0.22 * _gain("patient") * clear * c.talk),
            (self._cry, 0.36 * _gain("patient") * clear * c.cry),
            (self._nurse, 0.24 * _gain("nurse") * clear * c.nurse_voice),
            (self._tv, (0.9 * (c.masked == MASKED.index("tv")) + 0.03 * self._low_tv) * _gain("television")),
            (self._pump, 0.30 * (c.masked == MASKED.index("pump"))),
        ]
        for tile, envelope in parts:
            if envelope[max(0, first - 1) : last].any():
                mix += self._level(envelope, first, last) * self._tile(tile, first, last)
        self._add_rustle(mix, first, last, clear)
        self._add_beeps(mix, first, last)
        self._add_thumps(mix, first, last, clear)
        mix *= np.float32(c.room.microphone_gain)
        np.tanh(mix, out=mix)
        return (mix * 32000).astype(np.int16)

    def _add_rustle(self, mix: Samples, first: int, last: int, clear: NDArray[np.float64]) -> None:
        """Cloth, twice a cycle of the movement."""
        c = self._course
        level = clear * c.rustle
        if not level[max(0, first - 1) : last].any():
            return
        seconds = (np.arange(first * _PER_STEP, last * _PER_STEP) / SAMPLE_RATE_HZ).astype(np.float32)
        hz = np.repeat(c.motion_hz[first:last].astype(np.float32), _PER_STEP)
        strokes = np.abs(np.sin(np.float32(np.pi) * hz * seconds)) ** 3
        mix += (
            np.float32(0.13 * _gain("patient"))
            * self._level(level, first, last)
            * strokes
            * self._tile(self._rustle, first, last)
        )

    def _add_beeps(self, mix: Samples, first: int, last: int) -> None:
        """The monitor: three tones every two seconds while an alarm is on, the same for each; heard through everything."""
        c = self._course
        on = (c.alarm_on > 0).astype(np.float64)
        if not on[max(0, first - 1) : last].any():
            return
        index = np.arange(first * _PER_STEP, last * _PER_STEP)
        seconds = (index % (2 * SAMPLE_RATE_HZ)) / np.float32(SAMPLE_RATE_HZ)
        tone = np.zeros(len(index), np.float32)
        for begin, hz in ((0.0, 880.0), (0.25, 988.0), (0.5, 880.0)):
            part = (seconds >= begin) & (seconds < begin + 0.16)
            own = seconds[part] - begin
            tone[part] = np.sin(2 * np.pi * hz * own) * np.minimum(1.0, np.minimum(own, 0.16 - own) * 80.0)
        mix += np.float32(0.10 * _gain("monitor")) * self._level(on, first, last) * tone

    def _add_thumps(self, mix: Samples, first: int, last: int, clear: NDArray[np.float64]) -> None:
        c = self._course
        reach = -(-len(self._thump) // _PER_STEP)
        for step in np.flatnonzero(c.thump[max(0, first - reach) : last]) + max(0, first - reach):
            start = (int(step) - first) * _PER_STEP
            skip = max(0, -start)
            begin = max(0, start)
            count = min(len(self._thump) - skip, len(mix) - begin)
            if count > 0 and clear[step]:
                mix[begin : begin + count] += np.float32(1.6 * _gain("floor")) * self._thump[skip : skip + count]


def _coloured(rng: np.random.Generator, exponent: float, low_hz: float, high_hz: float) -> Samples:
    """Noise of unit power with a spectrum ~ 1/f^exponent within a band, seamless when repeated."""
    n = _TILE_S * SAMPLE_RATE_HZ
    hz = np.fft.rfftfreq(n, 1 / SAMPLE_RATE_HZ)
    shape = np.where((hz >= low_hz) & (hz <= high_hz), np.maximum(hz, 1.0) ** -exponent, 0.0)
    noise = np.fft.irfft(shape * np.exp(2j * np.pi * rng.random(len(hz))), n)
    unit: Samples = (noise / noise.std()).astype(np.float32)
    return unit


def _unit(sound: NDArray[np.floating]) -> Samples:
    """Scaled to a root mean square of 0.3 where it sounds."""
    loud = np.abs(sound) > 1e-3
    unit: Samples = (0.3 * sound / max(1e-6, float(np.sqrt(np.mean(sound[loud] ** 2))))).astype(np.float32)
    return unit


def _buzz(seconds: Samples, hz: float) -> Samples:
    """A rough tone: a snore's flutter of the palate. ``hz`` times the tile's length is whole, so that it repeats seamlessly."""
    buzz: Samples = (np.exp(-6.0 * (1.0 - np.cos(2 * np.pi * hz * seconds))) - 0.2).astype(np.float32)
    return buzz


def _envelope(seconds: Samples, starts: list[float], lengths: list[float], fade_s: float) -> Samples:
    level = np.zeros(len(seconds), np.float32)
    for start, length in zip(starts, lengths, strict=True):
        first, last = round(start * SAMPLE_RATE_HZ), min(len(seconds), round((start + length) * SAMPLE_RATE_HZ))
        own = np.arange(last - first, dtype=np.float32) / SAMPLE_RATE_HZ
        level[first:last] = np.maximum(level[first:last], np.minimum(1.0, np.minimum(own, length - own) / fade_s))
    return np.maximum(level, 0.0)


def _timed(
    rng: np.random.Generator, gap_s: tuple[float, float], length_s: tuple[float, float]
) -> tuple[list[float], list[float]]:
    starts, lengths, now_s = [], [], 0.05
    while now_s < _TILE_S - 0.1:
        length = float(rng.uniform(*length_s))
        starts.append(now_s)
        lengths.append(min(length, _TILE_S - 0.05 - now_s))
        now_s += length + float(rng.uniform(*gap_s))
    return starts, lengths


def _voiced(seconds: Samples, pitch: Samples, formants: list[tuple[Samples, float]]) -> Samples:
    """Harmonics of a pitch, each as loud as it is near a formant (centre in Hz over time, bandwidth in Hz)."""
    turn = np.mod(np.cumsum(pitch, dtype=np.float64) * (2 * np.pi / SAMPLE_RATE_HZ), 2 * np.pi).astype(np.float32)
    sine, twice = np.sin(turn), 2 * np.cos(turn)
    before, harmonic = np.zeros_like(sine), sine
    voice = np.zeros_like(sine)
    for number in range(1, 16):
        near = sum(width**2 / ((number * pitch - centre) ** 2 + width**2) for centre, width in formants)
        voice += np.float32(1.0 / number**0.4) * near * harmonic
        before, harmonic = harmonic, twice * harmonic - before
    return voice


def _speech(seconds: Samples, pitch_hz: float, rng: np.random.Generator) -> Samples:
    """Syllables of a fifth of a second with wandering formants, words apart by short pauses."""
    knots = int(_TILE_S * 5)
    grid = np.linspace(0, _TILE_S, knots)

    def wander(low: float, high: float) -> Samples:
        return np.interp(seconds, grid, rng.uniform(low, high, knots)).astype(np.float32)

    pitch = np.float32(pitch_hz) * wander(0.88, 1.15)
    voice = _voiced(seconds, pitch, [(wander(320, 800), 90.0), (wander(900, 2200), 140.0), (wander(2400, 2900), 200.0)])
    starts, lengths = _timed(rng, (0.03, 0.16), (0.12, 0.30))
    return _unit(voice * _envelope(seconds, starts, lengths, 0.03))


def _cries(seconds: Samples, pitch_hz: float, rng: np.random.Generator) -> Samples:
    """Cries of about a second whose pitch rises and falls, well above speech."""
    starts, lengths = _timed(rng, (0.25, 0.6), (0.7, 1.3))
    level = _envelope(seconds, starts, lengths, 0.15)
    pitch = np.float32(2.1 * pitch_hz) * (1.0 + 0.35 * level)
    voice = _voiced(seconds, pitch, [(np.full_like(seconds, 950.0), 200.0), (np.full_like(seconds, 1500.0), 250.0)])
    return _unit(voice * level)


def _gasps(seconds: Samples, noise: Samples, rng: np.random.Generator) -> Samples:
    """Agonal breaths: short, harsh, one every one and a half seconds or so."""
    starts, lengths = _timed(rng, (0.7, 1.1), (0.5, 0.8))
    level = _envelope(seconds, starts, lengths, 0.06)
    rough = 0.6 + 0.4 * np.sign(np.sin(2 * np.pi * 31.0 * seconds))
    return _unit(noise * rough * level)


def _music(seconds: Samples, rng: np.random.Generator) -> Samples:
    """Chords that change every half second."""
    notes = 220.0 * 2.0 ** (rng.integers(0, 24, (3, _TILE_S * 2)) / 12.0)
    step = np.minimum((seconds * 2).astype(np.int64), _TILE_S * 2 - 1)
    chord = sum(np.sin(2 * np.pi * np.round(row)[step] * seconds) for row in notes)
    return _unit(np.asarray(chord, np.float32))


def _pump(seconds: Samples, hiss: Samples, rng: np.random.Generator) -> Samples:
    """A suction pump: hiss, hum, and its stroke."""
    hum = np.sin(2 * np.pi * 100.0 * seconds) + 0.6 * np.sin(2 * np.pi * 200.0 * seconds)
    stroke = 0.7 + 0.3 * np.sin(2 * np.pi * float(rng.integers(24, 40)) / _TILE_S * seconds)
    pump: Samples = (stroke * (0.8 * hiss + 0.5 * hum)).astype(np.float32)
    return pump


def _thump(rng: np.random.Generator) -> Samples:
    """Something heavy on the floor, and the room's answer: decaying noise of 0.4 s (Sabine's decay, three reflections)."""
    n = round(0.9 * SAMPLE_RATE_HZ)
    seconds = np.arange(n) / SAMPLE_RATE_HZ
    hit = np.exp(-seconds / 0.05) * np.sin(2 * np.pi * rng.uniform(55, 85) * seconds)
    hit += 0.5 * np.exp(-seconds / 0.012) * rng.standard_normal(n)
    answer = 0.05 * np.exp(-6.9 * seconds / 0.4) * rng.standard_normal(n)
    answer[0] = 1.0
    for delay_s, share in ((0.009, 0.5), (0.016, 0.35), (0.027, 0.25)):
        answer[round(delay_s * SAMPLE_RATE_HZ)] += share
    both = np.fft.irfft(np.fft.rfft(hit, 2 * n) * np.fft.rfft(answer, 2 * n), 2 * n)[:n]
    thump: Samples = (both / np.abs(both).max()).astype(np.float32)
    return thump
