"""What an engine really read: some of the windows that came by, for calibration and for parity."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backends.base import Shapes
from engines.windows import Window

SEED = 17


def shapes_of(windows: Sequence[Window]) -> Shapes:
    """Those of the newest window: the frames of a stream keep their size. Nothing of no windows."""
    return {name: array.shape for name, array in windows[-1].items()} if windows else {}


class Reservoir:
    """At most ``limit`` of the windows that came by, each equally likely (Vitter, "Random Sampling with a Reservoir", 1985)."""

    def __init__(self, limit: int) -> None:
        self._limit, self._seen, self._random = limit, 0, random.Random(SEED)
        self.windows: list[Window] = []

    def offer(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Keep a copy, or not."""
        self._seen += 1
        if len(self.windows) < self._limit:
            self.windows.append({name: np.array(array) for name, array in inputs.items()})
        elif (place := self._random.randrange(self._seen)) < self._limit:
            self.windows[place] = {name: np.array(array) for name, array in inputs.items()}
