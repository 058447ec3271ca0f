"""A live decision's latency as consecutive intervals on one clock, from its reference time to where it went.

The *critical path* is that of the tokens that fusion got last: whatever was done for other streams meanwhile cost nothing. Before
the reference time nothing counts. So the intervals leave no gap, do not overlap, and their sum is the latency.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.messages import Decision, StreamStamps

STAGES = (
    "sensor", "ingest queue", "decode", "sample link", "window", "encode", "token link", "wait", "fusion queue", "fuse", "policy",
    "sink link",
)  # fmt: skip
"""In the order in which they come. ``sample link`` and ``token link`` hold what waited in the receiver's queue too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Part of a decision's time. ``stream``: whose, where it is one stream's; of a ``wait``, the stream waited for."""

    stage: str
    stream: str
    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        """Never negative."""
        return self.end_ns - self.start_ns


def intervals(decision: Decision) -> tuple[Interval, ...]:
    """Where the time went from the reference time to publication, and on to the sink where that is known.

    Nothing for what has no stamps: a replayed, skipped or old decision.
    """
    stamps = decision.stamps
    if stamps is None or decision.status == "skipped":
        return ()
    bounds = _Bounds(decision.reference_ns)
    critical = max((s for s in stamps.streams if s.arrived_ns), key=lambda s: s.arrived_ns, default=None)
    if critical is not None:
        bounds.path(critical)
    else:  # nothing new was read: the reference time itself had to be heard of
        bounds.reach("wait", "", stamps.announced_ns)
    for late in sorted((s for s in stamps.streams if s.settled_ns > bounds.reached_ns), key=lambda s: s.settled_ns):
        bounds.reach("wait", late.stream, min(late.settled_ns, stamps.fuse_start_ns))
    bounds.reach("fusion queue", "", stamps.fuse_start_ns)
    bounds.reach("fuse", "", stamps.fused_ns)
    bounds.reach("policy", "", decision.publish_ns)
    if decision.sink_ns:
        bounds.reach("sink link", "", decision.sink_ns)
    return tuple(bounds.found)


def until_published(found: Sequence[Interval]) -> Iterator[Interval]:
    """Those that make up the latency: all but the way to the sink."""
    return (interval for interval in found if interval.stage != "sink link")


class _Bounds:
    """Intervals, one beginning where the last ended."""

    def __init__(self, start_ns: int) -> None:
        self.reached_ns = start_ns
        self.found: list[Interval] = []

    def reach(self, stage: str, stream: str, end_ns: int) -> None:
        """An interval up to there, unless that is reached already."""
        if end_ns > self.reached_ns:
            self.found.append(Interval(stage=stage, stream=stream, start_ns=self.reached_ns, end_ns=end_ns))
            self.reached_ns = end_ns

    def path(self, stamps: StreamStamps) -> None:
        """One stream's way to fusion."""
        ends = {
            "sensor": stamps.receive_ns, "ingest queue": stamps.decode_start_ns, "decode": stamps.decoded_ns,
            "sample link": stamps.taken_ns, "window": stamps.encode_start_ns, "encode": stamps.encoded_ns,
            "token link": stamps.arrived_ns,
        }  # fmt: skip
        for stage, end_ns in ends.items():
            self.reach(stage, stamps.stream, end_ns)
