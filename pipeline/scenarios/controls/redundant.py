"""The redundant world: both sensors show the same noisy value, noise and all. Fusion has nothing to gain."""

from __future__ import annotations

import numpy as np

from pipeline.scenarios.controls.sensing import STREAMS, ControlTicks, images_from_places, normal_cdf, sounds_from_pitches

COMMON_SPREAD = 1.2
"""Noise of the common value about the label's, which is -1 or 1, in common units."""
SCALE = 0.45
"""Place and pitch of a common unit, small enough that hardly any value is cut off at a rim."""
SPREAD = 0.05
"""Noise of each sensor about the common value: next to none."""
PIXEL_NOISE, BIN_NOISE = 2.0, 0.05


def draw(seed: int, count: int) -> ControlTicks:
    """``count`` ticks. The common value with its noise is what both sensors render."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.uint8)
    common = (2.0 * labels - 1 + COMMON_SPREAD * rng.normal(size=count)).astype(np.float32)
    percepts = {s: (common + SPREAD * rng.normal(size=count)).astype(np.float32) for s in STREAMS}
    return ControlTicks(
        images=images_from_places(rng, SCALE * percepts["camera"], PIXEL_NOISE),
        sounds=sounds_from_pitches(rng, SCALE * percepts["microphone"], BIN_NOISE),
        labels=labels,
        clean={s: common[:, None] for s in STREAMS},
        spread={s: np.array([SPREAD], np.float32) for s in STREAMS},
        percepts={s: value[:, None] for s, value in percepts.items()},
    )


def ceiling(present: tuple[bool, ...]) -> float:
    """AUROC of the Bayes posterior from the percepts of these streams, in closed form: Phi(2 / (sqrt(2) s)).

    s² is the common noise's variance and the sensors' own over their number: two sensors gain less than 0.0005.
    """
    count = sum(present)
    if not count:
        return 0.5
    return normal_cdf(2**0.5 / (COMMON_SPREAD**2 + SPREAD**2 / count) ** 0.5)
