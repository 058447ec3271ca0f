"""The XOR world: yes when the blob is right and the tone low, or left and high. Either sensor alone tells nothing."""

from __future__ import annotations

import numpy as np

from pipeline.scenarios.controls.sensing import ControlTicks, images_from_places, sounds_from_pitches

SPREAD = 0.4
"""Noise of each sensor about its side or pitch, which is -1 or 1."""
PIXEL_NOISE, BIN_NOISE = 12.0, 0.3


def draw(seed: int, count: int) -> ControlTicks:
    """``count`` ticks; the noisy side and pitch are what is rendered, so that no image or sound tells more than its percept."""
    rng = np.random.default_rng(seed)
    side, pitch = rng.choice((-1.0, 1.0), (2, count)).astype(np.float32)
    seen = (side + SPREAD * rng.normal(size=count)).astype(np.float32)
    heard = (pitch + SPREAD * rng.normal(size=count)).astype(np.float32)
    return ControlTicks(
        images=images_from_places(rng, seen, PIXEL_NOISE),
        sounds=sounds_from_pitches(rng, heard, BIN_NOISE),
        labels=(side != pitch).astype(np.uint8),
        clean={"camera": side[:, None], "microphone": pitch[:, None]},
        spread={"camera": np.array([SPREAD], np.float32), "microphone": np.array([SPREAD], np.float32)},
        percepts={"camera": seen[:, None], "microphone": heard[:, None]},
    )


def ceiling(present: tuple[bool, ...]) -> float:
    """AUROC of the Bayes posterior from the percepts of these streams: exactly 1/2 for one, by quadrature for both.

    With percepts x and y, P(yes) = (1 - tanh(x / s²) tanh(y / s²)) / 2. Times side and pitch that product is T for no and -T for
    yes, so AUROC = P(T + T' > 0) of two independent T, each a product over two normals.
    """
    if not all(present):
        return 0.5
    z = np.linspace(-6.0, 6.0, 301)
    weight = np.exp(-0.5 * z * z)
    weight /= weight.sum()
    margin = np.tanh((1 + SPREAD * z) / SPREAD**2)
    product, chance = np.outer(margin, margin).ravel(), np.outer(weight, weight).ravel()
    order = np.argsort(product)
    product, chance = product[order], chance[order]
    below = np.concatenate([[0.0], np.cumsum(chance)])
    wrong = (below[np.searchsorted(product, -product, "left")] + below[np.searchsorted(product, -product, "right")]) / 2
    return float(1 - (chance * wrong).sum())
