"""Fusion's memory: a few past fusion tokens keyed by reference time. Bounded, serialisable, and the same in every replay.

A fusion token is a function of what was admitted at its reference time alone, never of the memory. So whatever a decision rests
on lies at most ``entries`` steps back, and a replay that begins later agrees from then on.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SNAPSHOT_NS = 1_000_000_000
"""How often the whole memory is given to the recorder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySpec:
    """At most ``entries`` tokens of ``channels`` float32 values, at least ``step_ns`` of reference time apart."""

    entries: int
    step_ns: int
    channels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    reference_ns: int
    token: NDArray[np.float32]
    sha256: str


class FusionMemory:
    """Holds the entries; newest first when read. What is older than ``entries + 1`` steps is forgotten."""

    def __init__(self, spec: MemorySpec) -> None:
        self._spec = spec
        self._entries: deque[_Entry] = deque(maxlen=spec.entries)
        self._first_ns: int | None = None
        self._snapshot_ns = -(2**62)

    def inputs(self, reference_ns: int) -> dict[str, NDArray[np.float32]]:
        """What the network reads then: ``memory [entries, channels]``, ``memory_age_s`` and ``memory_mask [entries]``.

        An empty place has mask 0, age 0 and zeros.
        """
        spec = self._spec
        oldest_ns = reference_ns - (spec.entries + 1) * spec.step_ns
        while self._entries and self._entries[-1].reference_ns < oldest_ns:
            self._entries.pop()
        memory = np.zeros((spec.entries, spec.channels), np.float32)
        age_s, mask = np.zeros(spec.entries, np.float32), np.zeros(spec.entries, np.float32)
        for place, entry in enumerate(self._entries):
            memory[place] = entry.token
            age_s[place] = (reference_ns - entry.reference_ns) / 1e9
            mask[place] = 1.0
        return {"memory": memory, "memory_age_s": age_s, "memory_mask": mask}

    def keep(self, reference_ns: int, token: NDArray[np.float32]) -> None:
        """Remember a token, unless the newest entry is less than a step older. ``token`` is copied."""
        if self._first_ns is None:
            self._first_ns = reference_ns
        if self._entries and reference_ns - self._entries[0].reference_ns < self._spec.step_ns:
            return
        kept = np.array(token, dtype="<f4")
        digest = hashlib.sha256(kept.tobytes()).hexdigest()[:16]
        self._entries.appendleft(_Entry(reference_ns=reference_ns, token=kept, sha256=digest))

    def keys(self) -> tuple[tuple[int, str], ...]:
        """Each entry as ns since the first reference time and the head of its SHA-256, newest first."""
        return tuple((entry.reference_ns - (self._first_ns or 0), entry.sha256) for entry in self._entries)

    def snapshot(self, reference_ns: int) -> str:
        """`to_json`, once every second of reference time; empty in between."""
        if reference_ns - self._snapshot_ns < SNAPSHOT_NS:
            return ""
        self._snapshot_ns = reference_ns
        return self.to_json()

    def to_json(self) -> str:
        """The whole memory as one line: ``[[ns since the first reference time, base64 of little-endian float32], …]``."""
        first_ns = self._first_ns or 0
        pairs = [[e.reference_ns - first_ns, base64.b64encode(e.token.tobytes()).decode("ascii")] for e in self._entries]
        return json.dumps(pairs, separators=(",", ":"))
