"""The ingest stage: from a source's packets to announced, recorded, decoded samples.

The order is the contract's: stamp, announce to fusion, hand the bytes to the recorder, and only then decode. `LiveIngest` plays
a source in real time; `ReplayIngest` plays a log's recordings with the stamps they had.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from pipeline.clock import Clock
from pipeline.credit import CreditGate
from pipeline.formats.decode import Decoder
from pipeline.messages import (
    FOREVER_NS,
    Announcement,
    AnnouncementKind,
    AudioBlock,
    Frame,
    Header,
    Recording,
    Sample,
    TelemetryBlock,
    TextLine,
)
from pipeline.sources.base import Packet, Source, SourceError, SourceLost, StreamInfo
from pipeline.stages.read_ahead import READ_AHEAD_NS, ReadAhead


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestPorts:
    """Where one stream's messages go."""

    announce: Callable[[Announcement], None]
    sample: Callable[[Sample], None]
    record: Callable[[Recording], None] | None = None


class SampleReader:
    """Decodes a recording's chunks into the sample of its stream's kind."""

    def __init__(self, info: StreamInfo, decoder: Decoder, clock: Clock) -> None:
        self._info, self._decoder, self._clock = info, decoder, clock

    def read(self, header: Header, chunks: tuple[bytes, ...]) -> Sample:
        """Decode one sample. Raises SourceError when the bytes are broken."""
        start_ns = self._clock.now_ns()
        decoded = self._decoder.decode(chunks)
        now_ns = self._clock.now_ns()
        stamped = header.published(now_ns)
        took_ns = now_ns - start_ns
        if self._info.kind == "camera":
            return Frame(header=stamped, image_hwc=decoded, decode_ns=took_ns)
        if self._info.kind == "microphone":
            return AudioBlock(header=stamped, pcm=decoded, decode_ns=took_ns)
        if self._info.kind == "text":
            return TextLine(header=stamped, text=decoded, decode_ns=took_ns)
        offsets_ns, values, valid = decoded
        return TelemetryBlock(
            header=stamped, times_ns=header.capture_ns - offsets_ns, values=values, valid=valid, decode_ns=took_ns
        )


