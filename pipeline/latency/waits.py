"""How latency and completeness would change with other waits: a re-evaluation of recorded stamps, no run.

Of each decision it is known when every stream's samples were received, when its tokens were ready, and how long fusion and policy
took. For other waits the decision would have begun when the last stream had settled (or its wait had passed) and the tokens of
what was received in time were there. What is assumed: paths and compute stay as they were, and tokens that were not admitted
would have taken the median of their stream's way.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pipeline.contract import IN_FLIGHT_NS
from pipeline.latency.analysis import Measured
from pipeline.latency.histograms import LatencySummary
from pipeline.messages import Announcement, AnnouncementKind, Availability, StreamStamps

STEPS_MS = (0, 1, 2, 3, 5, 8, 12, 16, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 500)
"""Waits that are tried."""


class StreamArrivals:
    """When the samples of one stream were captured and received."""

    def __init__(self, announcements: Iterable[Announcement], min_gap_ns: int) -> None:
        words = sorted(
            (a.header.capture_ns, a.header.receive_ns, a.kind is AnnouncementKind.SAMPLE)
            for a in announcements
            if a.kind in (AnnouncementKind.SAMPLE, AnnouncementKind.HEARTBEAT)
        )
        self._captures = [word[0] for word in words]
        self._receives = [word[1] for word in words]
        self._samples = [(word[0], word[1]) for word in words if word[2]]
        self._sample_captures = [capture for capture, _ in self._samples]
        self._min_gap_ns = min_gap_ns

    def settles_after_ns(self, reference_ns: int) -> int | None:
        """From the reference time on, when it is known that nothing more is owed; None: never, only the wait's end settles it."""
        place = bisect_left(self._captures, reference_ns)
        if place and self._min_gap_ns and self._captures[place - 1] + self._min_gap_ns > reference_ns:
            return max(0, self._receives[place - 1] - reference_ns)
        return max(0, self._receives[place] - reference_ns) if place < len(self._captures) else None

    def newest_after_ns(self, reference_ns: int) -> int | None:
        """When the newest sample captured by then was received, from the reference time (negative: before); None: no sample."""
        place = bisect_right(self._sample_captures, reference_ns)
        return self._samples[place - 1][1] - reference_ns if place else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """What one decision's latency is made of, by stream; all from its reference time."""

    known_ns: int
    """When fusion knew of it: late where the reference stream had first to count as lost. No wait changes that."""
    settles_ns: Mapping[str, int | None]
    received_ns: Mapping[str, int | None]
    ready_ns: Mapping[str, int]
    """When the tokens of the newest sample were, or would have been, with fusion."""
    rest_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitOutcome:
    """What a set of waits would do."""

    waits_ms: Mapping[str, int]
    p50_ns: int | None
    p99_ns: int | None
    completeness: Mapping[str, float]
    """Stream to the share of decisions for which all that had been captured was received in time."""


class WaitModel:
    """Re-evaluates recorded decisions for other waits."""

    def __init__(self, found: Sequence[Measured], arrivals: Mapping[str, StreamArrivals], waits_ms: Mapping[str, int]) -> None:
        self.waits_ms = dict(waits_ms)
        paths: dict[str, list[int]] = {stream: [] for stream in arrivals}
        for one in found:
            for s in one.streams:
                if s.arrived_ns and s.stream in paths:
                    paths[s.stream].append(s.arrived_ns - s.receive_ns)
        usual_ns = {stream: int(median(ns)) if ns else 0 for stream, ns in paths.items()}
        self._moments = [_moment(one, arrivals, usual_ns, self.waits_ms) for one in found]

    def outcome(self, waits_ms: Mapping[str, int]) -> WaitOutcome:
        """For these waits, in ms by stream."""
        latency = LatencySummary()
        in_time: dict[str, int] = dict.fromkeys(waits_ms, 0)
        for moment in self._moments:
            latency.add("latency", _latency_ns(moment, waits_ms))
            for stream, wait_ms in waits_ms.items():
                received_ns = moment.received_ns[stream]
                in_time[stream] += received_ns is not None and received_ns <= wait_ms * 1_000_000
        return WaitOutcome(
            waits_ms=dict(waits_ms),
            p50_ns=latency.percentile_ns("latency", 50),
            p99_ns=latency.percentile_ns("latency", 99),
            completeness={stream: n / max(len(self._moments), 1) for stream, n in in_time.items()},
        )

    def along(self, stream: str, limit_ms: int) -> list[WaitOutcome]:
        """One stream's wait from 0 to the limit, the others as they were."""
        steps = sorted({*(ms for ms in STEPS_MS if ms <= limit_ms), self.waits_ms[stream]})
        return [self.outcome({**self.waits_ms, stream: ms}) for ms in steps]

    def reaching(self, target_ns: int, limit_ms: int) -> WaitOutcome | None:
        """Waits whose p99 is within the target, as complete as a greedy search finds; None if even no waiting misses it.

        It begins with the shortest waits that are as complete as the limit allows, and shortens step by step the one that costs
        the least completeness for what it gains.
        """
        best = self.outcome({stream: self._shortest(stream, limit_ms) for stream in self.waits_ms})
        while best.p99_ns is not None and best.p99_ns > target_ns:
            shorter = [
                self.outcome({**best.waits_ms, stream: max((s for s in STEPS_MS if s < ms), default=0)})
                for stream, ms in best.waits_ms.items()
                if ms > 0
            ]
            if not shorter:
                return None
            best = min(shorter, key=lambda o: (_lost(best, o) / max(_gained(best, o), 1), o.p99_ns or 0))
        return best

    def _shortest(self, stream: str, limit_ms: int) -> int:
        """The shortest wait of this stream than which none within the limit is more complete."""
        steps = [ms for ms in STEPS_MS if ms <= limit_ms] or [0]
        complete = {ms: self._complete(stream, ms) for ms in steps}
        return min(ms for ms in steps if complete[ms] == max(complete.values()))

    def _complete(self, stream: str, wait_ms: int) -> int:
        found = (moment.received_ns[stream] for moment in self._moments)
        return sum(ns is not None and ns <= wait_ms * 1_000_000 for ns in found)


