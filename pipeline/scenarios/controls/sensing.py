"""The two sensors of the control worlds: a camera that shows where a blob is, a microphone that hears how high a tone is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import erf, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
STREAMS = ("camera", "microphone")
HEAD = "answer"
LABELS = ("no", "yes")
SIZE = 16
"""Height and width of an image."""
BINS, FRAMES = 24, 4
"""Spectral bins and time frames of a sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlTicks:
    """``n`` independent ticks of a control world."""

    images: NDArray[np.uint8]
    """``[n, 16, 16, 3]``, RGB."""
    sounds: Floats
    """``[n, 4, 24]``, log power by frame and bin."""
    labels: NDArray[np.uint8]
    """``[n]``: 0 no, 1 yes."""
    clean: Mapping[str, Floats]
    """Stream to the value it renders, before its own noise, ``[n, 1]``."""
    spread: Mapping[str, Floats]
    """Stream to the standard deviation of its own noise, ``[1]``."""
    percepts: Mapping[str, Floats]
    """Stream to ``clean`` with that noise, ``[n, 1]``: all that its image or sound reveals."""


def images_from_places(rng: np.random.Generator, places: Floats, pixel_noise: float) -> NDArray[np.uint8]:
    """A blob of random colour, height and brightness at column ``7.5 + 3 places [n]`` (kept inside) amid pixel noise."""
    count = len(places)
    column = np.clip(7.5 + 3.0 * places, 0.0, SIZE - 1.0)[:, None, None]
    row = rng.uniform(4.0, 11.0, count)[:, None, None]
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    blob = np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * 1.6**2))
    colour = rng.uniform(0.5, 1.0, (count, 1, 1, 3)) * 150
    image = 60 + blob[..., None] * colour + rng.normal(0.0, pixel_noise, (count, SIZE, SIZE, 3))
    images: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return images


def sounds_from_pitches(rng: np.random.Generator, pitches: Floats, bin_noise: float) -> Floats:
    """A tone of random level at bin ``11.5 + 4.5 pitches [n]`` (kept inside) amid noise, as log power."""
    count = len(pitches)
    bins = np.clip(11.5 + 4.5 * pitches, 0.0, BINS - 1.0)[:, None, None]
    level = rng.uniform(2.0, 3.0, (count, 1, 1))
    tone = level * np.exp(-((np.arange(BINS) - bins) ** 2) / (2 * 1.8**2))
    sounds: Floats = (tone + rng.normal(0.0, bin_noise, (count, FRAMES, BINS))).astype(np.float32)
    return sounds


def normal_cdf(value: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * (1 + erf(value / sqrt(2)))
