"""From calibrated probabilities to an action, with memory: hysteresis first, then the safety ladder.

The whole memory is one value (`PolicyState`), at most K entries keyed by reference time, that serialises to the same JSON
on every machine. Its hash is in each receipt; a snapshot is in the log every second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """What policy remembers: the action in force, and the last candidates as ``(ns since the first decision, class index)``.

    A class index of -1 is a reference time at which no class was probable enough.
    """

    action: int = 0
    recent: tuple[tuple[int, int], ...] = ()

    def to_json(self, memory: tuple[tuple[int, str], ...] | None = None) -> str:
        """One canonical line, with the keys of fusion's memory where there is one."""
        recent = ",".join([f"[{at_ns},{candidate}]" for at_ns, candidate in self.recent])
        if memory is None:
            return f'{{"action":{self.action},"recent":[{recent}]}}'
        keys = ",".join([f'[{at_ns},"{sha256}"]' for at_ns, sha256 in memory])
        return f'{{"action":{self.action},"recent":[{recent}],"memory":[{keys}]}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class HysteresisPolicy:
    """A class takes over after ``enter[class]`` reference times in a row at which it is top and probable enough.

    Enough is ``threshold``, or what calibration found for this class with the streams that are present.

    With no stream present at all the action is ``blind_action`` at once: the network has nothing to go by.
    """

    labels: tuple[str, ...]
    enter: Mapping[str, int]
    threshold: float
    memory: int
    blind_action: str

    def step(
        self,
        state: PolicyState,
        since_first_ns: int,
        probabilities: NDArray[np.float32],
        thresholds: Mapping[str, float] | None = None,
        *,
        blind: bool,
    ) -> PolicyState:
        """The state after one more decision; ``probabilities`` float32 ``[classes]``, ``thresholds`` by label."""
        values = probabilities.tolist()
        top = values.index(max(values))
        enough = (thresholds or {}).get(self.labels[top], self.threshold)
        candidate = top if values[top] >= enough else -1
        recent = (*state.recent, (since_first_ns, candidate))[-self.memory :]
        if blind:
            return PolicyState(action=self.labels.index(self.blind_action), recent=recent)
        needed = self.enter.get(self.labels[candidate], 1) if candidate >= 0 else 0
        in_a_row = len(recent) >= needed and all(c == candidate for _, c in recent[-needed:]) if needed else False
        return PolicyState(action=candidate if in_a_row else state.action, recent=recent)

    def label(self, state: PolicyState) -> str:
        """The name of the action in force."""
        return self.labels[state.action]
