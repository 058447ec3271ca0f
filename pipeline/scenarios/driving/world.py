"""The simulated driving world: latent states of a drive, from which every simulated sensor is rendered.

Nothing here is recorded. A drive is a sequence of episodes (`sirens`, `hazards`): a siren vehicle that will reach us, one that
will not, a red light, a pedestrian, a slow zone … and their decoys. `sample_drive` makes latents and labels on a 20 Hz camera
grid; `scene`, `sound` and `feeds` render what camera, microphone, telemetry and text could perceive of them; `percepts` says what
that is. No single sensor suffices.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.scenarios.driving import hazards, sirens
from pipeline.scenarios.driving.drive import ENCOUNTERS_PER_H, FRAME_RATE_HZ, Conditions, Drive, Surroundings
from pipeline.scenarios.driving.script import Script

_PAD_S = 150.0
"""Episodes are written past the end of the drive and cut off there."""
_LONGEST_S = 60.0
"""No episode is longer."""
_EVENTFUL_S = 45.0
_DRAWS = 32
_EVERYDAY = (
    (sirens.encounter, 0.44), (sirens.text_alone, 0.04), (hazards.obstacle, 0.14), (hazards.hidden_hazard, 0.07),
    (hazards.passing_obstacle, 0.06), (hazards.far_obstacle, 0.05), (hazards.half_a_hazard, 0.1), (hazards.zone, 0.1),
)  # fmt: skip


def sample_drive(seed: int, duration_s: float, conditions: Conditions | None = None) -> Drive:
    """The latents and labels of a simulated drive: a pure function of its arguments.

    A dense drive of 45 s or more holds at least one true emergency: a draw whose emergencies all fall past its end is drawn
    again. Raises ValueError when ``duration_s`` is not between 1 s and 2 h.
    """
    if not 1.0 <= duration_s <= 7200.0:
        raise ValueError(f"duration_s is {duration_s}: give 1 to 7200 s")
    conditions = conditions or Conditions()
    drive = _draw(seed, [seed], duration_s, conditions)
    for attempt in range(1, _DRAWS):
        if conditions.script != "dense" or duration_s < _EVENTFUL_S or drive.emergency.any():
            break
        drive = _draw(seed, [seed, attempt], duration_s, conditions)
    return drive


def _draw(seed: int, entropy: list[int], duration_s: float, conditions: Conditions) -> Drive:
    rng = np.random.Generator(np.random.PCG64(entropy if len(entropy) > 1 else seed))
    script = Script(
        rng=rng,
        surroundings=_surroundings(rng, conditions),
        conditions=conditions,
        frames=round((duration_s + _PAD_S) * FRAME_RATE_HZ),
    )
    play = _dense if conditions.script == "dense" else _everyday
    while script.now_s < duration_s:
        play(script)
    return script.finished(seed, duration_s)


def _surroundings(rng: np.random.Generator, conditions: Conditions) -> Surroundings:
    drawn = Surroundings(
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
    mist = drawn.mist if conditions.mist is None else conditions.mist
    daylight = drawn.daylight if conditions.daylight is None else conditions.daylight
    return replace(drawn, mist=mist, daylight=daylight)


def _dense(script: Script) -> None:
    """About a minute in which every action occurs, in random order."""
    rng = script.rng
    second = [hazards.obstacle, hazards.hidden_hazard, hazards.passing_obstacle][int(rng.choice(3, p=[0.3, 0.45, 0.25]))]
    cards = [*[sirens.encounter] * 4, hazards.obstacle, second, hazards.zone]
    for index in rng.permutation(len(cards)):
        script.hold(float(rng.uniform(0.2, 0.8)))
        cards[index](script)
    extra = [*[sirens.encounter] * 4, sirens.text_alone, hazards.half_a_hazard, hazards.far_obstacle]
    script.hold(float(rng.uniform(0.2, 0.8)))
    extra[int(rng.integers(len(extra)))](script)


def _everyday(script: Script) -> None:
    """Ordinary driving, then one encounter; gaps are exponential, so that none can be foreseen."""
    script.cruise(2.0 + float(script.rng.exponential(3600.0 / ENCOUNTERS_PER_H - 10.0)))
    if script.frames - script.at < _LONGEST_S * FRAME_RATE_HZ:
        return  # far past the drive's end
    episodes, share = zip(*_EVERYDAY, strict=True)
    episodes[int(script.rng.choice(len(episodes), p=share))](script)
