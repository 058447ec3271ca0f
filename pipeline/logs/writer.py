"""Writes a log: an MCAP file that holds a run's samples as they came, its decisions and what is needed to replay them.

A log that is being recorded lies under its own name from the first byte and is flushed every two seconds of event time,
so a crash costs at most the chunk in progress. A log that is made from something else (`atomic=True`) appears whole or
not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

from pipeline.decision_json import decision_to_json
from pipeline.logs.payloads import Payload, has_location, location_fix, payload_for
from pipeline.logs.records import MAX_RECORD_BYTES, LogError
from pipeline.logs.schemas import (
    ANNOUNCEMENTS_TOPIC,
    DECISIONS_TOPIC,
    END_RECORD,
    FORMAT_VERSION,
    JSON_SCHEMAS,
    SNAPSHOTS_TOPIC,
    START_RECORD,
    STREAMS_TOPIC,
    TRUTH_TOPIC,
    announcement_to_json,
    log_time,
    stream_info_to_json,
    topic_of,
)
from pipeline.messages import Decision, Recording
from pipeline.sources.base import StreamInfo

CHUNK_BYTES = 2**20
FLUSH_NS = 2_000_000_000


class RunLog(Protocol):
    """What a run writes to its log."""

    def announcement(self, recording: Recording) -> None:
        """Append a sample's chunks and then its announcement."""

    def decision(self, decision: Decision) -> None:
        """Append a decision with its receipt."""

    def snapshot(self, time_ns: int, state: str, memory: str = "") -> None:
        """Append the state of fusion and policy."""

    def finish(self, end: dict[str, str]) -> None:
        """Append the end record and close the log."""


