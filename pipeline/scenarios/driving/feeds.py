"""The simulated car bus and text feed, and how late the simulated sensors deliver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.driving.drive import FRAME_RATE_HZ, SOURCES, Drive, Episode, Surroundings

CHANNELS = (
    "speed_mps",
    "accel_forward_mps2",
    "accel_left_mps2",
    "accel_up_mps2",
    "yaw_rate_radps",
    "steering_rad",
    "brake",
    "throttle",
)
TELEMETRY_RATE_HZ = 100
_WHEELBASE_M = 2.7
_GRAVITY_MPS2 = 9.81


def telemetry(drive: Drive) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_]]:
    """The simulated car bus: ``times_s [m]`` (rising, jittered about 100 Hz), ``values [m, 8]``, ``valid [m, 8]``.

    Channels as in `CHANNELS`; invalid values are 0. Wheel speed steps by 0.05 m/s.
    """
    rng = np.random.Generator(np.random.PCG64([drive.seed, 3]))
    m = round(drive.duration_s * TELEMETRY_RATE_HZ)
    times = np.maximum(0.0, (np.arange(m) + rng.uniform(-0.2, 0.2, m)) / TELEMETRY_RATE_HZ)
    grid = times * FRAME_RATE_HZ
    frames = np.arange(len(drive.frame_times_s))
    speed, accel, bend = (
        np.interp(grid, frames, values) for values in (drive.speed_mps, drive.accel_mps2, drive.curvature_per_m)
    )
    yaw = -speed * bend
    shake = 0.05 + 0.015 * speed
    brake = np.clip(-accel / 8.0, 0, 1)
    throttle = np.clip(accel / 5.0 + speed / 60.0 * (accel > -0.5), 0, 1)
    clean = (
        (speed, 0.05),
        (accel, 0.25),
        (speed * yaw, 0.15),
        (np.full(m, _GRAVITY_MPS2) + shake * rng.standard_normal(m), 0.05),
        (yaw, 0.004),
        (-np.arctan(_WHEELBASE_M * bend) * 14.0, 0.01),
        (brake, 0.01),
        (throttle, 0.01),
    )
    values = np.stack([channel + noise * rng.standard_normal(m) for channel, noise in clean], axis=1)
    values[:, 0] = np.maximum(0.0, np.round(values[:, 0] / 0.05) * 0.05)
    values[:, 6:] = np.clip(values[:, 6:], 0.0, 1.0)
    valid = rng.random((m, len(CHANNELS))) > 0.002
    return times, np.where(valid, values, 0.0).astype(np.float32), valid


_SAYS = {
    "behind": "dispatch: {vehicle} {unit} en route, {road} {bound}, your carriageway, from behind",
    "ahead": "dispatch: {vehicle} {unit} en route, {road} {bound}, your carriageway, ahead",
    "receding": "dispatch: {vehicle} {unit} has passed you, {road} {bound}, moving away",
    "cross": "dispatch: {vehicle} {unit} en route, cross street, not your road",
    "opposite": "dispatch: {vehicle} {unit} en route, {road} {opposed}, opposite carriageway",
    "parked": "dispatch: {vehicle} {unit} parked on scene, {road} {bound}, hard shoulder",
    "work lights": "traffic: tow truck at work, {road} {bound}, no siren",
}
_OPPOSED = {"north": "south", "south": "north", "east": "west", "west": "east"}
_FILLERS = (
    "traffic: {road} {bound}, flow normal",
    "traffic: {road} {bound}, light queue at exit {unit}",
    "weather: {weather}",
    "dispatch: unit {unit} back at station",
    "radio: music programme",
    "dispatch: unit {unit} on break",
)
_REPEAT_S = 3.0
_FILLER_S = 4.5


def text_lines(drive: Drive) -> list[tuple[float, str]]:
    """The simulated text feed, ``(time_s, line)`` in time order: dispatch, traffic, weather.

    A line comes at or up to 0.6 s before what it is about, and again every 3 s while that lasts. It names our own road and
    direction. Lines about sirens are stale or wrong 15% of the time, and then consistently so.
    """
    rng = np.random.Generator(np.random.PCG64([drive.seed, 4]))
    lines: list[tuple[float, str]] = []
    for episode in drive.episodes:
        lines += _about(episode, drive.surroundings, rng)
    lines = [(time_s, line) for time_s, line in lines if 0.0 <= time_s < drive.duration_s]
    busy = np.array(sorted(time_s for time_s, _ in lines))
    for time_s in np.arange(rng.uniform(0.2, 1.0), drive.duration_s, _FILLER_S):
        time_s += rng.uniform(0.0, 2.0)
        # a filler never comes right after a line that matters
        if time_s < drive.duration_s and not np.any((busy > time_s - 3.5) & (busy < time_s + 0.5)):
            filler = _FILLERS[int(rng.integers(len(_FILLERS)))]
            lines.append((float(time_s), _filled(filler, drive.surroundings, int(rng.integers(1, 40)))))
    return sorted(lines)


def _filled(line: str, around: Surroundings, unit: int, vehicle: str = "unit") -> str:
    weather = "dry" if around.rain == 0 else "light rain" if around.rain < 0.7 else "heavy rain, spray"
    return line.format(
        road=around.road, bound=around.bound, opposed=_OPPOSED[around.bound], unit=unit, vehicle=vehicle, weather=weather
    )


def _about(episode: Episode, around: Surroundings, rng: np.random.Generator) -> list[tuple[float, str]]:
    start = episode.start_s - float(rng.uniform(0.0, 0.6))
    if episode.limit_kmh:
        says = f"traffic: slow zone, {episode.limit_kmh} km/h, {around.road} {around.bound}"
        over = "traffic: slow zone ends"
    elif episode.said:
        says = _filled(_SAYS[SOURCES[episode.said]], around, episode.unit, episode.vehicle)
        over = f"dispatch: {episode.vehicle} {episode.unit} is clear of your road"
    else:
        return []
    repeats = np.arange(start, episode.end_s - 0.7, _REPEAT_S)
    return [*((float(time_s), says) for time_s in repeats), (episode.end_s + float(rng.uniform(0.0, 0.3)), over)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How late each simulated sample reaches the runtime, and when a sensor is out."""

    seed: int
    gaps_s: dict[str, tuple[tuple[float, float], ...]]
    """Stream to the spans in which it delivers nothing."""

    def delays_s(self, stream: str, capture_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Delay of each sample in s, ``[n]``, 1 to 8 ms; NaN where the sample is lost."""
        streams = sorted(self.gaps_s)
        rng = np.random.Generator(np.random.PCG64([self.seed, 5, streams.index(stream)]))
        delays = np.minimum(0.008, 0.001 + rng.exponential(0.0012, len(capture_s)))
        for start, stop in self.gaps_s[stream]:
            delays[(capture_s >= start) & (capture_s < stop)] = np.nan
        return delays


def arrivals(drive: Drive) -> Arrivals:
    """Delays and dropouts of the simulated sensors: a stream is out for 0.3 to 3 s about once in two minutes."""
    rng = np.random.Generator(np.random.PCG64([drive.seed, 6]))
    gaps: dict[str, tuple[tuple[float, float], ...]] = {}
    for stream in ("camera", "microphone", "telemetry", "text"):
        count = int(rng.poisson(drive.duration_s / 120.0))
        starts = np.sort(rng.uniform(1.0, max(1.5, drive.duration_s - 3.0), count))
        gaps[stream] = tuple((float(s), float(s + rng.uniform(0.3, 3.0))) for s in starts)
    return Arrivals(seed=drive.seed, gaps_s=gaps)