def _moment(
    one: Measured, arrivals: Mapping[str, StreamArrivals], usual_ns: Mapping[str, int], waits_ms: Mapping[str, int]
) -> _Moment:
    reference_ns = one.decision.reference_ns
    stamps = {s.stream: s for s in one.streams}
    received_ns = {stream: a.newest_after_ns(reference_ns) for stream, a in arrivals.items()}
    settles_ns = {stream: a.settles_after_ns(reference_ns) for stream, a in arrivals.items()}
    ready_ns = {}
    for stream, received in received_ns.items():
        known, wait_ns = stamps.get(stream), waits_ms[stream] * 1_000_000
        if known is not None and 0 < known.settled_ns < reference_ns + wait_ns + IN_FLIGHT_NS:
            # It settled before its wait was over: none of its windows could end in time, or it spoke past the reference time.
            later_ns, said_ns = settles_ns[stream], max(0, known.settled_ns - reference_ns)
            settles_ns[stream] = said_ns if later_ns is None else min(said_ns, later_ns)
        if known is not None and known.arrived_ns:
            ready_ns[stream] = known.arrived_ns - reference_ns
        elif received is not None and (received > wait_ns or not _owed_nothing(one, known)):
            ready_ns[stream] = received + usual_ns[stream]
    known_ns = max(0, one.decision.stamps.announced_ns - reference_ns) if one.decision.stamps is not None else 0
    began_ns = max([known_ns, *(max(s.settled_ns, s.arrived_ns) - reference_ns for s in stamps.values())])
    return _Moment(
        known_ns=known_ns,
        settles_ns=settles_ns,
        received_ns=received_ns,
        ready_ns=ready_ns,
        rest_ns=max(0, one.decision.latency_ns - began_ns),
    )


def _owed_nothing(one: Measured, known: StreamStamps | None) -> bool:
    """Whether fusion went by tokens that an earlier decision had read, because no newer ones could come."""
    receipt = one.decision.receipt
    if known is None or not known.settled_ns or receipt is None:
        return False
    return any(a.stream == known.stream and a.availability is Availability.PRESENT and not a.overrun for a in receipt.admitted)


def _latency_ns(moment: _Moment, waits_ms: Mapping[str, int]) -> int:
    begins_ns = moment.known_ns
    for stream, wait_ms in waits_ms.items():
        wait_ns = wait_ms * 1_000_000
        settles_ns = moment.settles_ns[stream]
        latest_ns = wait_ns + IN_FLIGHT_NS
        begins_ns = max(begins_ns, latest_ns if settles_ns is None else min(settles_ns, latest_ns))
        received_ns = moment.received_ns[stream]
        if received_ns is not None and received_ns <= wait_ns:
            begins_ns = max(begins_ns, moment.ready_ns.get(stream, 0))
    return begins_ns + moment.rest_ns


def _lost(before: WaitOutcome, after: WaitOutcome) -> float:
    return sum(before.completeness.values()) - sum(after.completeness.values())


def _gained(before: WaitOutcome, after: WaitOutcome) -> int:
    return (before.p99_ns or 0) - (after.p99_ns or 0)
