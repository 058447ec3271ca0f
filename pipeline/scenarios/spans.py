"""When something is on: from a flag a step to its spans."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def spans_of(on: NDArray[Any]) -> list[tuple[int, int]]:
    """First step and the step after the last of every span in which ``on [n]`` is true, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (on != 0).astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
