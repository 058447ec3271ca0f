"""What a stage asks of an engine: arrays in, arrays out. `engines.backends` provides it; `pipeline` never imports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray


class Infer(Protocol):
    """One activated engine."""

    @property
    def engine(self) -> str:
        """Which engine served the last call, as receipts name it; empty: the one that the run's identity names for its role."""
        ...

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once. The outputs are valid until the next call; keeping means copying."""
        ...
