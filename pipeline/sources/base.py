"""What a source is: packets with times, and a description of how to decode them.

A source yields *packets* (what the decoder reads and the log keeps); `pipeline.formats.decode` turns a packet into an array.
The ingest stage in between stamps, announces, paces and counts. So a log replays through the very decoder that the live run used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

StreamKind = Literal["camera", "microphone", "telemetry", "text"]


class SourceError(Exception):
    """A source cannot be used: names the file, field or stream, and the fix. The CLI prints it in one line and exits with 2."""


class SourceLost(Exception):
    """A live source failed or was unplugged while running. It costs that stream only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a packet's chunks become an array.

    codec: ``av:NAME`` (a video codec of FFmpeg's, chunks are its packets), ``jpeg``/``png`` (one image),
    ``rgb8`` (raw, height x width x 3), ``pcm-s16`` (mono), ``telemetry-json``
    (``{"offsets_ns": [rows], "values": [[row] ...]}``; offsets count back from the capture time, the last is 0; null is invalid),
    ``text`` (UTF-8).
    """

    codec: str
    width: int = 0
    height: int = 0
    sample_rate_hz: int = 0
    channels: tuple[str, ...] = ()
    """Telemetry: the channel names, in the order of the scenario. Absent channels are null in every row."""
    units: tuple[str, ...] = ()
    extradata: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """What a source says of its stream before the first packet."""

    stream: str
    kind: StreamKind
    encoding: Encoding
    period_ns: int
    """Nominal time from one sample to the next; 0 for a sparse stream."""
    min_gap_ns: int
    """No two samples' capture times are closer than this (0 if unknown)."""
    simulated: bool = False
    origin: str = ""
    """Where it comes from, for people: a file name, a device's name."""
    calibration: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    """What the recording itself says was true. Kept in the log for whoever evaluates; nothing that decides gets it."""
    clock_uncertainty_ns: int = 0
    """By how much its stamps may be wrong because they were mapped from another host's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One sample, not yet decoded.

    ``capture_ns``: of a source with ``timing == "media"`` the time since the recording began (of the sample's last row); of
    a ``"live"`` source the host's monotonic clock. ``arrival_ns``: on the same axis, when the runtime gets it (a live
    source's ``receive_ns``; a recording's capture plus whatever delay it wants to reproduce). ``chunks`` are the bytes for
    the decoder, usually one; a reordering video codec may need none or several before a frame comes out.
    """

    capture_ns: int
    arrival_ns: int
    span_ns: int = 0
    chunks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One telemetry channel a scenario reads."""

    name: str
    unit: str
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamNeeds:
    """What a scenario asks of a stream's source."""

    stream: str
    kind: StreamKind
    sample_rate_hz: int = 16_000
    channels: tuple[Channel, ...] = ()
    block_ns: int = 50_000_000
    """How long an audio or telemetry block is where the source may choose."""
    recording: bool = False
    """The run is recorded: a raw camera then compresses first, and the encoders read the decoded result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """A source, not yet opened: plain data that can travel to the process that will open it.

    ``scheme`` picks the class (``video``, ``images``, ``gopro-telemetry``, ``log``, ``device`` …), ``target`` is the file,
    folder, device or HOST:PORT. ``offset_ns`` is added to every capture time. ``loop_period_ns`` > 0 plays a recording
    again and again, each pass that much later (a bundle gives all its streams the same period, so that they stay together).
    """

    needs: StreamNeeds
    scheme: str
    target: str
    offset_ns: int = 0
    loop_period_ns: int = 0
    options: dict[str, str] = field(default_factory=dict)

    @property
    def is_live(self) -> bool:
        """Whether it is a device or a socket, which says itself when it captured; else it is a recording."""
        return self.scheme.endswith("-device") or self.scheme.startswith("udp-")


class Source(Protocol):
    """One stream's packets. A context manager: entering opens and checks, leaving frees the device or file."""

    info: StreamInfo
    timing: Literal["media", "live"]

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

    def packets(self) -> Iterator[Packet | None]:
        """Yield packets in capture order until the end.

        A live source yields None when nothing came for 100 ms (the ingest stage heartbeats then) and raises `SourceLost` when the
        device is gone. A file source returns at its end and raises `SourceError`, naming the file and byte, row or field, when
        the content is broken.
        """
        ...

    def stop(self) -> None:
        """Make a blocked `packets` return within 200 ms. Called from another thread."""
        ...