class LiveIngest:
    """Plays a source in real time.

    A recording (``timing == "media"``) is paced: its media time 0 is the run's origin. A device stamps itself; what it took
    before the origin is discarded. Ends with END, or with LOST when the source failed: that costs this stream only.
    """

    def __init__(
        self,
        *,
        source: Source,
        reader: SampleReader,
        ports: IngestPorts,
        clock: Clock,
        origin_ns: int,
        heartbeat_ns: int = 0,
        epoch: int = 0,
        first_seq: int = 0,
    ) -> None:
        self._source, self._reader, self._ports, self._clock = source, reader, ports, clock
        self._origin_ns, self._heartbeat_ns, self._epoch = origin_ns, heartbeat_ns, epoch
        self._stream = source.info.stream
        self._seq = first_seq
        self._last_capture_ns = origin_ns - 1
        self._next_heartbeat_ns = origin_ns + heartbeat_ns
        self.recorded = 0
        self.counts: Counter[str] = Counter()
        """What was dropped here, by reason: ``out_of_order``, ``undecodable``."""
        self.failure: str | None = None

    def run(self, stop: threading.Event) -> None:
        """Until the source's end, its loss, or ``stop``."""
        kind = AnnouncementKind.END
        try:
            for packet in self._packets(stop):
                if stop.is_set():
                    break
                if packet is None:
                    self._heartbeats_until(self._clock.now_ns())
                elif not self._take(packet, stop):
                    break
        except SourceLost as lost:
            kind, self.failure = AnnouncementKind.LOST, str(lost)
        except SourceError as broken:
            kind, self.failure = AnnouncementKind.LOST, str(broken)
        now_ns = self._clock.now_ns()
        over = self._header(max(now_ns, self._last_capture_ns), now_ns, self._seq)
        watermark_ns = FOREVER_NS if kind is AnnouncementKind.END else now_ns
        self._say(Announcement(header=over, kind=kind, watermark_ns=watermark_ns))

    def _packets(self, stop: threading.Event) -> Iterator[Packet | None]:
        """The source's packets, those of a recording read ahead of time."""
        packets = iter(self._source.packets())
        if self._source.timing != "media":
            yield from packets
            return
        ahead = ReadAhead(packets)
        while (waiting := ahead.first()) is not None:
            if ahead.runs_low:
                due_ns = self._origin_ns + waiting.arrival_ns
                if not self._heartbeat_ns:  # a sparse stream has beats to give meanwhile, and little to read
                    self._clock.sleep_until_ns(due_ns - READ_AHEAD_NS, stop)
                ahead.fill(self._clock, until_ns=due_ns - READ_AHEAD_NS // 2)
            yield ahead.take()

    def _take(self, packet: Packet, stop: threading.Event) -> bool:
        if self._source.timing == "media":
            arrival_ns = self._origin_ns + packet.arrival_ns
            while self._heartbeat_ns and self._next_heartbeat_ns < arrival_ns:
                if not self._clock.sleep_until_ns(self._next_heartbeat_ns, stop):
                    return False
                self._heartbeats_until(self._next_heartbeat_ns)
            if not self._clock.sleep_until_ns(arrival_ns, stop):
                return False
            capture_ns, receive_ns = self._origin_ns + packet.capture_ns, self._clock.now_ns()
        else:
            to_run = self._clock.from_host_ns
            capture_ns, receive_ns = to_run(packet.capture_ns), to_run(packet.arrival_ns)
        if capture_ns < self._origin_ns and self._source.timing == "live":
            return True  # taken before the run began
        if capture_ns <= self._last_capture_ns:
            self.counts["out_of_order"] += 1
            return True
        delay_ns = packet.arrival_ns - packet.capture_ns if self._source.timing == "media" else 0
        header = self._header(capture_ns, receive_ns, self._seq, packet.span_ns, max(0, delay_ns))
        self._seq += 1
        self._last_capture_ns = capture_ns
        self._say(Announcement(header=header), packet.chunks)
        try:
            sample = self._reader.read(header, packet.chunks)
        except SourceError:
            self.counts["undecodable"] += 1
            self._ports.announce(Announcement(header=header, kind=AnnouncementKind.VOID))
        else:
            self._ports.sample(sample)
        return True

    def _heartbeats_until(self, now_ns: int) -> None:
        while self._heartbeat_ns and self._next_heartbeat_ns <= now_ns:
            beat_ns = self._next_heartbeat_ns
            self._next_heartbeat_ns += self._heartbeat_ns
            if beat_ns > self._last_capture_ns:
                header = self._header(beat_ns, self._clock.now_ns(), self._seq)
                self._say(Announcement(header=header, kind=AnnouncementKind.HEARTBEAT))

    def _header(self, capture_ns: int, receive_ns: int, seq: int, span_ns: int = 0, delay_ns: int = 0) -> Header:
        return Header(
            stream=self._stream,
            epoch=self._epoch,
            seq=seq,
            capture_ns=capture_ns,
            receive_ns=receive_ns,
            publish_ns=self._clock.now_ns(),
            span_ns=span_ns,
            delay_ns=delay_ns,
        )

    def _say(self, announcement: Announcement, chunks: tuple[bytes, ...] = ()) -> None:
        self._ports.announce(announcement)
        if self._ports.record is not None:
            self.recorded += 1
            self._ports.record(Recording(announcement=announcement, chunks=chunks))


class ReplayIngest:
    """Plays one stream of a log with the stamps it had, as fast as credit and ``speed`` allow. Loses nothing.

    ``speed`` None is as fast as can be; 1.0 is real time by ``receive_ns``.
    """

    def __init__(
        self,
        *,
        stream: str,
        recordings: Iterable[Recording],
        reader: SampleReader,
        ports: IngestPorts,
        gate: CreditGate,
        clock: Clock,
        origin_ns: int,
        start_ns: int,
        speed: float | None,
    ) -> None:
        self._stream, self._recordings, self._reader, self._ports = stream, recordings, reader, ports
        self._gate, self._clock, self._origin_ns = gate, clock, origin_ns
        self._start_ns, self._speed = start_ns, speed
        self._sent = 0
        self._ended = False
        self.recorded = 0
        self.counts: Counter[str] = Counter()
        self.failure: str | None = None

    def run(self, stop: threading.Event) -> None:
        """Until the log's end or ``stop``. Each announcement carries when the next one will come: the watermark."""
        current: Recording | None = None
        last: Announcement | None = None
        for following in self._recordings:
            next_ns = following.announcement.header.receive_ns - 1
            if current is None:
                self._watermark(following.announcement, next_ns)
            elif not self._play(current, next_ns, stop):
                return
            current, last = following, following.announcement
        if current is not None and not self._play(current, FOREVER_NS, stop):
            return
        if not self._ended:  # the log was cut, or holds nothing of this stream
            header = (
                last.header
                if last is not None
                else Header(stream=self._stream, seq=-1, capture_ns=self._origin_ns, receive_ns=self._origin_ns)
            )
            lost = last is not None and last.kind is AnnouncementKind.LOST
            kind = AnnouncementKind.LOST if lost else AnnouncementKind.END
            self._ports.announce(Announcement(header=header, kind=kind, watermark_ns=FOREVER_NS))

    def _watermark(self, announcement: Announcement, next_ns: int) -> None:
        self._ports.announce(replace(announcement, kind=AnnouncementKind.WATERMARK, watermark_ns=next_ns))

    def _play(self, recording: Recording, watermark_ns: int, stop: threading.Event) -> bool:
        announcement = recording.announcement
        header = announcement.header
        if self._speed is not None:
            due_ns = self._start_ns + int((header.receive_ns - self._origin_ns) / self._speed)
            if not self._clock.sleep_until_ns(due_ns, stop):
                return False
        is_sample = announcement.kind is AnnouncementKind.SAMPLE
        # Only samples take the encoder's credit; an end may lie past anything fusion can reach, and nothing waits behind it.
        is_over = announcement.kind in (AnnouncementKind.END, AnnouncementKind.LOST)
        if not is_over and not self._gate.wait(header.capture_ns, self._sent if is_sample else -1, stop):
            return False
        self._ended = announcement.kind is AnnouncementKind.END
        self._ports.announce(replace(announcement, watermark_ns=watermark_ns))
        if self._ports.record is not None:
            self.recorded += 1
            self._ports.record(recording)
        if is_sample:
            try:
                sample = self._reader.read(header, recording.chunks)
            except SourceError:
                self.counts["undecodable"] += 1
                self._ports.announce(Announcement(header=header, kind=AnnouncementKind.VOID))
            else:
                self._ports.sample(sample)
                self._sent += 1
        return True
