"""The simulated text feed, and how late the simulated sensors at the bedside deliver. Not a medical device; simulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.patient.course import STREAMS, Course


def text_lines(course: Course) -> list[tuple[float, str]]:
    """The simulated text feed, ``(time_s, line)`` in time order: the monitor's alarms and the chart.

    An alarm's line comes within 0.6 s of its onset and again every 3 s while it is on, with what the chart says beside it.
    That is wrong or stale 15% of the time, and then consistently so.
    """
    return list(course.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How late each simulated sample reaches the runtime, and when a sensor is out."""

    seed: int
    gaps_s: dict[str, tuple[tuple[float, float], ...]]
    """Stream to the spans in which it delivers nothing."""

    def delays_s(self, stream: str, capture_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Delay of each sample in s, ``[n]``, 1 to 12 ms; NaN where the sample is lost."""
        rng = np.random.Generator(np.random.PCG64([self.seed, 5, STREAMS.index(stream)]))
        delays = np.minimum(0.012, 0.001 + rng.exponential(0.0018, len(capture_s)))
        for start, stop in self.gaps_s[stream]:
            delays[(capture_s >= start) & (capture_s < stop)] = np.nan
        return delays


def arrivals(course: Course) -> Arrivals:
    """Delays and dropouts of the simulated sensors: a stream is out for 0.3 to 3 s about once in two minutes."""
    rng = np.random.Generator(np.random.PCG64([course.seed, 6]))
    gaps: dict[str, tuple[tuple[float, float], ...]] = {}
    for stream in STREAMS:
        count = int(rng.poisson(course.duration_s / 120.0))
        starts = np.sort(rng.uniform(1.0, max(1.5, course.duration_s - 3.0), count))
        gaps[stream] = tuple((float(s), float(s + rng.uniform(0.3, 3.0))) for s in starts)
    return Arrivals(seed=course.seed, gaps_s=gaps)
