"""What flows: headers, samples, tokens, announcements, decisions and their receipts.

All times are integer nanoseconds on one host's monotonic clock. Messages are frozen; arrays in them are
read-only and, when they came over a link, valid only until the handler that received them returns.

A decision takes some thirty of them, made after a sleep, when code is cold: `msgspec.Struct` makes one in an eighth of a
dataclass's time, and `msgspec.structs.replace` gives one with changes.
"""

from __future__ import annotations

import enum

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

FOREVER_NS = 2**62
"""A watermark that nothing passes: the stream has ended."""


class Availability(enum.IntEnum):
    """What admission found of one stream at one reference time. The network's mask is made from it."""

    PRESENT = 0
    """Tokens no older than the contract's ``max_age``."""
    QUIET = 1
    """A sparse stream that is alive and has said nothing within ``max_age``."""
    STALE = 2
    """Tokens exist, but all are older than ``max_age``."""
    STARTING = 3
    """Samples arrive, but no full window yet."""
    MISSING = 4
    """Nothing arrives, or nothing ever did."""


class AnnouncementKind(enum.IntEnum):
    """Why a source speaks to fusion."""

    SAMPLE = 0
    HEARTBEAT = 1
    """Alive, nothing to say."""
    END = 2
    """An orderly end: nothing will follow."""
    LOST = 3
    """The source failed or was unplugged; it may come back under a new epoch."""
    WATERMARK = 4
    """Replay only, never in a log: nothing happened, but the reader knows when the next thing will."""
    VOID = 5
    """Never in a log: the sample announced last could not be decoded, so nothing will come of it."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The stamps of one sample.

    ``capture_ns`` is when the physical event was (of an audio or telemetry block: its **last** row),
    ``receive_ns`` when this host had it, ``publish_ns`` when the stage before sent it on.
    ``span_ns`` is how far back from ``capture_ns`` the sample reaches (0 for a frame or a line).
    ``epoch`` counts the incarnations of the source; ``seq`` rises by one a sample within an epoch. ``delay_ns`` is how long
    after its capture the source itself says that a sample comes (a sensor delay that a recording reproduces); it is no part
    of the runtime's share.
    """

    stream: str
    epoch: int = 0
    seq: int
    capture_ns: int
    receive_ns: int
    publish_ns: int = 0
    span_ns: int = 0
    delay_ns: int = 0

    def published(self, publish_ns: int) -> Header:
        """The same, sent on at that time."""
        return replace(self, publish_ns=publish_ns)


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """A source's word to fusion that a sample exists, sent before the sample is decoded.

    ``watermark_ns``: nothing of this stream that was received at or before this instant will be announced any more.
    Live sources cannot know more than their last sample's ``receive_ns``; a log's reader knows the next one's.
    """

    header: Header
    kind: AnnouncementKind = AnnouncementKind.SAMPLE
    watermark_ns: int = 0


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One camera frame: ``image_hwc`` uint8 ``[height, width, 3]``, RGB."""

    header: Header
    image_hwc: NDArray[np.uint8]
    decode_ns: int = 0


class AudioBlock(msgspec.Struct, frozen=True, kw_only=True):
    """Mono sound: ``pcm`` int16 ``[samples]`` at the scenario's sample rate."""

    header: Header
    pcm: NDArray[np.int16]
    decode_ns: int = 0


