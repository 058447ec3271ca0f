"""Encounters with sirens, light bars and dispatch: true emergencies and what looks or sounds like one.

One draw decides where the vehicle is, whether we stand, whether traffic hides it and what dispatch says, each on its own:
nothing in the scene but the vehicle itself tells whether it concerns us.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.driving.drive import FRAME_RATE_HZ, SOURCES
from pipeline.scenarios.driving.script import Script

NONE, BEHIND, AHEAD, RECEDING, CROSS, OPPOSITE, PARKED, RADIO, WORK = range(len(SOURCES))
STANDING = 0.4
"""How often we stand when a siren comes, whoever it is for."""
WRONG = 0.12
"""How often dispatch names the wrong road; with the stale lines of `STALE` about 15% of its lines mislead."""
STALE = 0.4
"""How often dispatch does not know that a vehicle has parked or has passed."""
_KINDS = (BEHIND, AHEAD, OPPOSITE, CROSS, PARKED, RECEDING, RADIO, WORK)
_SHARE = (0.24, 0.16, 0.16, 0.12, 0.12, 0.07, 0.06, 0.07)
_CLOSING_MPS = (11.0, 18.0)


def encounter(script: Script) -> None:
    """One siren vehicle, light bar or radio."""
    rng = script.rng
    source = int(rng.choice(_KINDS, p=_SHARE))
    # beyond a divider nobody comes towards us; without one there is no other carriageway
    if source in (AHEAD, OPPOSITE):
        source = OPPOSITE if script.surroundings.divider else (AHEAD if source == AHEAD else CROSS)
    stands = bool(rng.random() < STANDING)
    script.ramp(0.0 if stands else float(rng.uniform(5.0, 18.0)))
    script.hold(float(rng.uniform(0.3, 0.8)))
    frames = script.hold(float(rng.uniform(6.0, 8.5)))
    passes = source in (BEHIND, AHEAD)
    after = script.hold(float(rng.uniform(0.8, 1.5))) if passes else slice(frames.stop, frames.stop)
    _play(script, frames.start, frames.stop, after.stop, source)
    if passes:
        script.arrays["emergency"][frames] = 1  # counts only while we move: `Script.finished`
    elif rng.random() < 0.15 and stands:
        _queue(script, frames)


def overlay(script: Script, frames: slice) -> None:
    """Often a siren that does not concern us sounds while something else happens. No truck comes: it would hide that too."""
    if script.rng.random() < 0.5:
        other = OPPOSITE if script.surroundings.divider else CROSS
        source = int(script.rng.choice([CROSS, other, RECEDING, RADIO], p=[0.4, 0.4, 0.1, 0.1]))
        _play(script, frames.start, frames.stop, frames.stop, source, with_traffic=False)


def text_alone(script: Script) -> None:
    """Dispatch announces a vehicle on our carriageway that turns off long before it reaches us."""
    frames = script.hold(float(script.rng.uniform(5.0, 8.0)))
    script.note("text", frames.start, frames.stop, said=int(script.rng.choice([BEHIND, AHEAD])))


def _queue(script: Script, frames: slice) -> None:
    """We stand before a red light."""
    red = slice(frames.start, frames.stop)
    script.arrays["obstacle"][red] = 3
    script.arrays["obstacle_m"][red] = script.rng.uniform(4.0, 12.0)
    script.arrays["obstacle_visible"][red] = 1


def _play(script: Script, start: int, passing: int, end: int, source: int, *, with_traffic: bool = True) -> None:
    """Write the vehicle's path from ``start``; at frame ``passing`` it is beside us (or has gone)."""
    rng, arrays = script.rng, script.arrays
    end = min(end, script.frames)
    frames = slice(start, end)
    left_s = (passing - np.arange(start, end)) / FRAME_RATE_HZ
    x, y = _path(script, source, frames, left_s)
    said, wrong = _said(rng, source)
    hidden = with_traffic and _hide(script, slice(start, min(passing, end)), bool(y[0] < 0), wrong)
    arrays["siren_source"][frames] = source
    arrays["siren_x_m"][frames] = x
    arrays["siren_y_m"][frames] = y
    arrays["siren_kind"][frames] = rng.choice(script.conditions.siren_kinds)
    if source not in (CROSS, RADIO):
        arrays["siren_visible"][frames] = not hidden
        arrays["siren_visible"][min(passing, end) : end] = 1  # it has overtaken the truck
    arrays["light_colour"][frames] = 0 if source != WORK else int(rng.choice([1, 1, 2]))
    if source != WORK:
        fade = np.minimum(1.0, (np.arange(start, end) - start + 1) / 4)
        arrays["siren_audible"][frames] = np.minimum(fade, (end - np.arange(start, end)) / 4)
    script.note("siren" if source != WORK else "lights", start, passing, source=source, said=said)


def _hide(script: Script, frames: slice, comes_from_behind: bool, wrong: bool) -> bool:
    """Traffic during an encounter; whether it hides the vehicle.

    Where dispatch errs traffic hides less, so that the sensors together are nearly certain; 40% are hidden in all.
    """
    hidden = bool(script.rng.random() < (0.15 if wrong else 0.44))
    script.traffic(frames, behind=hidden if comes_from_behind else None, ahead=None if comes_from_behind else hidden)
    return hidden


def _path(
    script: Script, source: int, frames: slice, left_s: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = script.rng
    gone_s = left_s[0] - left_s
    closing = float(rng.uniform(*_CLOSING_MPS))
    travelled = np.concatenate([[0.0], np.cumsum(script.arrays["speed_mps"][frames])[:-1]]) / FRAME_RATE_HZ
    if source == BEHIND:
        return np.where(left_s * closing < 14.0, -2.9, -0.3), -left_s * closing
    if source == AHEAD:
        return np.full_like(left_s, -2.6), left_s * closing
    if source == RECEDING:
        return np.full_like(left_s, -2.9), 12.0 + gone_s * rng.uniform(9.0, 14.0)
    if source == CROSS:
        return -10.0 - left_s * closing, np.full_like(left_s, rng.uniform(14.0, 30.0))
    if source == OPPOSITE:
        return np.full_like(left_s, -9.5), left_s * closing
    if source == RADIO:
        return np.full_like(left_s, np.nan), np.full_like(left_s, np.nan)
    if source == WORK and rng.random() < 0.5:
        return np.zeros_like(left_s), np.full_like(left_s, -rng.uniform(14.0, 30.0))
    last_m = rng.uniform(2.0, 8.0) if travelled[-1] > 1.0 else rng.uniform(15.0, 60.0)
    return np.full_like(left_s, 4.6), travelled[-1] + last_m - travelled


def _said(rng: np.random.Generator, source: int) -> tuple[int, bool]:
    """What dispatch says of it, and whether that misleads."""
    told = {RADIO: NONE}.get(source, source)
    if source in (PARKED, RECEDING) and rng.random() < STALE:
        return (AHEAD if source == PARKED else BEHIND), True
    if source in (PARKED, RECEDING) or rng.random() >= WRONG:
        return told, False
    if source in (BEHIND, AHEAD):
        return int(rng.choice([CROSS, OPPOSITE])), True
    return int(rng.choice([BEHIND, AHEAD])), True