class LogWriter:
    """Writes one log. A context manager, used from one thread.

    `metadata` are further entries for the start of the log (``config_sha256``, ``creator``, ``simulated``, notices …).
    ``compressed``: with zstd, which also a reader pays for.
    Leaving without `finish` closes the file without its end record (``atomic``: removes it). Raises `LogError` when the
    file cannot be written, with the path and the system's reason.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        scenario: str,
        origin_ns: int,
        streams: list[StreamInfo],
        metadata: dict[str, str],
        atomic: bool = False,
        clock_offset_ns: int = 0,
        compressed: bool = True,
    ) -> None:
        from mcap.writer import CompressionType, Writer

        self.path = Path(path)
        self._target = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp") if atomic else self.path
        self._atomic = atomic
        self._streams = {info.stream: info for info in streams}
        self._payloads: dict[str, Payload] = {}
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._locations: dict[str, int] = {}
        self._flushed_at_ns = origin_ns
        self._sequence = 0
        self._file: BinaryIO | None = self._open()
        compression = CompressionType.ZSTD if compressed else CompressionType.NONE
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=compression)
        start = {
            **metadata,
            "format": FORMAT_VERSION,
            "scenario": scenario,
            "origin_ns": str(origin_ns),
            "clock_offset_ns": str(clock_offset_ns),
            "stream_count": str(len(self._streams)),
        }
        try:
            self._begin(start, origin_ns)
        except BaseException:
            self._abandon()
            raise

    def announcement(self, recording: Recording) -> None:
        """Append a sample's chunks and then its announcement."""
        announcement, chunks = recording.announcement, recording.chunks
        header = announcement.header
        info = self._streams.get(header.stream)
        if info is None:
            raise LogError(f"{self.path}: stream {header.stream!r} was not declared; pass its StreamInfo to LogWriter")
        payload, topic = self._payloads[header.stream], topic_of(header.stream)
        for chunk in chunks:
            self._add(topic, header.receive_ns, payload.pack(chunk, header), header.capture_ns)
        location = self._locations.get(header.stream)
        if location is not None and len(chunks) == 1:
            fix = location_fix(info, chunks[0], header.capture_ns)
            if fix is not None:
                self._add_to(location, header.receive_ns, fix, header.capture_ns)
        data = announcement_to_json(announcement, len(chunks))
        self._add(ANNOUNCEMENTS_TOPIC, header.receive_ns, data, header.capture_ns)
        self._flush_when_due(header.receive_ns)

    def decision(self, decision: Decision) -> None:
        """Append a decision with its receipt."""
        self._add(DECISIONS_TOPIC, decision.publish_ns, decision_to_json(decision).encode(), decision.reference_ns)
        self._flush_when_due(decision.publish_ns)

    def truth(self, time_ns: int, values: dict[str, Any]) -> None:
        """Append what was true in a simulated world at `time_ns`: JSON values by name."""
        data = json.dumps({"time_ns": time_ns, **values}, separators=(",", ":"), allow_nan=False)
        self._add(TRUTH_TOPIC, time_ns, data.encode(), time_ns)
        self._flush_when_due(time_ns)

    def snapshot(self, time_ns: int, state: str, memory: str = "") -> None:
        """Append the state of fusion and policy at `time_ns`, with the entries of fusion's memory where it has one."""
        whole = {"time_ns": time_ns, "state": state, **({"memory": memory} if memory else {})}
        data = json.dumps(whole, separators=(",", ":"))
        self._add(SNAPSHOTS_TOPIC, time_ns, data.encode(), time_ns)

    def finish(self, end: dict[str, str]) -> None:
        """Append the end record, close the file and (``atomic``) give it its name. Once only."""
        if self._file is None:
            raise LogError(f"{self.path}: the log is already closed")
        try:
            self._writer.flush()
            self._writer.add_metadata(END_RECORD, end)
            self._close_file()
            if self._atomic:
                os.replace(self._target, self.path)
        except OSError as error:
            self._abandon()
            raise self._cannot_write(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is None:
            return
        try:
            if not self._atomic:
                self._close_file()
        except OSError as problem:
            if error is None:
                raise self._cannot_write(problem) from problem
        finally:
            self._abandon()

    def _open(self) -> BinaryIO:
        try:
            return open(self._target, "wb")
        except OSError as error:
            raise self._cannot_write(error) from error

    def _begin(self, start: dict[str, str], origin_ns: int) -> None:
        from mcap_protobuf.schema import register_schema

        self._writer.start(profile="chiasm", library="chiasm")
        self._writer.add_metadata(START_RECORD, start)
        self._register(STREAMS_TOPIC, "chiasm.StreamInfo")
        self._register(ANNOUNCEMENTS_TOPIC, "chiasm.Announcement")
        self._register(DECISIONS_TOPIC, "chiasm.Decision")
        self._register(TRUTH_TOPIC, "chiasm.Truth")
        self._register(SNAPSHOTS_TOPIC, "chiasm.Snapshot")
        for info in self._streams.values():
            payload = self._payloads[info.stream] = payload_for(info)
            metadata = {"stream": info.stream, "codec": info.encoding.codec}
            if payload.schema:
                self._register(topic_of(info.stream), payload.schema, metadata)
                if has_location(info):
                    self._register_location(info)
                continue
            name = payload.protobuf.DESCRIPTOR.full_name if payload.protobuf else "chiasm.Bytes"
            if name not in self._schemas:
                self._schemas[name] = (
                    register_schema(self._writer, payload.protobuf)
                    if payload.protobuf
                    else self._writer.register_schema(name, "", b"")
                )
            self._channels[topic_of(info.stream)] = self._writer.register_channel(
                topic_of(info.stream), payload.message_encoding, self._schemas[name], metadata
            )
        for info in self._streams.values():
            self._add(STREAMS_TOPIC, origin_ns, stream_info_to_json(info), origin_ns)
        self._flush()

    def _register(self, topic: str, schema: str, metadata: dict[str, str] | None = None) -> None:
        if schema not in self._schemas:
            self._schemas[schema] = self._writer.register_schema(schema, "jsonschema", JSON_SCHEMAS[schema])
        self._channels[topic] = self._writer.register_channel(topic, "json", self._schemas[schema], metadata or {})

    def _register_location(self, info: StreamInfo) -> None:
        from foxglove_schemas_protobuf.LocationFix_pb2 import LocationFix
        from mcap_protobuf.schema import register_schema

        name = LocationFix.DESCRIPTOR.full_name
        if name not in self._schemas:
            self._schemas[name] = register_schema(self._writer, LocationFix)
        self._locations[info.stream] = self._writer.register_channel(
            f"{topic_of(info.stream)}/location", "protobuf", self._schemas[name]
        )

    def _add(self, topic: str, time_ns: int, data: bytes, publish_ns: int) -> None:
        self._add_to(self._channels[topic], time_ns, data, publish_ns)

    def _add_to(self, channel: int, time_ns: int, data: bytes, publish_ns: int) -> None:
        if self._file is None:
            raise LogError(f"{self.path}: the log is already closed")
        if len(data) > MAX_RECORD_BYTES - 2 * CHUNK_BYTES:
            raise LogError(f"{self.path}: a message of {len(data)} bytes is too long for a log; compress the stream")
        self._sequence = (self._sequence + 1) % 2**32
        try:
            self._writer.add_message(
                channel,
                log_time(time_ns),
                data=data,
                publish_time=log_time(publish_ns),
                sequence=self._sequence,
            )
        except OSError as error:
            raise self._cannot_write(error) from error

    def _flush_when_due(self, time_ns: int) -> None:
        if time_ns - self._flushed_at_ns >= FLUSH_NS:
            self._flushed_at_ns = time_ns
            self._flush()

    def _flush(self) -> None:
        try:
            self._writer.flush()
        except OSError as error:
            raise self._cannot_write(error) from error

    def _close_file(self) -> None:
        assert self._file is not None
        self._writer.finish()
        self._file.flush()
        if self._atomic:
            os.fsync(self._file.fileno())  # the name must not outlive the content over a power cut
        self._file.close()
        self._file = None

    def _abandon(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # the reason it could not be written was raised already
                self._file.close()
            self._file = None
        if self._atomic:
            self._target.unlink(missing_ok=True)

    def _cannot_write(self, error: OSError) -> LogError:
        return LogError(f"{self.path}: cannot write the log: {error.strerror or error}; choose another place or free space")
