"""The temporal contract, as data: how old, how late and how long.

`pipeline.admission` is the state machine that keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.windows import WindowSpec

IN_FLIGHT_NS = 2_000_000
"""How long an announcement may be under way between two stages before a live run calls it late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamContract:
    """What fusion may expect of one stream.

    ``max_age_ns``: older tokens are stale. ``wait_ns``: what is received later than *t + wait* is never admitted for *t*.
    ``liveness_ns``: a stream that announced nothing for this long is missing. ``min_gap_ns``: no two samples are closer in
    capture time (0 if unknown); it lets a live run stop waiting early.
    """

    stream: str
    window: WindowSpec
    max_age_ns: int
    wait_ns: int
    liveness_ns: int
    sparse: bool = False
    min_gap_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """When decisions are due and what they may rest on.

    ``reference_stream`` is the stream whose samples set the reference times, or None for a fixed rate; ``period_ns`` is its
    nominal period, ``in_flight_ns`` how long an announcement may be under way between two stages before a live run calls it
    late, ``origin_ns`` the origin of the run's capture-time grid, ``stop_after_ns`` the last reference time of a log that
    is replayed.
    """

    streams: tuple[StreamContract, ...]
    reference_stream: str | None
    period_ns: int
    deadline_ns: int
    reserve_ns: int
    origin_ns: int
    in_flight_ns: int = IN_FLIGHT_NS
    stop_after_ns: int | None = None

    def __post_init__(self) -> None:
        """Refuse a contract that could not be kept; the message names the stream, the value and the fix."""
        if not 0 <= self.reserve_ns < self.deadline_ns:
            raise ValueError(f"reserve ({self.reserve_ns} ns) must be below the deadline ({self.deadline_ns} ns)")
        latest_ns = self.deadline_ns - self.reserve_ns
        for stream in self.streams:
            if stream.wait_ns + self.in_flight_ns >= latest_ns:
                raise ValueError(
                    f"stream {stream.stream!r}: wait ({stream.wait_ns / 1e6:g} ms, plus {self.in_flight_ns / 1e6:g} ms for an "
                    f"announcement under way) must be below deadline - reserve ({latest_ns / 1e6:g} ms): "
                    "lower wait_ms, or raise deadline_ms"
                )
