"""Reads a log back, also one cut by a crash: the samples as the live run's decoder got them, and its decisions.

Reading streams through the file: memory is that of one chunk and the samples not yet announced, however long the log.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.decision_json import decision_from_json
from pipeline.logs.payloads import Payload, payload_for
from pipeline.logs.records import (
    MAGIC,
    OP_CHANNEL,
    OP_CHUNK,
    OP_MESSAGE,
    OP_METADATA,
    Bytes,
    ChannelRecord,
    Cut,
    LogError,
    MessageRecord,
    Record,
    find_metadata,
    message_head,
    parse_channel,
    parse_message,
    parse_metadata,
    read_chunk_records,
    read_records,
    unpack_chunk,
)
from pipeline.logs.schemas import (
    ANNOUNCEMENTS_TOPIC,
    DECISIONS_TOPIC,
    END_RECORD,
    FORMAT_VERSION,
    SNAPSHOTS_TOPIC,
    START_RECORD,
    STREAMS_TOPIC,
    TRUTH_TOPIC,
    announcement_from_json,
    stream_info_from_json,
)
from pipeline.messages import Decision, Receipt, Recording
from pipeline.sources.base import StreamInfo

MAX_STREAMS = 64
MAX_PENDING_CHUNKS = 4096
"""Most chunks before the announcement they belong to: a reordering video codec needs some tens."""

__all__ = ["LogError", "LogMessage", "LogReader", "parse_decision"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMessage:
    """One message of any channel, its data as it lies in the log. ``stream`` is "" but for a stream's data."""

    topic: str
    stream: str
    log_time_ns: int
    publish_time_ns: int
    data: memoryview


def parse_decision(data: memoryview) -> Decision:
    """A decision as it lies in a log, its types checked. Raises ValueError."""
    try:
        decision = decision_from_json(bytes(data))
    except OverflowError as error:
        raise ValueError(f"a number is out of range: {error}") from error
    times = (decision.seq, decision.reference_ns, decision.publish_ns, decision.deadline_ns)
    if not all(type(n) is int and abs(n) < 2**62 for n in times):
        raise ValueError("its times must be 62-bit integers")
    if not all(isinstance(text, str) for text in (decision.status, decision.action, decision.state)):
        raise ValueError("status, action and state must be texts")
    if any(values.ndim != 1 for values in decision.outputs.values()):
        raise ValueError("an output is not a row of numbers")
    if decision.receipt is not None:
        _check_receipt(decision.receipt)
    return decision


def _check_receipt(receipt: Receipt) -> None:
    for admitted in receipt.admitted:
        numbers = (admitted.seq, admitted.epoch, admitted.window_end_ns, admitted.age_ns)
        if not isinstance(admitted.stream, str) or not all(type(n) is int and abs(n) < 2**62 for n in numbers):
            raise ValueError("what it rests on must be streams, with 62-bit integers")
    if not isinstance(receipt.engines, dict) or not all(isinstance(engine, str) for engine in receipt.engines.values()):
        raise ValueError("its engines must be texts by role")


