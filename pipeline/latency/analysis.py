"""What many decisions' intervals say: percentiles by stage and stream, and who is to blame for the tail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.latency.histograms import WARM_UP_NS, LatencySummary
from pipeline.latency.intervals import STAGES, Interval, intervals, until_published
from pipeline.messages import Decision, StreamStamps

PERCENTS = (50.0, 90.0, 99.0, 99.9)
TOTAL = "latency"
TAIL_PERCENT = 99.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One live decision with its intervals."""

    decision: Decision
    intervals: tuple[Interval, ...]

    @property
    def streams(self) -> tuple[StreamStamps, ...]:
        """How each stream's tokens came."""
        return self.decision.stamps.streams if self.decision.stamps is not None else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """What one stage (of one stream, where it is one's) costs in the tail, and what it costs otherwise."""

    stage: str
    stream: str
    tail_ns: float
    """Mean over the tail's decisions."""
    usual_ns: float
    """Mean over all others."""

    @property
    def excess_ns(self) -> float:
        """By how much the tail exceeds the rest here."""
        return self.tail_ns - self.usual_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The slowest decisions, and whose time it was, the dearest first."""

    from_ns: int
    """Decisions of at least this latency are the tail."""
    decisions: int
    blames: tuple[Blame, ...]

    def waiting_by_stream(self) -> dict[str, float]:
        """Stream to the share of the tail's latency that was waiting for it: its sensor's own delay, and fusion's wait."""
        total_ns = sum(blame.tail_ns for blame in self.blames)
        waits: Counter[str] = Counter()
        for blame in self.blames:
            if blame.stage in ("sensor", "wait"):
                waits[blame.stream] += blame.tail_ns  # type: ignore[assignment]
        return {stream: ns / total_ns for stream, ns in waits.most_common() if total_ns}


def measured(decisions: Iterable[Decision]) -> list[Measured]:
    """The live decisions that hold stamps, after the warm-up."""
    found: list[Measured] = []
    first_ns: int | None = None
    for decision in decisions:
        if first_ns is None:
            first_ns = decision.reference_ns
        if decision.reference_ns >= first_ns + WARM_UP_NS and (parts := intervals(decision)):
            found.append(Measured(decision=decision, intervals=parts))
    return found


def by_stage(found: Sequence[Measured]) -> LatencySummary:
    """Histograms of the latency (`TOTAL`) and of each stage, in the order of `STAGES`.

    A stage counts in each decision that passed it; where it is passed more than once, as ``wait``, the sum counts.
    """
    summary = LatencySummary()
    rows = [(m.decision.latency_ns, _sums(m.intervals)) for m in found]
    for latency_ns, _ in rows:
        summary.add(TOTAL, latency_ns)
    for stage in STAGES:
        for _, sums in rows:
            if stage in sums:
                summary.add(stage, sums[stage])
    return summary


def by_stream(found: Sequence[Measured]) -> LatencySummary:
    """Histograms of every stream's way from capture to fusion, on the critical path or not; parts are ``STREAM`` and
    ``STREAM: sensor | ingest | encode | link``.
    """
    summary = LatencySummary()
    for one in found:
        for s in one.streams:
            if not s.arrived_ns:
                continue
            parts = {
                "": s.arrived_ns - s.capture_ns,
                ": sensor": s.receive_ns - s.capture_ns,
                ": ingest": s.decoded_ns - s.receive_ns,
                ": encode": s.encoded_ns - s.taken_ns,
                ": link": (s.taken_ns - s.decoded_ns) + (s.arrived_ns - s.encoded_ns),
            }
            for name, ns in parts.items():
                summary.add(f"{s.stream}{name}", ns)
    return summary


def tail(found: Sequence[Measured]) -> Tail | None:
    """Where the slowest percent of the decisions spent its time; None if that is not one decision."""
    latencies = LatencySummary()
    for one in found:
        latencies.add(TOTAL, one.decision.latency_ns)
    from_ns = latencies.percentile_ns(TOTAL, TAIL_PERCENT)
    if from_ns is None:
        return None
    slow = [m for m in found if m.decision.latency_ns >= from_ns]
    rest = [m for m in found if m.decision.latency_ns < from_ns]
    if not slow:  # a bin of the histogram stands for what lies in it
        slow, rest = [max(found, key=lambda m: m.decision.latency_ns)], []
    tail_ns, usual_ns = _means(slow), _means(rest)
    blames = [
        Blame(stage=stage, stream=stream, tail_ns=ns, usual_ns=usual_ns.get((stage, stream), 0.0))
        for (stage, stream), ns in tail_ns.items()
    ]
    return Tail(from_ns=from_ns, decisions=len(slow), blames=tuple(sorted(blames, key=lambda b: -b.tail_ns)))


def _means(found: Sequence[Measured]) -> dict[tuple[str, str], float]:
    sums: Counter[tuple[str, str]] = Counter()
    for one in found:
        for interval in until_published(one.intervals):
            sums[interval.stage, interval.stream] += interval.duration_ns
    return {key: ns / len(found) for key, ns in sums.items()}


def _sums(found: Sequence[Interval]) -> Mapping[str, int]:
    sums: Counter[str] = Counter()
    for interval in found:
        sums[interval.stage] += interval.duration_ns
    return sums
