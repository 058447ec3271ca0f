"""A recording played again and again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Literal, Protocol, Self, runtime_checkable

from pipeline.formats.decode import FLUSH
from pipeline.sources.base import Packet, Source, SourceError, StreamInfo

SEAM_SLACK_NS = 1_000
"""Rounding of the period must not cost the last frame."""


@runtime_checkable
class LoopsItself(Protocol):
    """A source whose blocks run on through the seam (sound, telemetry)."""

    def looped_packets(self, period_ns: int) -> Iterator[Packet | None]:
        """Packets without end; pass ``k`` is ``k * period_ns`` later."""
        ...


class Looped:
    """Plays ``source`` without end, each pass ``period_ns`` later than the one before.

    What lies past the period, or so close to it that the next pass would begin within the stream's least gap, is left out.
    Each pass begins with the recording's first packet, for video a keyframe, so that the same decoder goes on.
    """

    def __init__(self, source: Source, period_ns: int) -> None:
        if source.timing != "media":
            raise SourceError(f"{source.info.stream}: a live source cannot loop; leave out loop=true")
        if period_ns <= 0:
            raise SourceError(f"{source.info.stream}: a loop period of {period_ns} ns is too short; it must be above 0")
        self._source = source
        self._period_ns = period_ns
        self._stopped = threading.Event()
        self.timing: Literal["media", "live"] = "media"
        self.info: StreamInfo = source.info

    def __enter__(self) -> Self:
        self._stopped.clear()
        self._source.__enter__()
        info = self._source.info
        self.info = replace(info, min_gap_ns=max(info.min_gap_ns - SEAM_SLACK_NS, 0))
        return self

    def __exit__(self, *exc: object) -> None:
        self._source.__exit__(*exc)

    def packets(self) -> Iterator[Packet | None]:
        """The recording's packets, then those of the next pass, until `stop`."""
        if isinstance(self._source, LoopsItself):
            yield from self._source.looped_packets(self._period_ns)
            return
        first_ns: int | None = None
        for turn in count():
            shift_ns = turn * self._period_ns
            is_first = True
            for packet in self._source.packets():
                if self._stopped.is_set():
                    return
                if packet is None:
                    continue
                first_ns = packet.capture_ns if first_ns is None else first_ns
                if packet.capture_ns + max(self.info.min_gap_ns, 1) > first_ns + self._period_ns:
                    break
                needs_flush = turn > 0 and is_first and len(packet.chunks) > 1
                yield self._moved(packet, shift_ns, needs_flush=needs_flush)
                is_first = False
            if is_first or self._stopped.is_set():  # nothing to repeat
                return

    def _moved(self, packet: Packet, shift_ns: int, *, needs_flush: bool) -> Packet:
        # A reordering codec whose last frames were left out still holds them.
        chunks = (FLUSH, *packet.chunks) if needs_flush else packet.chunks
        return replace(packet, capture_ns=packet.capture_ns + shift_ns, arrival_ns=packet.arrival_ns + shift_ns, chunks=chunks)

    def stop(self) -> None:
        """End before the next packet."""
        self._stopped.set()
        self._source.stop()
