"""The latents of a simulated drive: what is true, before any sensor perceives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ACTIONS = ("keep", "slow", "yield", "stop")
FRAME_RATE_HZ = 20
STOP_TTC_S = 2.5
SLOW_TTC_S = 5.0
MOVING_MPS = 1.0
"""Below this speed we stand: nobody has to yield."""

SIREN_KINDS = ("wail", "yelp", "hi-lo", "phaser")
FAMILIAR_SIREN_KINDS = 3
"""The kinds before this index occur unless a drive asks for others; ``phaser`` is kept for the test of the unfamiliar."""
ENCOUNTERS_PER_H = 45.0
"""In an everyday drive, of all kinds together; about 22 of them have a siren, a light bar or a line from dispatch."""

OBSTACLES = ("none", "car", "pedestrians", "red light")
SOURCES = ("none", "behind", "ahead", "receding", "cross", "opposite", "parked", "radio", "work lights")
"""Where a siren or a light bar comes from. ``radio`` has no vehicle, ``work lights`` has no siren."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a drive is asked to be like. The defaults are those of training; anything else is a test of the unfamiliar."""

    script: Literal["dense", "everyday"] = "dense"
    """``dense``: one encounter after the other. ``everyday``: `ENCOUNTERS_PER_H` of them, and ordinary traffic between."""
    siren_kinds: tuple[int, ...] = tuple(range(FAMILIAR_SIREN_KINDS))
    mist: float | None = None
    """Share of the picture that is mist; None: drawn (0 to 0.35)."""
    daylight: float | None = None
    """None: drawn (1 noon to 0.35 night)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What stays the same over one simulated drive."""

    daylight: float
    """1 noon, 0.35 night."""
    rain: float
    """0 dry to 1 heavy."""
    mist: float
    """Share of the picture that is the sky's grey: 0 clear to 0.35."""
    divider: bool
    """A barrier lies between the carriageways, so that oncoming vehicles cannot reach us."""
    camera_noise: float
    """Standard deviation of the sensor noise in grey levels."""
    microphone_gain: float
    noise_level: float
    """Factor on road, wind and rain noise."""
    road: str
    bound: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One scripted event, for the text feed and for evaluation. ``source`` indexes `SOURCES`."""

    kind: str
    start_s: float
    end_s: float
    source: int = 0
    said: int = 0
    """What dispatch says of it: an index of `SOURCES`, 0 if silent. Differs from ``source`` where it is stale or wrong."""
    unit: int = 0
    vehicle: str = "ambulance"
    limit_kmh: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """The latents of one simulated drive; all arrays have one entry a frame, ``[n]``.

    Own axes: y ahead, x to the right, metres; NaN where the thing is absent.
    """

    seed: int
    duration_s: float
    surroundings: Surroundings
    episodes: tuple[Episode, ...]
    frame_times_s: NDArray[np.float64]
    emergency: NDArray[np.uint8]
    """1: a siren vehicle will reach us on our carriageway while we move."""
    collision: NDArray[np.uint8]
    """1: unbraked we would hit something within `STOP_TTC_S`."""
    action: NDArray[np.uint8]
    """Index of `ACTIONS`."""
    speed_mps: NDArray[np.float64]
    accel_mps2: NDArray[np.float64]
    position_m: NDArray[np.float64]
    curvature_per_m: NDArray[np.float64]
    """Of the road; positive bends to the right."""
    siren_source: NDArray[np.uint8]
    """Index of `SOURCES`."""
    siren_x_m: NDArray[np.float64]
    siren_y_m: NDArray[np.float64]
    siren_audible: NDArray[np.float64]
    """0 off to 1 on, with short fades."""
    siren_kind: NDArray[np.uint8]
    siren_visible: NDArray[np.bool_]
    """The vehicle and its lights are not hidden by traffic or buildings."""
    light_colour: NDArray[np.uint8]
    """0 blue and red, 1 amber, 2 blue alone."""
    truck_behind_m: NDArray[np.float64]
    """How far behind us a truck fills the mirror and hides what follows it."""
    truck_ahead_m: NDArray[np.float64]
    """How far ahead of us a truck hides what comes."""
    obstacle: NDArray[np.uint8]
    """Index of `OBSTACLES`."""
    obstacle_m: NDArray[np.float64]
    obstacle_visible: NDArray[np.bool_]
    lead_m: NDArray[np.float64]
    """A vehicle ahead in our lane that drives as fast as we do."""
    lead_truck: NDArray[np.bool_]
    lead_braking: NDArray[np.bool_]
    horn: NDArray[np.float64]
    """0 to 1, loudness of a horn near by."""
    skid: NDArray[np.float64]
    zone: NDArray[np.bool_]
    """Cones stand along the road."""
