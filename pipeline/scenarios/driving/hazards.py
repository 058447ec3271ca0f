"""Episodes with something in our way, or nearly so: obstacles, hazards hidden by a truck, slow zones, and their decoys."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.driving.drive import FRAME_RATE_HZ, STOP_TTC_S
from pipeline.scenarios.driving.script import Script
from pipeline.scenarios.driving.sirens import overlay


def obstacle(script: Script) -> None:
    """A standing obstacle that we come upon: slow, stop, stand, go on."""
    rng = script.rng
    speed = float(rng.uniform(8.0, 18.0))
    script.ramp(speed)
    start_ttc, brake_ttc = rng.uniform(5.3, 6.5), rng.uniform(1.5, 1.9)
    gap_m = float(rng.uniform(3.0, 5.0))
    first = script.hold(start_ttc - brake_ttc)
    # constant deceleration that ends ``gap_m`` short of it
    script.ramp(0.0, speed**2 / (2 * max(2.0, speed * brake_ttc - gap_m)))
    last = script.hold(float(rng.uniform(0.6, 1.5)))
    frames = slice(first.start, last.stop)
    speeds = script.arrays["speed_mps"][frames]
    ahead = np.cumsum(speeds[::-1])[::-1] / FRAME_RATE_HZ + gap_m
    _place(script, frames, ahead)
    # once stop, stop until we stand: braking must not talk itself down
    script.arrays["stop"][frames] = (ahead < STOP_TTC_S * speed) & (speeds > 0.5)
    overlay(script, frames)


def passing_obstacle(script: Script) -> None:
    """An obstacle that has gone before we must stop: slow only."""
    rng = script.rng
    speed = float(rng.uniform(7.0, 18.0))
    script.ramp(speed)
    end_ttc = rng.uniform(2.65, 3.6)
    frames = script.hold(rng.uniform(5.3, 6.5) - end_ttc)
    _place(script, frames, speed * end_ttc + _still_to_travel_m(script, frames))
    overlay(script, frames)


def far_obstacle(script: Script) -> None:
    """As near as others that demand action, but we are slow: keep."""
    rng = script.rng
    speed = float(rng.uniform(2.5, 5.0))
    script.ramp(speed)
    frames = script.hold(float(rng.uniform(4.0, 6.0)))
    _place(script, frames, speed * 5.4 + _still_to_travel_m(script, frames))
    overlay(script, frames)


def hidden_hazard(script: Script) -> None:
    """A crash hidden by the truck ahead: its brake lights and a horn or skidding, together, mean stop."""
    rng = script.rng
    script.ramp(float(rng.uniform(8.0, 18.0)))
    calm = script.hold(float(rng.uniform(1.0, 2.0)))
    late = script.hold(1.3)
    braking = script.ramp(script.speed * 0.5, float(rng.uniform(3.0, 5.0)))
    frames = slice(late.start, max(braking.stop, late.start + 36))
    if braking.stop < frames.stop:
        script.hold((frames.stop - braking.stop) / FRAME_RATE_HZ)
    _lead_truck(script, slice(calm.start, frames.stop))
    script.arrays["lead_braking"][frames] = 1
    script.arrays["stop"][frames] = 1
    _blare(script, frames)
    script.note("hidden", frames.start, frames.stop)
    script.arrays["obstacle"][frames] = 1
    script.arrays["obstacle_m"][frames] = np.maximum(3.0, script.arrays["speed_mps"][frames] * 2.0)


def half_a_hazard(script: Script) -> None:
    """A horn without braking ahead, or a braking truck without a horn: keep."""
    script.ramp(float(script.rng.uniform(8.0, 18.0)))
    frames = script.hold(float(script.rng.uniform(3.0, 4.5)))
    if script.rng.random() < 0.5:
        _blare(script, slice(frames.start + 20, frames.stop))
        script.traffic(frames)
    else:
        _lead_truck(script, frames)
        script.arrays["lead_braking"][frames.start + 20 : frames.stop] = 1


def zone(script: Script) -> None:
    """A slow zone whose limit only the text tells: slow while we are faster."""
    rng = script.rng
    limit_kmh = int(rng.choice([30, 40, 50]))
    limit = limit_kmh / 3.6
    fast = bool(rng.random() < 0.7)
    script.ramp(limit + rng.uniform(2.0, 7.0) if fast else max(2.5, limit - rng.uniform(1.5, 5.0)))
    frames = script.hold(float(rng.uniform(4.0, 6.5)))
    script.arrays["zone"][frames] = 1
    script.arrays["slow"][frames] = fast
    script.note("zone", frames.start, frames.stop, limit_kmh=limit_kmh)
    overlay(script, frames)


def _still_to_travel_m(script: Script, frames: slice) -> NDArray[np.float64]:
    speeds = script.arrays["speed_mps"][frames]
    metres: NDArray[np.float64] = np.cumsum(speeds[::-1])[::-1] / FRAME_RATE_HZ
    return metres


def _place(script: Script, frames: slice, ahead_m: NDArray[np.float64]) -> None:
    """Something in our lane that nothing hides."""
    script.arrays["obstacle"][frames] = int(script.rng.integers(1, 4))
    script.arrays["obstacle_m"][frames] = ahead_m
    script.arrays["obstacle_visible"][frames] = 1
    script.traffic(frames, ahead=False)
    script.arrays["lead_m"][frames] = np.nan
    script.note("obstacle", frames.start, frames.stop)


def _lead_truck(script: Script, frames: slice) -> None:
    script.traffic(frames, ahead=False)
    script.arrays["lead_m"][frames] = script.rng.uniform(11.0, 20.0)
    script.arrays["lead_truck"][frames] = 1


def _blare(script: Script, frames: slice) -> None:
    which = script.rng.choice(3)
    if which != 1:
        script.arrays["horn"][frames] = script.rng.uniform(0.6, 1.0)
    if which != 0:
        script.arrays["skid"][frames] = script.rng.uniform(0.6, 1.0)
