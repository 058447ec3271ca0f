"""From a recording to a log, as fast as it can be read: the log that a run would have recorded, had nothing been late.

What a live run stamps when a sample arrives is stamped here from the recording: received when captured (or when the
recording says that it arrived). The same recording gives the same log, byte for byte.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import Scenario
from pipeline.logs.writer import LogWriter
from pipeline.messages import Announcement, AnnouncementKind, Header, Recording
from pipeline.sources.base import Source, SourceError, SourceSpec, StreamInfo
from pipeline.sources.opening import open_source

ORIGIN_NS = 1_000_000_000
"""Where every imported log begins on its own clock."""
PROGRESS_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What went into the log: samples by stream, and what was left out, by (stream, reason)."""

    streams: tuple[StreamInfo, ...]
    samples: dict[str, int]
    dropped: dict[tuple[str, str], int]
    duration_ns: int


def import_specs(
    path: Path,
    scenario: Scenario,
    specs: Mapping[str, SourceSpec],
    *,
    notices: tuple[str, ...] = (),
    metadata: Mapping[str, str] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Imported:
    """Write the recordings of ``specs`` to ``path``, whole or not at all.

    ``notices`` are kept in the log and said whenever it is replayed; ``metadata`` goes into its start record;
    ``on_progress`` gets the seconds of recording done. Raises SourceError for a broken recording or a source without an
    end, LogError when the log cannot be written.
    """
    for stream, spec in specs.items():
        if spec.loop_period_ns:
            raise SourceError(f"--source {stream}: a loop has no end; import it without loop=true")
    with ExitStack() as stack:
        sources = {stream: stack.enter_context(open_source(spec)) for stream, spec in specs.items()}
        for stream, source in sources.items():
            if source.timing == "live":
                raise SourceError(f"--source {stream}: {specs[stream].target} is live; use chiasm record")
        infos = tuple(source.info for source in sources.values())
        about = {
            "simulated": "true" if all(info.simulated for info in infos) else "false",
            "notices": "\n".join(notices),
            "config_sha256": scenario.sha256,
            "scenario_config": scenario.model_dump_json(),
            "creator": "chiasm import",
            **(metadata or {}),
        }
        log = stack.enter_context(
            LogWriter(path, scenario=scenario.name, origin_ns=ORIGIN_NS, streams=list(infos), metadata=about, atomic=True)
        )
        lanes = [_Lane(source=source, heartbeat_ns=_heartbeat_ns(scenario, s)) for s, source in sources.items()]
        last_ns = _write(log, lanes, on_progress)
        dropped = {(lane.source.info.stream, reason): n for lane in lanes for reason, n in lane.dropped.items()}
        drops = "; ".join(f"{stream}: {reason} {n}" for (stream, reason), n in sorted(dropped.items()))
        # Everything in the log is to be decided about, so its replay ends where the last stream does.
        log.finish({"clean": "true", "drops": drops})
    samples = {lane.source.info.stream: lane.seq for lane in lanes}
    return Imported(streams=infos, samples=samples, dropped=dropped, duration_ns=last_ns - ORIGIN_NS)


def _heartbeat_ns(scenario: Scenario, stream: str) -> int:
    config = scenario.streams[stream]
    return config.heartbeat_ms * 1_000_000 if config.sparse else 0


def _write(log: LogWriter, lanes: list[_Lane], on_progress: Callable[[float], None] | None) -> int:
    """Write all lanes by the time at which they were received; when the last was."""
    said_ns = last_ns = ORIGIN_NS
    for recording in heapq.merge(*(lane.recordings() for lane in lanes), key=lambda r: r.announcement.header.receive_ns):
        log.announcement(recording)
        last_ns = max(last_ns, recording.announcement.header.receive_ns)
        if on_progress is not None and last_ns - said_ns >= PROGRESS_NS:
            said_ns = last_ns
            on_progress((last_ns - ORIGIN_NS) / 1e9)
    return last_ns


@dataclass(slots=True, kw_only=True)
class _Lane:
    """One stream's announcements: rising capture times, rising times of receipt, heartbeats of a sparse stream, an end."""

    source: Source
    heartbeat_ns: int
    seq: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    _last_capture_ns: int = -(2**62)
    _last_receive_ns: int = -(2**62)
    _next_beat_ns: int = 0

    def recordings(self) -> Iterator[Recording]:
        self._next_beat_ns = ORIGIN_NS + self.heartbeat_ns
        for packet in self.source.packets():
            if packet is None:
                continue
            capture_ns = ORIGIN_NS + packet.capture_ns
            if capture_ns <= self._last_capture_ns:
                self.dropped["out_of_order"] += 1
                continue
            receive_ns = max(ORIGIN_NS + packet.arrival_ns, self._last_receive_ns + 1)
            yield from self._beats(min(capture_ns, receive_ns))
            yield self._recording(capture_ns, receive_ns, AnnouncementKind.SAMPLE, packet.span_ns, packet.chunks)
            self.seq += 1
        end_ns = max(self._last_capture_ns, self._last_receive_ns, ORIGIN_NS)
        yield self._recording(end_ns, end_ns + 1, AnnouncementKind.END)

    def _beats(self, until_ns: int) -> Iterator[Recording]:
        while self.heartbeat_ns and self._next_beat_ns < until_ns:
            beat_ns = self._next_beat_ns
            self._next_beat_ns += self.heartbeat_ns
            if beat_ns > max(self._last_capture_ns, self._last_receive_ns):
                yield self._recording(beat_ns, beat_ns, AnnouncementKind.HEARTBEAT)

    def _recording(
        self, capture_ns: int, receive_ns: int, kind: AnnouncementKind, span_ns: int = 0, chunks: tuple[bytes, ...] = ()
    ) -> Recording:
        self._last_capture_ns, self._last_receive_ns = capture_ns, receive_ns
        stream = self.source.info.stream
        header = Header(stream=stream, seq=self.seq, capture_ns=capture_ns, receive_ns=receive_ns, span_ns=span_ns)
        return Recording(announcement=Announcement(header=header, kind=kind), chunks=chunks)
