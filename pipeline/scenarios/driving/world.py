"""The simulated driving world: latent states of a drive, from which every simulated sensor is rendered.

Nothing here is recorded. A drive is a sequence of scripted episodes (a siren vehicle that will reach us, one that will not, a red
light, a pedestrian, a slow zone …) with their decoys. `sample_drive` makes latents and labels on a 20 Hz camera grid; `scene`,
`sound` and `feeds` render what camera, microphone, telemetry and text could perceive of them. No single sensor suffices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.driving.drive import (
    ACTIONS,
    FRAME_RATE_HZ,
    MOVING_MPS,
    OBSTACLES,
    SIREN_KINDS,
    SLOW_TTC_S,
    SOURCES,
    STOP_TTC_S,
    Drive,
    Episode,
    Surroundings,
)

__all__ = [
    "ACTIONS",
    "FRAME_RATE_HZ",
    "MOVING_MPS",
    "OBSTACLES",
    "SIREN_KINDS",
    "SLOW_TTC_S",
    "SOURCES",
    "STOP_TTC_S",
    "Drive",
    "Episode",
    "Surroundings",
    "sample_drive",
]

KEEP, SLOW, YIELD, STOP = range(4)
_NONE, _BEHIND, _AHEAD, _RECEDING, _CROSS, _OPPOSITE, _PARKED, _RADIO, _WORK = range(9)

_PAD_S = 150.0
"""Episodes are written past the end of the drive and cut off there."""


_EVENTFUL_S = 45.0
_DRAWS = 32


def sample_drive(seed: int, duration_s: float) -> Drive:
    """The latents and labels of a simulated drive: a pure function of its arguments.

    A drive of 45 s or more holds at least one true emergency: a draw whose emergencies all fall past its end is drawn again.
    Raises ValueError when ``duration_s`` is not between 1 s and 2 h.
    """
    if not 1.0 <= duration_s <= 7200.0:
        raise ValueError(f"duration_s is {duration_s}: give 1 to 7200 s")
    drive = _draw(seed, [seed], duration_s)
    for attempt in range(1, _DRAWS):
        if duration_s < _EVENTFUL_S or drive.emergency.any():
            break
        drive = _draw(seed, [seed, attempt], duration_s)
    return drive


def _draw(seed: int, entropy: list[int], duration_s: float) -> Drive:
    rng = np.random.Generator(np.random.PCG64(entropy if len(entropy) > 1 else seed))
    surroundings = _surroundings(rng)
    script = _Script(rng=rng, surroundings=surroundings, frames=round((duration_s + _PAD_S) * FRAME_RATE_HZ))
    while script.now_s < duration_s:
        script.play_deck()
    return script.finished(seed, duration_s)


def _surroundings(rng: np.random.Generator) -> Surroundings:
    return Surroundings(
        daylight=float(rng.choice([1.0, 0.8, 0.5, 0.35], p=[0.4, 0.25, 0.15, 0.2])),
        rain=float(rng.choice([0.0, 0.4, 1.0], p=[0.6, 0.25, 0.15])),
        mist=float(rng.choice([0.0, 0.15, 0.35], p=[0.65, 0.25, 0.1])),
        divider=bool(rng.random() < 0.5),
        camera_noise=float(rng.uniform(1.0, 6.0)),
        microphone_gain=float(rng.uniform(0.7, 1.3)),
        noise_level=float(rng.uniform(0.5, 1.6)),
        road=str(rng.choice(["A12", "A4", "B87", "E40"])),
        bound=str(rng.choice(["north", "south", "east", "west"])),
    )


@dataclass(slots=True, kw_only=True)
class _Script:
    """Writes episode after episode; ``at`` is the frame being written, ``speed`` the speed reached there."""

    rng: np.random.Generator
    surroundings: Surroundings
    frames: int
    at: int = 0
    speed: float = 10.0
    episodes: list[Episode] = field(default_factory=list)
    arrays: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.speed = float(self.rng.uniform(7.0, 16.0))
        absent = ("siren_x_m", "siren_y_m", "blocker_y_m", "obstacle_m", "lead_m")
        present = ["speed_mps", "emergency", "slow", "stop", "siren_source", "siren_audible", "siren_kind", "siren_visible"]
        present += ["light_colour", "obstacle", "obstacle_visible", "lead_truck", "lead_braking", "horn", "skid", "zone"]
        for name in absent:
            self.arrays[name] = np.full(self.frames, np.nan)
        for name in present:
            self.arrays[name] = np.zeros(self.frames)

    @property
    def now_s(self) -> float:
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

    # -- the deck -------------------------------------------------------------------------------------------------

    def play_deck(self) -> None:
        """About a minute in which every action occurs, in random order."""
        rng = self.rng
        cards = [self.emergency, self.obstacle, self.obstacle_or_hidden, self.zone, self.siren_decoy, self.siren_decoy]
        for index in rng.permutation(len(cards)):
            self.gap()
            cards[index]()
        extra = [self.emergency] * 3 + [self.siren_decoy, self.light_decoy, self.text_decoy, self.horn_decoy, self.far_obstacle]
        self.gap()
        extra[int(rng.integers(len(extra)))]()

    def gap(self) -> None:
        """Calm traffic, sometimes behind another vehicle."""
        frames = self.hold(float(self.rng.uniform(0.2, 0.8)))
        self._maybe_lead(frames, 0.3)

    def _maybe_lead(self, frames: slice, chance: float) -> None:
        if self.rng.random() < chance:
            self.arrays["lead_m"][frames] = self.rng.uniform(14.0, 45.0)
            self.arrays["lead_truck"][frames] = self.rng.random() < 0.3

    # -- sirens and lights ----------------------------------------------------------------------------------------

    def emergency(self) -> None:
        """A siren vehicle that will reach us while we move: yield until it has passed."""
        source = _BEHIND if self.surroundings.divider or self.rng.random() < 0.6 else _AHEAD
        self.ramp(float(self.rng.uniform(5.0, 18.0)))
        self.hold(float(self.rng.uniform(0.3, 0.8)))
        approach_s = float(self.rng.uniform(6.5, 8.5))
        frames = self.hold(approach_s)
        after = self.hold(float(self.rng.uniform(0.8, 1.5)))
        self._siren(frames.start, frames.stop, after.stop, source)
        self.arrays["emergency"][frames] = 1

    def siren_decoy(self) -> None:
        """The same sound or sight with nobody to yield to."""
        # Weights: how often the microphone alone would be fooled decides what it is worth alone.
        kinds = [_CROSS, _OPPOSITE if self.surroundings.divider else _CROSS, _PARKED, _NONE, _RECEDING, _RADIO]
        source = int(self.rng.choice(kinds, p=[0.2, 0.2, 0.18, 0.26, 0.08, 0.08]))
        length_s = float(self.rng.uniform(5.5, 7.5))
        if source == _NONE:  # we stand, and a siren vehicle passes
            self.ramp(0.0, 3.0)
            self.hold(0.6)
            frames = self.hold(length_s)
            after = self.hold(1.0)
            self._siren(frames.start, frames.stop, after.stop, _BEHIND if self.surroundings.divider else _AHEAD)
            if self.rng.random() < 0.5:
                self.arrays["obstacle"][frames.start - 12 : after.stop] = 3
                self.arrays["obstacle_m"][frames.start - 12 : after.stop] = self.rng.uniform(4.0, 12.0)
                self.arrays["obstacle_visible"][frames.start - 12 : after.stop] = 1
            return
        self.ramp(float(self.rng.uniform(5.0, 18.0)))
        self.hold(float(self.rng.uniform(0.3, 0.8)))
        frames = self.hold(length_s)
        self._siren(frames.start, frames.stop, frames.stop, source)

    def light_decoy(self) -> None:
        """A light bar without a siren: a tow truck at the roadside, or one behind us."""
        self.ramp(float(self.rng.uniform(5.0, 16.0)))
        frames = self.hold(float(self.rng.uniform(5.0, 8.0)))
        self._siren(frames.start, frames.stop, frames.stop, _WORK)

    def text_decoy(self) -> None:
        """Dispatch announces a vehicle on our carriageway that turns off long before it reaches us."""
        frames = self.hold(float(self.rng.uniform(5.0, 8.0)))
        self._maybe_lead(frames, 0.4)
        self._note("text", frames.start, frames.stop, said=int(self.rng.choice([_BEHIND, _AHEAD])))

    def _siren(self, start: int, passing: int, end: int, source: int) -> None:
        """Write the vehicle's path from ``start``; at frame ``passing`` it is beside us (or has gone)."""
        rng, arrays = self.rng, self.arrays
        end = min(end, self.frames)
        frames = slice(start, end)
        left_s = (passing - np.arange(start, end)) / FRAME_RATE_HZ
        x, y = self._path(source, frames, left_s)
        visible, said = self._perceivable(source)
        arrays["siren_source"][frames] = source
        arrays["siren_x_m"][frames] = x
        arrays["siren_y_m"][frames] = y
        arrays["siren_kind"][frames] = rng.integers(len(SIREN_KINDS))
        arrays["siren_visible"][frames] = visible
        colour = 0 if source != _WORK else int(rng.choice([1, 1, 2]))
        arrays["light_colour"][frames] = colour
        if source != _WORK:
            fade = np.minimum(1.0, (np.arange(start, end) - start + 1) / 4)
            arrays["siren_audible"][frames] = np.minimum(fade, (end - np.arange(start, end)) / 4)
        mirror = source == _BEHIND or (source == _WORK and bool(y[0] < 0))
        if (not visible and source not in (_CROSS, _RADIO)) or rng.random() < 0.25:
            arrays["blocker_y_m"][frames] = -rng.uniform(8.0, 11.0) if mirror else rng.uniform(11.0, 16.0)
        self._note("siren" if source != _WORK else "lights", start, passing, source=source, said=said)

    def _path(self, source: int, frames: slice, left_s: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rng = self.rng
        total_s = float(left_s[0])
        if source == _BEHIND:
            y = -left_s * rng.uniform(11.0, 15.0)
            return np.where(y > -14.0, -2.9, -0.3), y
        if source == _AHEAD:
            return np.full_like(left_s, -2.6), left_s * rng.uniform(14.0, 19.0)
        if source == _RECEDING:
            return np.full_like(left_s, -2.9), 12.0 + (total_s - left_s) * rng.uniform(9.0, 14.0)
        if source == _CROSS:
            return -10.0 - left_s * rng.uniform(10.0, 14.0), np.full_like(left_s, rng.uniform(18.0, 40.0))
        if source == _OPPOSITE:
            return np.full_like(left_s, -9.5), left_s * rng.uniform(14.0, 19.0)
        travelled = np.concatenate([[0.0], np.cumsum(self.arrays["speed_mps"][frames])[:-1]]) / FRAME_RATE_HZ
        if source == _WORK and rng.random() < 0.5:
            return np.zeros_like(left_s), np.full_like(left_s, -rng.uniform(9.0, 30.0))
        if source == _RADIO:
            return np.full_like(left_s, np.nan), np.full_like(left_s, np.nan)
        return np.full_like(left_s, 4.6), travelled[-1] + rng.uniform(2.0, 8.0) - travelled

    def _perceivable(self, source: int) -> tuple[bool, int]:
        """Whether the camera sees it, and what dispatch says of it."""
        rng = self.rng
        wrong = bool(rng.random() < 0.15)
        # Where dispatch errs traffic hides less, so that the sensors together are nearly certain; 40% are hidden in all.
        visible = source not in (_CROSS, _RADIO) and bool(rng.random() < (0.8 if wrong else 0.565))
        said = {_RADIO: _NONE, _WORK: _WORK}.get(source, source)
        if wrong:
            ours = source in (_BEHIND, _AHEAD, _PARKED, _RECEDING)
            said = int(rng.choice([_CROSS, _OPPOSITE, _NONE])) if ours else int(rng.choice([_BEHIND, _AHEAD]))
        elif source in (_PARKED, _RECEDING) and rng.random() < 0.6:
            said = _AHEAD if source == _PARKED else _BEHIND  # dispatch does not know that it has stopped or passed
        return visible, said

    def _note(self, kind: str, start: int, stop: int, *, source: int = 0, said: int = 0, limit_kmh: int = 0) -> None:
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

    # -- obstacles ------------------------------------------------------------------------------------------------

    def obstacle_or_hidden(self) -> None:
        """A second obstacle: seen, heard only, or gone before we must stop."""
        [self.obstacle, self.hidden_hazard, self.passing_obstacle][int(self.rng.choice(3, p=[0.3, 0.45, 0.25]))]()

    def obstacle(self) -> None:
        """A standing obstacle that we come upon: slow, stop, stand, go on."""
        rng = self.rng
        speed = float(rng.uniform(8.0, 18.0))
        self.ramp(speed)
        start_ttc, brake_ttc = rng.uniform(5.3, 6.5), rng.uniform(1.5, 1.9)
        gap_m = float(rng.uniform(3.0, 5.0))
        first = self.hold(start_ttc - brake_ttc)
        # constant deceleration that ends ``gap_m`` short of it
        self.ramp(0.0, speed**2 / (2 * max(2.0, speed * brake_ttc - gap_m)))
        last = self.hold(float(rng.uniform(0.6, 1.5)))
        frames = slice(first.start, last.stop)
        speeds = self.arrays["speed_mps"][frames]
        ahead = np.cumsum(speeds[::-1])[::-1] / FRAME_RATE_HZ + gap_m
        self._place(frames, ahead, int(rng.integers(1, 4)))
        # once stop, stop until we stand: braking must not talk itself down
        self.arrays["stop"][frames] = (ahead < STOP_TTC_S * speed) & (speeds > 0.5)
        self._overlay(frames)

    def passing_obstacle(self) -> None:
        """An obstacle that has gone before we must stop: slow only."""
        rng = self.rng
        speed = float(rng.uniform(7.0, 18.0))
        self.ramp(speed)
        end_ttc = rng.uniform(2.65, 3.1)
        frames = self.hold(rng.uniform(5.3, 6.5) - end_ttc)
        ahead = speed * end_ttc + np.cumsum(self.arrays["speed_mps"][frames][::-1])[::-1] / FRAME_RATE_HZ
        self._place(frames, ahead, int(rng.integers(1, 4)))
        self._overlay(frames)

    def far_obstacle(self) -> None:
        """As near as others that demand action, but we are slow: keep."""
        rng = self.rng
        speed = float(rng.uniform(2.5, 5.0))
        self.ramp(speed)
        frames = self.hold(float(rng.uniform(4.0, 6.0)))
        ahead = speed * 5.4 + np.cumsum(self.arrays["speed_mps"][frames][::-1])[::-1] / FRAME_RATE_HZ
        self._place(frames, ahead, int(rng.integers(1, 4)))
        self._overlay(frames)

    def _place(self, frames: slice, ahead: NDArray[np.float64], kind: int, *, visible: bool = True) -> None:
        self.arrays["obstacle"][frames] = kind
        self.arrays["obstacle_m"][frames] = ahead
        self.arrays["obstacle_visible"][frames] = visible
        self._note("obstacle", frames.start, frames.stop)

    def hidden_hazard(self) -> None:
        """A crash hidden by the truck ahead: its brake lights and a horn or skidding, together, mean stop."""
        rng = self.rng
        self.ramp(float(rng.uniform(8.0, 18.0)))
        calm = self.hold(float(rng.uniform(1.0, 2.0)))
        late = self.hold(1.3)
        braking = self.ramp(self.speed * 0.5, float(rng.uniform(3.0, 5.0)))
        frames = slice(late.start, max(braking.stop, late.start + 36))
        if braking.stop < frames.stop:
            self.hold((frames.stop - braking.stop) / FRAME_RATE_HZ)
        self._truck(slice(calm.start, frames.stop))
        self.arrays["lead_braking"][frames] = 1
        self.arrays["stop"][frames] = 1
        self._blare(frames)
        self._note("hidden", frames.start, frames.stop)
        self._place_hidden(frames)

    def _place_hidden(self, frames: slice) -> None:
        self.arrays["obstacle"][frames] = 1
        self.arrays["obstacle_m"][frames] = np.maximum(3.0, self.arrays["speed_mps"][frames] * 2.0)

    def horn_decoy(self) -> None:
        """A horn without braking ahead, or a braking truck without a horn: keep."""
        self.ramp(float(self.rng.uniform(8.0, 18.0)))
        frames = self.hold(float(self.rng.uniform(3.0, 4.5)))
        if self.rng.random() < 0.5:
            self._blare(slice(frames.start + 20, frames.stop))
            self._maybe_lead(frames, 0.7)
        else:
            self._truck(frames)
            self.arrays["lead_braking"][frames.start + 20 : frames.stop] = 1

    def _truck(self, frames: slice) -> None:
        self.arrays["lead_m"][frames] = self.rng.uniform(11.0, 20.0)
        self.arrays["lead_truck"][frames] = 1

    def _blare(self, frames: slice) -> None:
        which = self.rng.choice(3)
        if which != 1:
            self.arrays["horn"][frames] = self.rng.uniform(0.6, 1.0)
        if which != 0:
            self.arrays["skid"][frames] = self.rng.uniform(0.6, 1.0)

    # -- slow zone, overlays --------------------------------------------------------------------------------------

    def zone(self) -> None:
        """A slow zone whose limit only the text tells: slow while we are faster."""
        rng = self.rng
        limit_kmh = int(rng.choice([30, 40, 50]))
        limit = limit_kmh / 3.6
        fast = bool(rng.random() < 0.7)
        self.ramp(limit + rng.uniform(2.0, 7.0) if fast else max(2.5, limit - rng.uniform(1.5, 5.0)))
        frames = self.hold(float(rng.uniform(4.0, 6.5)))
        self.arrays["zone"][frames] = 1
        self.arrays["slow"][frames] = fast
        self._note("zone", frames.start, frames.stop, limit_kmh=limit_kmh)
        self._overlay(frames)

    def _overlay(self, frames: slice) -> None:
        """Often a siren that does not concern us sounds meanwhile."""
        if self.rng.random() < 0.5:
            sources = [_CROSS, _OPPOSITE if self.surroundings.divider else _CROSS, _RECEDING, _RADIO]
            source = int(self.rng.choice(sources, p=[0.4, 0.4, 0.1, 0.1]))
            self._siren(frames.start, frames.stop, frames.stop, source)

    # -- finish ---------------------------------------------------------------------------------------------------

    def finished(self, seed: int, duration_s: float) -> Drive:
        """Cut to length, derive labels and motion."""
        n = round(duration_s * FRAME_RATE_HZ)
        a = {name: values[:n] for name, values in self.arrays.items()}
        times = np.arange(n) / FRAME_RATE_HZ
        speed = a["speed_mps"]
        emergency = (a["emergency"] > 0) & (speed > MOVING_MPS)
        phase = self.rng.uniform(0, 2 * np.pi, 2)
        position = np.concatenate([[0.0], np.cumsum(speed)[:-1]]) / FRAME_RATE_HZ
        curvature = 0.0016 * np.sin(position / 140 + phase[0]) + 0.0012 * np.sin(position / 57 + phase[1])
        ints = ("siren_source", "siren_kind", "light_colour", "obstacle")
        bools = ("siren_visible", "obstacle_visible", "lead_truck", "lead_braking", "zone")
        arrays: dict[str, NDArray[Any]] = {}
        for name, values in a.items():
            if name in ("slow", "stop", "emergency"):
                continue
            arrays[name] = values.astype(np.uint8 if name in ints else np.bool_ if name in bools else np.float64)
        arrays |= {
            "frame_times_s": times,
            "emergency": emergency.astype(np.uint8),
            "action": _actions(a, emergency),
            "accel_mps2": np.gradient(speed) * FRAME_RATE_HZ if n > 1 else np.zeros(n),
            "position_m": position,
            "curvature_per_m": curvature,
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


def _actions(a: dict[str, NDArray[np.float64]], emergency: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Priority stop, yield, slow, keep. Unbraked time to collision is distance by speed: every obstacle stands."""
    speed = a["speed_mps"]
    with np.errstate(invalid="ignore"):
        ttc = np.where(a["obstacle"] > 0, a["obstacle_m"] / np.maximum(speed, 1e-6), np.inf)
    moving = speed > 0.5
    action = np.zeros(len(speed), np.uint8)
    action[(a["slow"] > 0) | (moving & (ttc < SLOW_TTC_S))] = SLOW
    action[emergency] = YIELD
    action[(a["stop"] > 0) | (moving & (ttc < STOP_TTC_S))] = STOP
    return action
