"""Writes a simulated drive episode after episode: own speed, traffic, what dispatch is told, and the labels at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.driving.drive import (
    ACTIONS,
    FRAME_RATE_HZ,
    MOVING_MPS,
    SLOW_TTC_S,
    STOP_TTC_S,
    Conditions,
    Drive,
    Episode,
    Surroundings,
)

KEEP, SLOW, YIELD, STOP = range(len(ACTIONS))
HIDDEN = 0.4
"""How often a truck stands between us and what comes from one side, whether anything comes or not."""
_TRAFFIC_S = 6.0
_ABSENT = ("siren_x_m", "siren_y_m", "truck_behind_m", "truck_ahead_m", "obstacle_m", "lead_m")
_PRESENT = (
    "speed_mps", "emergency", "slow", "stop", "siren_source", "siren_audible", "siren_kind", "siren_visible", "light_colour",
    "obstacle", "obstacle_visible", "lead_truck", "lead_braking", "horn", "skid", "zone", "traffic",
)  # fmt: skip
_INTS = ("siren_source", "siren_kind", "light_colour", "obstacle")
_BOOLS = ("siren_visible", "obstacle_visible", "lead_truck", "lead_braking", "zone")
_WORKING = ("slow", "stop", "traffic")
"""Kept while writing, not part of a `Drive`."""


@dataclass(slots=True, kw_only=True)
class Script:
    """``at`` is the frame being written, ``speed`` the speed reached there. `sirens` and `hazards` write the episodes."""

    rng: np.random.Generator
    surroundings: Surroundings
    conditions: Conditions
    frames: int
    at: int = 0
    speed: float = 10.0
    episodes: list[Episode] = field(default_factory=list)
    arrays: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """An empty road."""
        self.speed = float(self.rng.uniform(7.0, 16.0))
        self.arrays |= {name: np.full(self.frames, np.nan) for name in _ABSENT}
        self.arrays |= {name: np.zeros(self.frames) for name in _PRESENT}

    @property
    def now_s(self) -> float:
        """How far the drive is written."""
        return self.at / FRAME_RATE_HZ

    # -- own speed ------------------------------------------------------------------------------------------------

    def hold(self, seconds: float) -> slice:
        """Keep the speed; gives the frames written."""
        return self._write(np.full(max(1, round(seconds * FRAME_RATE_HZ)), self.speed))

    def ramp(self, speed: float, accel: float = 3.0) -> slice:
        """Go to another speed at a constant rate."""
        steps = max(1, round(abs(speed - self.speed) / accel * FRAME_RATE_HZ))
        return self._write(np.linspace(self.speed, speed, steps + 1)[1:])

    def _write(self, speeds: NDArray[np.float64]) -> slice:
        start = self.at
        stop = min(self.frames, start + len(speeds))
        self.arrays["speed_mps"][start:stop] = speeds[: stop - start]
        self.at = stop
        self.speed = float(speeds[-1])
        return slice(start, stop)

    # -- traffic --------------------------------------------------------------------------------------------------

    def traffic(self, frames: slice, *, behind: bool | None = None, ahead: bool | None = None) -> None:
        """Trucks and a vehicle ahead during these frames; a side that is not given is drawn, whatever the episode is."""
        rng, arrays = self.rng, self.arrays
        behind = bool(rng.random() < HIDDEN) if behind is None else behind
        ahead = bool(rng.random() < HIDDEN) if ahead is None else ahead
        arrays["traffic"][frames] = 1
        if behind:
            arrays["truck_behind_m"][frames] = rng.uniform(8.0, 11.0)
        if ahead:
            arrays["truck_ahead_m"][frames] = rng.uniform(11.0, 16.0)
        elif rng.random() < 0.35:
            arrays["lead_m"][frames] = rng.uniform(14.0, 45.0)
            arrays["lead_truck"][frames] = rng.random() < 0.3

    def _ordinary_traffic(self) -> None:
        """Traffic where no episode asked for any."""
        length = round(_TRAFFIC_S * FRAME_RATE_HZ)
        free = np.flatnonzero(self.arrays["traffic"][: self.at] == 0)
        for part in np.split(free, np.flatnonzero(np.diff(free) != 1) + 1):
            for start in range(0, len(part), length):
                piece = part[start : start + length]
                self.traffic(slice(int(piece[0]), int(piece[-1]) + 1))

    def cruise(self, seconds: float) -> None:
        """Ordinary driving: speeds change, sometimes we stand, now and then somebody sounds a horn."""
        rng, until_s = self.rng, min(self.now_s + seconds, self.frames / FRAME_RATE_HZ)
        while self.now_s < until_s:
            self.ramp(0.0 if rng.random() < 0.15 else float(rng.uniform(4.0, 18.0)), float(rng.uniform(1.0, 3.0)))
            frames = self.hold(float(rng.uniform(4.0, 12.0)))
            if rng.random() < 0.04:
                self.arrays["horn"][frames.start : frames.start + 20] = rng.uniform(0.4, 1.0)

    def note(self, kind: str, start: int, stop: int, *, source: int = 0, said: int = 0, limit_kmh: int = 0) -> None:
        """Keep an episode for the text feed and for evaluation."""
        self.episodes.append(
            Episode(
                kind=kind,
                start_s=start / FRAME_RATE_HZ,
                end_s=stop / FRAME_RATE_HZ,
                source=source,
                said=said,
                unit=int(self.rng.integers(1, 40)),
                vehicle=str(self.rng.choice(["ambulance", "fire engine", "police car"])),
                limit_kmh=limit_kmh,
            )
        )

    # -- finish ---------------------------------------------------------------------------------------------------

    def finished(self, seed: int, duration_s: float) -> Drive:
        """Cut to length, derive labels and motion."""
        self._ordinary_traffic()
        n = round(duration_s * FRAME_RATE_HZ)
        a = {name: values[:n] for name, values in self.arrays.items()}
        speed = a["speed_mps"]
        emergency = (a["emergency"] > 0) & (speed > MOVING_MPS)
        ttc = _unbraked_ttc_s(a)
        collision = (a["stop"] > 0) | ((speed > 0.5) & (ttc < STOP_TTC_S))
        phase = self.rng.uniform(0, 2 * np.pi, 2)
        position = np.concatenate([[0.0], np.cumsum(speed)[:-1]]) / FRAME_RATE_HZ
        arrays: dict[str, NDArray[Any]] = {
            name: values.astype(np.uint8 if name in _INTS else np.bool_ if name in _BOOLS else np.float64)
            for name, values in a.items()
            if name not in _WORKING
        }
        arrays |= {
            "frame_times_s": np.arange(n) / FRAME_RATE_HZ,
            "emergency": emergency.astype(np.uint8),
            "collision": collision.astype(np.uint8),
            "action": _actions(a, ttc, emergency, collision),
            "accel_mps2": np.gradient(speed) * FRAME_RATE_HZ if n > 1 else np.zeros(n),
            "position_m": position,
            "curvature_per_m": 0.0016 * np.sin(position / 140 + phase[0]) + 0.0012 * np.sin(position / 57 + phase[1]),
        }
        for array in arrays.values():
            array.setflags(write=False)
        return Drive(
            seed=seed,
            duration_s=duration_s,
            surroundings=self.surroundings,
            episodes=tuple(e for e in self.episodes if e.start_s < duration_s),
            **arrays,
        )


def _unbraked_ttc_s(a: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Distance by speed, for every obstacle stands; infinite without one."""
    with np.errstate(invalid="ignore"):
        return np.where(a["obstacle"] > 0, a["obstacle_m"] / np.maximum(a["speed_mps"], 1e-6), np.inf)


def _actions(
    a: dict[str, NDArray[np.float64]], ttc: NDArray[np.float64], emergency: NDArray[np.bool_], collision: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Priority stop, yield, slow, keep."""
    action = np.full(len(ttc), KEEP, np.uint8)
    action[(a["slow"] > 0) | ((a["speed_mps"] > 0.5) & (ttc < SLOW_TTC_S))] = SLOW
    action[emergency] = YIELD
    action[collision] = STOP
    return action
