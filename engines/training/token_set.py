"""Cached tokens of continuous simulated time: what fusion networks are trained and evaluated on.

Encoders are frozen by then, so their tokens are computed once. A set is a folder of ``.npy`` arrays and one JSON file,
memory mapped when read; nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One true event of a task: what an alarm of that head should find.

    ``onset_s`` is when it begins to be true, ``end_s`` when it ceases, ``critical_s`` what lead time is counted to (impact; the
    SpO2 threshold), all in the run's time. ``run`` indexes the set's runs.
    """

    head: str
    run: int
    onset_s: float
    end_s: float
    critical_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSet:
    """Tokens and truth by tick. Ticks of one run are consecutive and ``tick_s`` apart; ``n`` is the number of ticks.

    A tick holds the windows that end at it (age 0) unless the simulated sensor delivered late or not at all.
    """

    tick_s: float
    seeds: tuple[int, ...]
    """World seed of each run."""
    run: NDArray[np.int32]
    """``[n]``: index of the run, rising."""
    time_s: NDArray[np.float32]
    """``[n]``: time within the run."""
    tokens: Mapping[str, Array]
    """Stream to float16 ``[n, tokens, 64]``."""
    low_level: Mapping[str, Array]
    """Stream to float16 ``[n, steps, channels]``: what the sensor gives before any encoder, coarse. Empty: not kept."""
    state: NDArray[np.uint8]
    """``[n, streams]``: 0 present, 1 quiet, 2 absent, as the simulated sensors were."""
    age_s: NDArray[np.float32]
    """``[n, streams]``: age of the tokens."""
    labels: Mapping[str, NDArray[np.uint8]]
    """Head to the true class now, ``[n]``."""
    scored: Mapping[str, NDArray[np.bool_]]
    """Head to the ticks at which its question is asked (an alarm is on; a siren, light or line concerns us), ``[n]``."""
    percepts: Mapping[str, NDArray[np.float32]]
    """Stream to the noisy latents that it could perceive, ``[n, dims]``, for the ceiling and linear probes."""
    decisive: NDArray[np.int8]
    """``[n]``: index of the stream without which the first head's truth cannot be told here, -1 where no single one decides."""
    events: tuple[Event, ...]

    def __len__(self) -> int:
        return len(self.run)

    @property
    def streams(self) -> tuple[str, ...]:
        """Stream names, in the order of ``state``."""
        return tuple(self.tokens)

    def save(self, folder: Path) -> None:
        """Write the set to ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self._arrays().items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        about = {
            "tick_s": self.tick_s,
            "seeds": self.seeds,
            "streams": self.streams,
            "heads": tuple(self.labels),
            "low_level": bool(self.low_level),
            "events": [asdict(e) for e in self.events],
        }
        (folder / "set.json").write_text(json.dumps(about), encoding="utf-8")

    def _arrays(self) -> dict[str, Array]:
        arrays: dict[str, Array] = {name: getattr(self, name) for name in ("run", "time_s", "state", "age_s", "decisive")}
        for group in _GROUPS:
            arrays |= {f"{group}.{key}": array for key, array in getattr(self, group).items()}
        return arrays


_GROUPS = ("tokens", "low_level", "labels", "scored", "percepts")


def load_token_set(folder: Path, *, mapped: bool = True) -> TokenSet:
    """Open a set that `TokenSet.save` wrote; arrays are memory mapped, read-only, or else read (each map holds a file open)."""
    about = json.loads((folder / "set.json").read_text(encoding="utf-8"))

    def opened(name: str) -> Array:
        array: Array = np.load(folder / f"{name}.npy", mmap_mode="r" if mapped else None, allow_pickle=False)
        return array

    def group(name: str) -> dict[str, Array]:
        keys = about["heads"] if name in ("labels", "scored") else about["streams"]
        if name == "low_level" and not about["low_level"]:
            return {}
        return {key: opened(f"{name}.{key}") for key in keys}

    return TokenSet(
        tick_s=float(about["tick_s"]),
        seeds=tuple(about["seeds"]),
        run=opened("run"),
        time_s=opened("time_s"),
        tokens=group("tokens"),
        low_level=group("low_level"),
        state=opened("state"),
        age_s=opened("age_s"),
        labels=group("labels"),
        scored=group("scored"),
        percepts=group("percepts"),
        decisive=opened("decisive"),
        events=tuple(Event(**e) for e in about["events"]),
    )


def joined(sets: Sequence[TokenSet]) -> TokenSet:
    """Sets one after the other, with their runs renumbered. Raises ValueError when they differ in ticks or streams."""
    first = sets[0]
    if any(s.tick_s != first.tick_s or s.streams != first.streams or bool(s.low_level) != bool(first.low_level) for s in sets):
        raise ValueError("token sets of different ticks, streams or kinds cannot be joined; cache them alike")
    offsets = np.cumsum([0] + [len(s.seeds) for s in sets]).tolist()

    def stacked(name: str) -> Array:
        return np.concatenate([getattr(s, name) for s in sets])

    def grouped(name: str) -> dict[str, Array]:
        return {key: np.concatenate([getattr(s, name)[key] for s in sets]) for key in getattr(first, name)}

    return TokenSet(
        tick_s=first.tick_s,
        seeds=tuple(seed for s in sets for seed in s.seeds),
        run=np.concatenate([s.run + offset for s, offset in zip(sets, offsets, strict=False)]).astype(np.int32),
        time_s=stacked("time_s"),
        tokens=grouped("tokens"),
        low_level=grouped("low_level"),
        state=stacked("state"),
        age_s=stacked("age_s"),
        labels=grouped("labels"),
        scored=grouped("scored"),
        percepts=grouped("percepts"),
        decisive=stacked("decisive"),
        events=tuple(replace(e, run=e.run + offset) for s, offset in zip(sets, offsets, strict=False) for e in s.events),
    )
