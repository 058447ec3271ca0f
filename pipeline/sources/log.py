"""A recorded log's stream as a source: played as if it were live, with the sensor delays that it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

from pipeline.logs.reader import LogReader
from pipeline.logs.records import LogError
from pipeline.messages import AnnouncementKind
from pipeline.sources.base import Packet, SourceError, SourceSpec


class LogSource:
    """One stream of an MCAP log (scheme ``log``). Media time 0 is the log's origin."""

    timing: Literal["media", "live"] = "media"

    def __init__(self, spec: SourceSpec) -> None:
        self._stream = spec.needs.stream
        try:
            self._reader = LogReader(spec.target)
        except LogError as error:
            raise SourceError(str(error)) from error
        if self._stream not in self._reader.streams:
            held = ", ".join(sorted(self._reader.streams)) or "none"
            raise SourceError(
                f"{spec.target}: no stream {self._stream!r} in this log (it holds {held}); leave it out: {self._stream}=none"
            )
        self.info = self._reader.streams[self._stream]
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped = True

    def packets(self) -> Iterator[Packet | None]:
        """The log's samples, in order; a log that was cut ends where it was cut."""
        origin_ns = self._reader.origin_ns
        try:
            for recording in self._reader.recordings(self._stream):
                if self._stopped:
                    return
                if recording.announcement.kind is AnnouncementKind.SAMPLE:
                    header = recording.announcement.header
                    yield Packet(
                        capture_ns=header.capture_ns - origin_ns,
                        arrival_ns=header.receive_ns - origin_ns,
                        span_ns=header.span_ns,
                        chunks=recording.chunks,
                    )
        except LogError as error:
            raise SourceError(str(error)) from error

    def stop(self) -> None:
        """End after the packet in hand."""
        self._stopped = True
