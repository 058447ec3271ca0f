"""Logs that measurements need and the repository does not ship: a GoPro recording as a log, and a simulated hour."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import replace

from pipeline.cli.planning import plan_live
from pipeline.config import SCENARIOS
from pipeline.logs.reader import LogReader
from pipeline.logs.writer import LogWriter
from pipeline.messages import FOREVER_NS, Announcement, AnnouncementKind, Header, Recording
from pipeline.sources.assign import open_source
from pipeline.sources.base import Source

ORIGIN_NS = 1_000_000_000
DEMO_LOG = SCENARIOS / "driving" / "demo.mcap"


def _received_ns(recording: Recording) -> int:
    return recording.announcement.header.receive_ns


# A recording at full speed ---------------------------------------------------------------------------------------------


def write_gopro_log(path: Path, gopro: Path, seconds: int) -> None:
    """The looped GoPro recording's packets as a log: what `chiasm record` writes, without waiting for real time to pass.

    (`pipeline.logs.importing` reads a recording once, and this one is too short to measure on; a loop has no end.)
    """
    specs = plan_live("driving", [f"gopro={gopro}?loop=true"], []).plan.sources
    with ExitStack() as stack:
        sources = [stack.enter_context(open_source(spec)) for spec in specs.values()]
        infos = [source.info for source in sources]
        log = stack.enter_context(
            LogWriter(
                path, scenario="driving", origin_ns=ORIGIN_NS, streams=infos, metadata={"creator": "benchmarks"}, atomic=True
            )
        )
        for recording in heapq.merge(*(_recorded(source, seconds) for source in sources), key=_received_ns):
            log.announcement(recording)
        log.finish({"clean": "true", "last_reference_ns": str(FOREVER_NS)})


def _recorded(source: Source, seconds: int) -> Iterator[Recording]:
    stream, seq, last_ns, received_ns = source.info.stream, 0, 0, 0
    packets = (packet for packet in source.packets() if packet is not None)
    for packet in itertools.takewhile(lambda p: p.capture_ns < seconds * 10**9, packets):
        last_ns, received_ns = packet.capture_ns, max(received_ns + 1, packet.arrival_ns)
        header = Header(
            stream=stream, seq=seq, capture_ns=ORIGIN_NS + last_ns, receive_ns=ORIGIN_NS + received_ns, span_ns=packet.span_ns
        )
        yield Recording(announcement=Announcement(header=header), chunks=packet.chunks)
        seq += 1
    end = Header(stream=stream, seq=seq, capture_ns=ORIGIN_NS + last_ns, receive_ns=ORIGIN_NS + max(received_ns, last_ns) + 1)
    yield Recording(announcement=Announcement(header=end, kind=AnnouncementKind.END))


# The shipped drive, again and again ------------------------------------------------------------------------------------


def write_repeated_log(path: Path, log_path: Path, passes: int, on_progress: Callable[[int], None]) -> float:
    """One log that holds ``log_path`` so many times, each pass later by its length; the seconds of one pass.

    Stamps are shifted (capture, receive, truth), ``seq`` goes on, only the last pass ends its streams. A pass begins with a
    keyframe, so the decoder goes on. ``on_progress`` gets the pass that is being written.
    """
    log = LogReader(log_path)
    period_ns = _period_ns(log)
    metadata = {"creator": "benchmarks", "simulated": log.metadata.get("simulated", "false")}
    with LogWriter(
        path, scenario=log.scenario, origin_ns=log.origin_ns, streams=list(log.streams.values()), metadata=metadata, atomic=True
    ) as writer:
        truth = ({**t, "time_ns": t["time_ns"] + k * period_ns} for k in range(passes) for t in LogReader(log_path).truth())
        waiting = next(truth, None)
        lanes = (_repeated(log_path, stream, passes, period_ns) for stream in log.streams)
        for recording in heapq.merge(*lanes, key=_received_ns):
            now_ns = _received_ns(recording)
            while waiting is not None and waiting["time_ns"] <= now_ns:
                writer.truth(waiting.pop("time_ns"), waiting)
                waiting = next(truth, None)
            writer.announcement(recording)
            on_progress((now_ns - log.origin_ns) // period_ns)
        writer.finish({"clean": "true", "last_reference_ns": str(FOREVER_NS)})
    return period_ns / 1e9


def _period_ns(log: LogReader) -> int:
    """How long one pass is: a whole number of the camera's periods that no sample lies beyond."""
    camera_ns = log.streams["camera"].period_ns
    kinds = (AnnouncementKind.SAMPLE,)
    last_ns = max(r.announcement.header.capture_ns for r in log.recordings() if r.announcement.kind in kinds)
    return ((last_ns - log.origin_ns) // camera_ns + 1) * camera_ns


def _repeated(log_path: Path, stream: str, passes: int, period_ns: int) -> Iterator[Recording]:
    seq = received_ns = captured_ns = 0
    for turn in range(passes):
        for recording in LogReader(log_path).recordings(stream):
            announcement = recording.announcement
            header, shift_ns = announcement.header, turn * period_ns
            is_over = announcement.kind in (AnnouncementKind.END, AnnouncementKind.LOST)
            if is_over and turn < passes - 1:
                continue
            capture_ns = header.capture_ns + shift_ns
            if capture_ns <= captured_ns and not is_over:
                continue  # a sensor that was late at the end of a pass: what it said then is newer
            captured_ns, received_ns = max(capture_ns, captured_ns), max(received_ns + 1, header.receive_ns + shift_ns)
            moved = replace(header, seq=seq, capture_ns=capture_ns, receive_ns=received_ns)
            seq += announcement.kind is AnnouncementKind.SAMPLE
            yield Recording(announcement=replace(announcement, header=moved, watermark_ns=0), chunks=recording.chunks)
