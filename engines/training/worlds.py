"""What training asks of a simulated world: runs with everything that their sensors gave, and what was true."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from engines.networks.design import ScenarioDesign
from engines.training.token_set import Event

Array = NDArray[Any]
Percept = tuple[Array, Array]
"""Clean values ``[n, dims]`` and the standard deviation of the sensor's noise ``[dims]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clue:
    """An auxiliary target: what one sensor alone can tell. ``size`` 1 is a regression (NaN: unknown), else so many classes.

    ``at``: ``sample`` is the truth when the delivered frame was taken, ``now`` that of the reference time.
    """

    stream: str
    size: int
    at: Literal["sample", "now"] = "now"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """One simulated run. Arrays by frame have ``frames`` entries, ``frame_rate_hz`` a second."""

    seed: int
    duration_s: float
    frames: int
    frame: Callable[[int], Array]
    """A frame's index to uint8 ``[h, w, 3]``; only while the world's renderer is open."""
    pcm: Array
    """int16, 16 kHz."""
    row_times_s: Array
    row_values: Array
    row_valid: Array
    lines: Sequence[tuple[float, str]]
    gaps_s: Mapping[str, Sequence[tuple[float, float]]]
    """Stream to the spans in which it delivers nothing."""
    labels: Mapping[str, Array]
    """Head to the class by frame."""
    clues: Mapping[str, Array]
    """Clue to its target by frame."""
    scored: Callable[[Array], Mapping[str, Array]]
    """Frames to `TokenSet.scored`."""
    percepts: Callable[[Array], Mapping[str, Percept]]
    decisive: Callable[[Array], Array]
    events: Sequence[Event]
    """With ``run`` 0."""


class World(Protocol):
    """A scenario's simulated world."""

    @property
    def design(self) -> ScenarioDesign:
        """What its networks read and give."""
        ...

    @property
    def frame_rate_hz(self) -> int:
        """Frames a second, which is also the rate of truth."""
        ...

    @property
    def clues(self) -> Mapping[str, Clue]:
        """Auxiliary targets by name."""
        ...

    @property
    def learnt(self) -> tuple[str, str]:
        """Conditions of the runs that encoders learn from: one encounter after the other, and everyday."""
        ...

    @property
    def sayings(self) -> Sequence[str]:
        """Phrases that tell the kinds of lines apart; the last fits any line. Clue ``said`` is the first that fits, by index."""
        ...

    @property
    def percept_dims(self) -> Mapping[str, Mapping[str, Sequence[int]]]:
        """Head to the percept dimensions of each stream that bear on it; heads without a ceiling are left out."""
        ...

    @property
    def unfamiliar(self) -> Sequence[str]:
        """Conditions of the out-of-distribution split."""
        ...

    @property
    def event_run_s(self) -> float:
        """How long a run must be to hold events whole, from onset to what lead time is counted to."""
        ...

    @property
    def dense_runs(self) -> int:
        """How many dense test runs it takes to tell a gain in AUROC of 0.08 from half of it."""
        ...

    @property
    def max_age_s(self) -> Mapping[str, float]:
        """Stream to how old its tokens may be, as in the scenario's contract."""
        ...

    def opened(self) -> AbstractContextManager[Any]:
        """Open what renders frames; runs of this world may draw frames inside."""
        ...

    @property
    def asked_heads(self) -> Sequence[str]:
        """Heads that can raise an alarm only where their question is asked (while a monitor's alarm is on)."""
        ...

    def run(self, seed: int, duration_s: float, condition: str, *, with_senses: bool = True) -> SimulatedRun:
        """A run: ``dense`` (one encounter after the other), ``everyday``, ``night``, or one of ``unfamiliar``.

        Without senses there is no sound, no row and no frame, only the truth and what could be perceived of it: much quicker.
        """
        ...
