"""What a log holds, in one pass over it: streams and their gaps, sizes, decisions and their latency."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.logs.reader import LogReader, parse_decision
from pipeline.logs.records import LogError
from pipeline.logs.schemas import ANNOUNCEMENTS_TOPIC, DECISIONS_TOPIC, announcement_from_json
from pipeline.messages import Announcement, AnnouncementKind, Decision
from pipeline.sources.base import StreamInfo

GAP_PERIODS = 1.5
"""Two samples further apart than this many nominal periods have a gap between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """One stream of a log.

    ``rate_hz`` is measured (0 with fewer than two samples), ``gaps`` and ``longest_gap_ns`` are by capture time,
    ``missing`` counts sequence numbers that were given and are not in the log, ``delay_p50_ns`` is receive less capture.
    """

    info: StreamInfo
    samples: int
    heartbeats: int
    lost: int
    epochs: int
    ended: bool
    first_capture_ns: int
    last_capture_ns: int
    rate_hz: float
    gaps: int
    longest_gap_ns: int
    missing: int
    delay_p50_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSize:
    """How much one channel holds: messages and their bytes before compression."""

    messages: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionsSummary:
    """The decisions of a log; ``latency_*`` are of those that were not skipped (0 without any), by nearest rank."""

    count: int
    by_status: dict[str, int]
    by_action: dict[str, int]
    overruns: int
    synthetic: int
    latency_p50_ns: int
    latency_p99_ns: int
    latency_max_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSummary:
    """What `summarise` found. ``clean`` and ``digest`` are the end record's; None when the log has none."""

    path: Path
    size_bytes: int
    scenario: str
    origin_ns: int
    duration_ns: int
    """From the origin to the last message."""
    metadata: dict[str, str]
    end: dict[str, str] | None
    closed: bool
    truncated_at: str | None
    clean: bool | None
    digest: str | None
    streams: tuple[StreamSummary, ...]
    channels: dict[str, ChannelSize]
    decisions: DecisionsSummary


def summarise(path: str | Path) -> LogSummary:
    """Read the whole log once. Raises `LogError` when it is not a log or broken; a cut one is summed up to the cut."""
    log = LogReader(path)
    streams = {name: _StreamTally(info) for name, info in log.streams.items()}
    decisions = _DecisionTally()
    messages: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    last_ns = log.origin_ns
    for message in log.messages():
        messages[message.topic] += 1
        sizes[message.topic] += len(message.data)
        last_ns = max(last_ns, message.log_time_ns)
        try:
            if message.topic == ANNOUNCEMENTS_TOPIC:
                announcement, _chunks = announcement_from_json(message.data)
                streams[announcement.header.stream].add(announcement)
            elif message.topic == DECISIONS_TOPIC:
                decisions.add(parse_decision(message.data))
        except (ValueError, KeyError, RecursionError, OverflowError) as error:
            raise LogError(f"{path}: {message.topic}: {error}; the log is broken, replay another copy") from error
    end = log.end
    return LogSummary(
        path=log.path,
        size_bytes=log.path.stat().st_size,
        scenario=log.scenario,
        origin_ns=log.origin_ns,
        duration_ns=last_ns - log.origin_ns,
        metadata=log.metadata,
        end=end,
        closed=log.closed and end is not None,
        truncated_at=log.truncated_at,
        clean=end["clean"].lower() in ("true", "yes", "1") if end and "clean" in end else None,
        digest=(end.get("digest") or end.get("sha256")) if end else None,
        streams=tuple(tally.summary() for tally in streams.values()),
        channels={topic: ChannelSize(messages=messages[topic], bytes=sizes[topic]) for topic in messages},
        decisions=decisions.summary(),
    )


def nearest_rank(ordered: array[int] | list[int], percent: float) -> int:
    """The percentile of sorted whole numbers by nearest rank; 0 of none."""
    if not ordered:
        return 0
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(int(rank) - 1, 0)]


@dataclass(slots=True)
class _StreamTally:
    info: StreamInfo
    kinds: Counter[AnnouncementKind] = field(default_factory=Counter)
    delays: array[int] = field(default_factory=lambda: array("q"))
    first_ns: int | None = None
    last_ns: int = 0
    last_seq: dict[int, int] = field(default_factory=dict)
    gaps: int = 0
    longest_gap_ns: int = 0
    missing: int = 0

    def add(self, announcement: Announcement) -> None:
        header = announcement.header
        self.kinds[announcement.kind] += 1
        if announcement.kind is not AnnouncementKind.SAMPLE:
            return
        self.delays.append(header.receive_ns - header.capture_ns)
        if self.first_ns is None:
            self.first_ns = header.capture_ns
        elif self.info.period_ns:
            apart_ns = header.capture_ns - self.last_ns
            if apart_ns > GAP_PERIODS * self.info.period_ns:
                self.gaps += 1
                self.longest_gap_ns = max(self.longest_gap_ns, apart_ns)
        self.last_ns = max(self.last_ns, header.capture_ns) if len(self.delays) > 1 else header.capture_ns
        last_seq = self.last_seq.get(header.epoch)
        if last_seq is not None and header.seq > last_seq + 1:
            self.missing += header.seq - last_seq - 1
        self.last_seq[header.epoch] = header.seq if last_seq is None else max(last_seq, header.seq)

    def summary(self) -> StreamSummary:
        samples = self.kinds[AnnouncementKind.SAMPLE]
        first_ns = self.first_ns or 0
        span_ns = self.last_ns - first_ns
        return StreamSummary(
            info=self.info,
            samples=samples,
            heartbeats=self.kinds[AnnouncementKind.HEARTBEAT],
            lost=self.kinds[AnnouncementKind.LOST],
            epochs=len(self.last_seq),
            ended=self.kinds[AnnouncementKind.END] > 0,
            first_capture_ns=first_ns,
            last_capture_ns=self.last_ns,
            rate_hz=(samples - 1) * 1e9 / span_ns if span_ns > 0 else 0.0,
            gaps=self.gaps,
            longest_gap_ns=self.longest_gap_ns,
            missing=self.missing,
            delay_p50_ns=nearest_rank(sorted(self.delays), 50),
        )


@dataclass(slots=True)
class _DecisionTally:
    by_status: Counter[str] = field(default_factory=Counter)
    by_action: Counter[str] = field(default_factory=Counter)
    latencies: array[int] = field(default_factory=lambda: array("q"))
    overruns: int = 0
    synthetic: int = 0

    def add(self, decision: Decision) -> None:
        self.by_status[decision.status] += 1
        if decision.status != "skipped":
            self.by_action[decision.action] += 1
            self.latencies.append(decision.latency_ns)
        if decision.receipt is not None:
            self.overruns += decision.receipt.overrun
            self.synthetic += decision.receipt.synthetic

    def summary(self) -> DecisionsSummary:
        ordered = sorted(self.latencies)
        return DecisionsSummary(
            count=sum(self.by_status.values()),
            by_status=dict(self.by_status),
            by_action=dict(self.by_action),
            overruns=self.overruns,
            synthetic=self.synthetic,
            latency_p50_ns=nearest_rank(ordered, 50),
            latency_p99_ns=nearest_rank(ordered, 99),
            latency_max_ns=ordered[-1] if ordered else 0,
        )
