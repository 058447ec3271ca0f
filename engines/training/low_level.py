"""What sensors give before any encoder, coarse enough to be put side by side: the inputs of early fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.networks.design import TelemetryDesign

Array = NDArray[Any]
STEPS = 4
"""Steps that a window is cut into."""
GRID = (4, 8)
"""Cells of a view, rows and columns."""
BANDS = 10
LETTERS = 96


def coarse_camera(views: Sequence[Array]) -> NDArray[np.float32]:
    """Views uint8 ``[n, h, w, 3]`` to mean and maximum of each cell, ``[n, 1, views * 4 * 8 * 6]``, -1 to 1."""
    parts = []
    for view in views:
        rows, columns = view.shape[1] // GRID[0], view.shape[2] // GRID[1]
        cut = view[:, : rows * GRID[0], : columns * GRID[1]].reshape(len(view), GRID[0], rows, GRID[1], columns, 3)
        parts += [cut.mean(axis=(2, 4)), cut.max(axis=(2, 4))]
    flat = [((part.astype(np.float32) - 127.5) / 127.5).reshape(len(part), -1) for part in parts]
    return np.concatenate(flat, axis=1)[:, None]


def coarse_microphone(log_mel: Array) -> NDArray[np.float32]:
    """Log-mel ``[n, 40, frames]`` to mean and maximum of each of ten bands in four steps, ``[n, 4, 20]``."""
    frames = log_mel.shape[2] // STEPS * STEPS
    bands = log_mel[:, :, -frames:].reshape(len(log_mel), BANDS, -1, STEPS, frames // STEPS)
    both = np.concatenate([bands.mean(axis=(2, 4)), bands.max(axis=(2, 4))], axis=1)
    coarse: NDArray[np.float32] = (both.transpose(0, 2, 1) / 5.0 + 1.0).astype(np.float32)
    return coarse


def coarse_telemetry(values: Array, valid: Array, design: TelemetryDesign) -> NDArray[np.float32]:
    """Windows ``[n, points, channels]`` to mean and spread of each channel in four steps, ``[n, 4, 2 * channels]``."""
    centre = np.array([c.centre for c in design.channels], np.float32)
    spread = np.array([c.spread for c in design.channels], np.float32)
    scaled = np.clip((values - centre) / spread, -8, 8) * valid
    points = scaled.shape[1] // STEPS * STEPS
    cut = scaled[:, -points:].reshape(len(scaled), STEPS, points // STEPS, -1)
    coarse: NDArray[np.float32] = np.concatenate([cut.mean(axis=2), cut.std(axis=2)], axis=2).astype(np.float32)
    return coarse


def coarse_text(text_utf8: Array) -> NDArray[np.float32]:
    """Lines uint8 ``[n, 128]`` to how often each of 96 classes of letter pairs occurs, ``[n, 1, 96]``."""
    pairs = (text_utf8[:, :-1].astype(np.int64) * 31 + text_utf8[:, 1:]) % LETTERS
    there = text_utf8[:, 1:] > 0
    counts = np.zeros((len(text_utf8), LETTERS), np.float32)
    for letter in range(LETTERS):
        counts[:, letter] = ((pairs == letter) & there).sum(axis=1)
    return (np.minimum(counts, 4.0)[:, None] / 2.0).astype(np.float32)
