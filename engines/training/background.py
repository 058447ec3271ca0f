"""Recorded sound to mix over the simulated one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.networks.design import SAMPLE_RATE_HZ

SUFFIXES = (".ogg", ".wav", ".flac", ".mp3")
MAX_FILES = 2000


def pcm_from_folder(folder: Path, max_s: float) -> NDArray[np.int16]:
    """Every sound file under a folder in the order of names, a turn from each sub-folder, int16 mono at 16 kHz, up to ``max_s``.

    Raises ValueError when there is none.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)[:MAX_FILES]
    if not paths:
        raise ValueError(f"{folder}: holds no sound file ({', '.join(SUFFIXES)}); name a folder of recordings")
    turns: dict[Path, int] = {}
    ordered = []
    for path in paths:
        ordered.append((turns.get(path.parent, 0), path))
        turns[path.parent] = turns.get(path.parent, 0) + 1
    parts: list[NDArray[np.int16]] = []
    left = round(max_s * SAMPLE_RATE_HZ)
    for _, path in sorted(ordered):
        if left <= 0:
            break
        parts.append(_decoded(path)[:left])
        left -= len(parts[-1])
    return np.concatenate(parts)


def _decoded(path: Path) -> NDArray[np.int16]:
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(str(path)) as container:
        blocks = [r.to_ndarray()[0] for frame in container.decode(audio=0) for r in resampler.resample(frame)]
    return np.concatenate(blocks).astype(np.int16) if blocks else np.zeros(0, np.int16)