class TelemetryBlock(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of named channels, in the scenario's channel order and units.

    ``times_ns`` int64 ``[rows]`` (rising; the last equals the header's ``capture_ns``),
    ``values`` float32 ``[rows, channels]`` (0 where invalid, never NaN), ``valid`` bool ``[rows, channels]``.
    """

    header: Header
    times_ns: NDArray[np.int64]
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    decode_ns: int = 0


class TextLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of text, at most 4 KiB of UTF-8."""

    header: Header
    text: str
    decode_ns: int = 0


Sample = Frame | AudioBlock | TelemetryBlock | TextLine


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What the recorder gets of one announcement: the announcement itself and the bytes the decoder read for it."""

    announcement: Announcement
    chunks: tuple[bytes, ...] = ()


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """An encoder's output for one window: ``values`` float32 ``[tokens, channels]``.

    ``window_end_ns`` is where the window ends on its grid; ``header`` is that of the sample that completed it.
    The three costs are compute on the critical path, for the receipt. ``engine`` is the engine that made them where that is not
    the one that the run began with, as receipts name it.
    """

    header: Header
    window_end_ns: int
    values: NDArray[np.float32]
    decode_ns: int = 0
    decoded_ns: int = 0
    """When the sample left its decoder."""
    taken_ns: int = 0
    """When the encoder took the sample: before that it was on a link, or waited for the encoder."""
    encode_start_ns: int = 0
    encode_ns: int = 0
    engine: str = ""

    def owned(self) -> Tokens:
        """The same with values of their own: those that came over a link are only lent."""
        return replace(self, values=self.values.copy())


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a consumer has come, the credit on which a lossless replay is paced.

    ``stage`` is ``fusion``, ``recorder`` or a stream's name (its encoder); ``event_ns`` is the capture time it has dealt with.
    """

    stage: str
    event_ns: int
    count: int = 0


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision rests on from one stream."""

    stream: str
    availability: Availability
    seq: int = -1
    epoch: int = 0
    window_end_ns: int = 0
    age_ns: int = 0
    overrun: bool = False
    """Newer tokens were owed, but not encoded in time."""


class Spans(msgspec.Struct, frozen=True, kw_only=True):
    """Where one decision's time went, in ns. Compute is that on the critical path only.

    ``total = decode + encode + fuse + wait + runtime`` holds by construction: ``runtime`` is the remainder, measured from
    the capture of the last sample on the critical path, and holds queueing, links, scheduling and policy.
    """

    critical_stream: str
    total_ns: int
    decode_ns: int
    encode_ns: int
    fuse_ns: int
    wait_ns: int
    runtime_ns: int


class StreamStamps(msgspec.Struct, frozen=True, kw_only=True):
    """How one stream's tokens came to a live decision, on the run's clock; zeros for what was not known.

    From ``capture_ns`` to ``arrived_ns`` (at fusion) they rise. Tokens that an earlier decision had read already have none.
    ``settled_ns`` is from when on nothing more could be owed by this stream; 0 if fusion did not wait for that.
    """

    stream: str
    capture_ns: int = 0
    receive_ns: int = 0
    decode_start_ns: int = 0
    decoded_ns: int = 0
    taken_ns: int = 0
    encode_start_ns: int = 0
    encoded_ns: int = 0
    arrived_ns: int = 0
    settled_ns: int = 0


class Stamps(msgspec.Struct, frozen=True, kw_only=True):
    """When what happened to a live decision: `pipeline.latency.intervals` makes spans of it."""

    streams: tuple[StreamStamps, ...]
    announced_ns: int
    """When fusion knew of the reference time."""
    fuse_start_ns: int
    fused_ns: int


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Which samples, how old, which engines, which config, where the time went."""

    admitted: tuple[Admitted, ...]
    spans: Spans
    engines: dict[str, str]
    """Role to the engine that served: the SHA-256 of its graph, with ``CHOICE:`` before it on any but the reference backend."""
    config_sha256: str
    state_sha256: str
    overrun: bool = False
    synthetic: bool = False
    """The reference time was put in by the runtime because the reference stream fell silent."""
    stamps: Stamps | None = None
    """Of a live decision."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One typed result.

    ``outputs`` maps a head to its calibrated float32 probabilities; ``state`` is that of policy and memory, JSON-serialisable.
    ``status`` is ``on_time``, ``late`` or ``skipped`` (then there are no outputs), or ``replayed``.
    """

    seq: int
    reference_ns: int
    publish_ns: int
    deadline_ns: int
    status: str
    action: str
    outputs: dict[str, NDArray[np.float32]] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """Head to the name of its class after policy."""
    state: str = ""
    memory: str = ""
    """Fusion's memory, `FusionMemory.to_json`, for the recorder's snapshots; ``state`` holds the hashes of its entries."""
    receipt: Receipt | None = None
    sink_ns: int = 0
    """When the sink took it, as the log says; 0 before."""

    @property
    def latency_ns(self) -> int:
        """Publish time less reference time."""
        return self.publish_ns - self.reference_ns

    @property
    def stamps(self) -> Stamps | None:
        """Its receipt's; None for what is replayed or older."""
        return self.receipt.stamps if self.receipt is not None else None


Message = Announcement | Frame | AudioBlock | TelemetryBlock | TextLine | Recording | Tokens | Progress | Decision