class LogReader:
    """One log. Opening checks it and reads how it starts; raises `LogError` when it is no log of ours.

    ``scenario``, ``origin_ns``, ``clock_offset_ns``, ``streams`` and ``metadata`` (all entries of the start record) are
    there at once. ``end`` is the end record, None for a log that was cut or never finished. ``truncated_at`` is None
    until an iterator came to a cut, then says at which byte and time. Each iterator opens the file for itself, so
    several may be in use.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.truncated_at: str | None = None
        self.streams: dict[str, StreamInfo] = {}
        with self._opened() as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise LogError(f"{self.path}: not an MCAP file; give a log that chiasm recorded or imported")
            self.closed, self.end = find_metadata(file, self.path, END_RECORD)
            self.metadata = self._read_start(file)
        if self.metadata.get("format") != FORMAT_VERSION:
            raise LogError(
                f"{self.path}: log format {self.metadata.get('format')!r:.20} is unknown, this chiasm reads format "
                f"{FORMAT_VERSION}; update chiasm"
            )
        self.scenario = self.metadata.get("scenario", "")
        self.origin_ns = self._integer("origin_ns")
        self.clock_offset_ns = self._integer("clock_offset_ns")
        self._read_streams(self._integer("stream_count"))

    def recordings(self, stream: str | None = None) -> Iterator[Recording]:
        """The announcements with their chunks, in log order; of one stream or of all.

        Stops at the last whole one of a cut log and sets ``truncated_at``. Raises `LogError` for a broken one.
        """
        if stream is not None and stream not in self.streams:
            known = ", ".join(self.streams) or "none"
            raise LogError(f"{self.path}: no stream {stream!r} in the log; it has {known}")
        infos = self.streams.values() if stream is None else (self.streams[stream],)
        payloads = {info.stream: payload_for(info) for info in infos}
        pending: dict[str, list[memoryview]] = {name: [] for name in payloads}
        mark = None if stream is None else f'"stream":{json.dumps(stream)}'.encode()
        for channel, message in self._messages({ANNOUNCEMENTS_TOPIC}, set(payloads)):
            if channel.topic != ANNOUNCEMENTS_TOPIC:
                chunks = pending[channel.metadata["stream"]]
                chunks.append(message.data)
                if len(chunks) > MAX_PENDING_CHUNKS:
                    raise self._broken("announcements", f"{len(chunks)} chunks of {channel.topic} unannounced")
                continue
            data = bytes(message.data)
            # Most announcements are other streams': finding the name costs less than parsing the JSON.
            if mark is None or mark in data:
                recording = self._recording(data, payloads, pending)
                if recording is not None:
                    yield recording

    def decisions(self) -> Iterator[Decision]:
        """The decisions in log order, with their receipts."""
        for _channel, message in self._messages({DECISIONS_TOPIC}, set()):
            try:
                decision = parse_decision(message.data)
            except (ValueError, RecursionError) as error:
                raise self._broken(DECISIONS_TOPIC, error) from error
            yield decision

    def truth(self) -> Iterator[dict[str, Any]]:
        """What was true in the simulated world: ``{"time_ns": …, name: value …}`` in log order."""
        return self._objects(TRUTH_TOPIC)

    def snapshots(self) -> Iterator[dict[str, Any]]:
        """The state snapshots: ``{"time_ns": …, "state": text}`` in log order."""
        return self._objects(SNAPSHOTS_TOPIC)

    def messages(self) -> Iterator[LogMessage]:
        """Every message of every channel, undecoded, in log order."""
        for channel, message in self._messages(None, None):
            yield LogMessage(
                topic=channel.topic,
                stream=channel.metadata.get("stream", ""),
                log_time_ns=message.log_time,
                publish_time_ns=message.publish_time,
                data=message.data,
            )

    def _recording(self, data: bytes, payloads: dict[str, Payload], pending: dict[str, list[memoryview]]) -> Recording | None:
        try:
            announcement, count = announcement_from_json(data)
        except (ValueError, RecursionError) as error:
            raise self._broken(ANNOUNCEMENTS_TOPIC, error) from error
        name, seq = announcement.header.stream, announcement.header.seq
        if name not in pending:
            if name in self.streams:
                return None
            raise self._broken(ANNOUNCEMENTS_TOPIC, f"stream {name[:40]!r} is not declared")
        chunks = pending[name]
        if len(chunks) != count:
            raise self._broken(name, f"sample {seq} announces {count} chunks and the log holds {len(chunks)}")
        unpack = payloads[name].unpack
        try:
            recording = Recording(announcement=announcement, chunks=tuple(unpack(chunk) for chunk in chunks))
        except Exception as error:  # protobuf's DecodeError is not a ValueError, and importing it here would cost its users
            raise self._broken(name, f"sample {seq}: {error}") from error
        chunks.clear()
        return recording

    def _objects(self, topic: str) -> Iterator[dict[str, Any]]:
        for _channel, message in self._messages({topic}, set()):
            try:
                value = json.loads(bytes(message.data))
                if not isinstance(value, dict) or type(value.get("time_ns")) is not int:
                    raise ValueError("not an object with time_ns")
            except (ValueError, RecursionError) as error:
                raise self._broken(topic, error) from error
            yield value

    def _messages(
        self, topics: set[str] | None, streams: set[str] | None
    ) -> Generator[tuple[ChannelRecord, MessageRecord], None, None]:
        """Messages on one of `topics` or with the data of one of `streams`; None is all."""
        wanted: dict[int, ChannelRecord] = {}
        last_ns = self.origin_ns
        with self._opened() as file:
            try:
                for record in read_records(file, self.path):
                    if record.opcode == OP_METADATA:
                        self._note_end(record)
                        continue
                    where = f"{self.path}: the chunk at byte {record.offset}"
                    for opcode, data, start, end in self._contents(record, where):
                        if opcode == OP_CHANNEL:
                            channel = parse_channel(bytes(data[start:end]), where)
                            stream = channel.metadata.get("stream")
                            if (
                                topics is None
                                or (stream is None and channel.topic in topics)
                                or (stream is not None and streams is not None and stream in streams)
                            ):
                                wanted[channel.id] = channel
                        elif opcode == OP_MESSAGE:
                            channel_id, time_ns = message_head(data, start, end, where)
                            last_ns = max(last_ns, time_ns)
                            found = wanted.get(channel_id)
                            if found is not None:
                                yield found, parse_message(data, start, end)
                if not self.closed:
                    self.truncated_at = f"after the data, {self._since_origin(last_ns)}; only the index is missing"
            except Cut as cut:
                self.truncated_at = f"byte {cut.offset}, {self._since_origin(last_ns)}"

    def _contents(self, record: Record, where: str) -> Iterator[tuple[int, Bytes, int, int]]:
        """The channel and message records of a chunk, or the one that stands in the file without a chunk."""
        if record.opcode == OP_CHUNK:
            data = unpack_chunk(record, self.path)
            for opcode, start, end in read_chunk_records(data, where):
                yield opcode, data, start, end
        else:
            yield record.opcode, record.body, 0, len(record.body)

    def _since_origin(self, time_ns: int) -> str:
        return f"{(time_ns - self.origin_ns) / 1e9:.3f} s after the start"

    def _note_end(self, record: Record) -> None:
        # A log cut after its end record has no summary to find it by.
        if self.end is None:
            name, entries = parse_metadata(record, self.path)
            if name == END_RECORD:
                self.end = entries

    def _read_start(self, file: BinaryIO) -> dict[str, str]:
        try:
            for record in read_records(file, self.path):
                if record.opcode != OP_METADATA:
                    break
                name, entries = parse_metadata(record, self.path)
                if name == START_RECORD:
                    return entries
        except Cut as cut:
            raise LogError(f"{self.path}: cut at {cut}, before the log says what it is; record it again") from cut
        raise LogError(f"{self.path}: an MCAP file, but not a chiasm log; use `chiasm import` for other recordings")

    def _read_streams(self, count: int) -> None:
        if not 0 <= count <= MAX_STREAMS:
            raise LogError(f"{self.path}: stream_count {count} is not within 0..{MAX_STREAMS}; the log is broken")
        found_streams = self._messages({STREAMS_TOPIC}, set())
        while len(self.streams) < count:
            found = next(found_streams, None)
            if found is None:
                raise LogError(
                    f"{self.path}: ends before its streams are described ({len(self.streams)} of {count}); record it again"
                )
            try:
                info = stream_info_from_json(bytes(found[1].data))
            except (ValueError, RecursionError) as error:
                raise self._broken(STREAMS_TOPIC, error) from error
            self.streams[info.stream] = info
        found_streams.close()

    def _integer(self, key: str) -> int:
        text = self.metadata.get(key, "")
        try:
            value = int(text) if len(text) <= 20 else None
        except ValueError:
            value = None
        if value is None or abs(value) >= 2**63:
            raise LogError(f"{self.path}: {key} of the log is {text[:30]!r}, not an integer; the log is broken")
        return value

    def _broken(self, what: str, why: object) -> LogError:
        return LogError(f"{self.path}: {what}: {why}; the log is broken, replay another copy")

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            if not self.path.is_file():
                raise LogError(f"{self.path}: no such log file; check the path")
            file = open(self.path, "rb")  # noqa: SIM115 - what is raised while it is in use must pass as it is
        except OSError as error:
            raise LogError(f"{self.path}: cannot read the log: {error.strerror or error}; check the path") from error
        with file:
            yield file
