"""From simulated samples to a log: stamped, delayed and partly lost as a recorder would have written them.

Every simulated world uses this. The runtime cannot tell such a log from a recording but for the word *simulated* in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Scenario
from pipeline.messages import Announcement, AnnouncementKind, Header, Recording
from pipeline.sources.base import Encoding, Packet, StreamInfo

ORIGIN_NS = 1_000_000_000
AUDIO_HZ = 16_000
HEARTBEAT_NS = 1_000_000_000
KEYFRAME_EVERY = 40
CRF = "24"


class Delays(Protocol):
    """How late each sample is delivered."""

    def delays_s(self, stream: str, capture_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Delay of each sample in s, ``[n]``; NaN where it is lost."""


def stream_infos(scenario: Scenario, origin: str, *, width: int, height: int, camera_period_ns: int) -> list[StreamInfo]:
    """What the four simulated sensors say of themselves; ``origin`` must say that they are simulated."""
    channels = scenario.streams["telemetry"].channels
    audio_block_ns = scenario.streams["microphone"].block_ms * 1_000_000
    rows_block_ns = scenario.streams["telemetry"].block_ms * 1_000_000
    camera = Encoding(codec="av:h264", width=width, height=height)
    sound = Encoding(codec="pcm-s16", sample_rate_hz=AUDIO_HZ)
    rows = Encoding(codec="telemetry-json", channels=tuple(c.name for c in channels), units=tuple(c.unit for c in channels))
    return [
        StreamInfo(
            stream="camera", kind="camera", encoding=camera, period_ns=camera_period_ns, min_gap_ns=camera_period_ns,
            simulated=True, origin=origin,
        ),
        StreamInfo(
            stream="microphone", kind="microphone", encoding=sound, period_ns=audio_block_ns, min_gap_ns=audio_block_ns,
            simulated=True, origin=origin,
        ),
        StreamInfo(
            stream="telemetry", kind="telemetry", encoding=rows, period_ns=rows_block_ns, min_gap_ns=rows_block_ns // 2,
            simulated=True, origin=origin,
        ),
        StreamInfo(
            stream="text", kind="text", encoding=Encoding(codec="text"), period_ns=0, min_gap_ns=0, simulated=True, origin=origin
        ),
    ]  # fmt: skip


def recordings(stream: str, packets: Iterator[Packet], late: Delays, heartbeats_until_ns: int = 0) -> Iterator[Recording]:
    """Stamp packets as a recorder would have: in order, delayed, some lost; heartbeats between; an end.

    Frames (stream ``camera``) carry their delay in ``arrival_ns``, or no chunks where lost, as they are rendered one by one.
    """
    seq, last_receive_ns, next_beat_ns, last_capture_ns = 0, 0, HEARTBEAT_NS, 0
    batch = list(packets) if stream != "camera" else packets

    def beats(until_ns: int) -> Iterator[Recording]:
        nonlocal next_beat_ns
        while next_beat_ns < min(until_ns, heartbeats_until_ns):
            yield _announced(stream, seq, next_beat_ns, next_beat_ns, AnnouncementKind.HEARTBEAT)
            next_beat_ns += HEARTBEAT_NS

    for packet, delay_ns in _delayed(stream, batch, late):
        yield from beats(packet.capture_ns)
        last_capture_ns = packet.capture_ns
        if delay_ns is None:
            continue
        last_receive_ns = max(last_receive_ns + 1, packet.capture_ns + delay_ns)
        header = Header(
            stream=stream,
            seq=seq,
            capture_ns=ORIGIN_NS + packet.capture_ns,
            receive_ns=ORIGIN_NS + last_receive_ns,
            span_ns=packet.span_ns,
        )
        yield Recording(announcement=Announcement(header=header), chunks=packet.chunks)
        seq += 1
    yield from beats(heartbeats_until_ns)
    end_ns = max(last_capture_ns, last_receive_ns, heartbeats_until_ns)
    yield _announced(stream, seq, end_ns, end_ns + 1, AnnouncementKind.END)


def _announced(stream: str, seq: int, capture_ns: int, receive_ns: int, kind: AnnouncementKind) -> Recording:
    header = Header(stream=stream, seq=seq, capture_ns=ORIGIN_NS + capture_ns, receive_ns=ORIGIN_NS + receive_ns)
    return Recording(announcement=Announcement(header=header, kind=kind))


def _delayed(stream: str, packets: list[Packet] | Iterator[Packet], late: Delays) -> Iterator[tuple[Packet, int | None]]:
    if isinstance(packets, list):
        captures_s = np.array([p.capture_ns / 1e9 for p in packets])
        delays_s = late.delays_s(stream, captures_s)
        for packet, delay_s in zip(packets, delays_s, strict=True):
            yield packet, None if np.isnan(delay_s) else int(delay_s * 1e9)
        return
    for packet in packets:
        yield packet, packet.arrival_ns - packet.capture_ns if packet.chunks else None


def frame_packets(
    images: Callable[[int], NDArray[np.uint8]],
    times_s: NDArray[np.float64],
    late: Delays,
    *,
    rate_hz: int,
    on_progress: Callable[[float], None] | None,
) -> Iterator[Packet]:
    """H.264 in order, one packet a frame; a frame that the camera loses is never encoded, so the stream stays whole.

    ``images`` renders the frame of an index; ``times_s`` are the frames' times, ``rate_hz`` apart.
    """
    encoder: _FrameEncoder | None = None
    period_ns = 1_000_000_000 // rate_hz
    delays_s = late.delays_s("camera", np.asarray(times_s))
    for index in range(len(times_s)):
        capture_ns = index * period_ns
        if np.isnan(delays_s[index]):
            yield Packet(capture_ns=capture_ns, arrival_ns=capture_ns, chunks=())
        else:
            image = images(index)
            encoder = encoder or _FrameEncoder(image.shape[1], image.shape[0], rate_hz)
            chunk = encoder.encode(image)
            yield Packet(capture_ns=capture_ns, arrival_ns=capture_ns + int(delays_s[index] * 1e9), chunks=(chunk,))
        if on_progress is not None and index % rate_hz == 0:
            on_progress(index / rate_hz)


class _FrameEncoder:
    """x264, one thread, no reordering: each frame in gives its packet out, Annex B."""

    def __init__(self, width: int, height: int, rate_hz: int) -> None:
        import av

        context = av.CodecContext.create("libx264", "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base, context.framerate = Fraction(1, rate_hz), Fraction(rate_hz)
        context.thread_count = 1
        context.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "crf": CRF,
            "x264-params": f"keyint={KEYFRAME_EVERY}:scenecut=0:bframes=0:repeat-headers=1:threads=1",
        }
        self._context = context
        self._count = 0

    def encode(self, image_hwc: NDArray[np.uint8]) -> bytes:
        """One RGB frame's packet."""
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_hwc), format="rgb24")
        frame.pts = self._count
        self._count += 1
        return b"".join(bytes(packet) for packet in self._context.encode(frame))


def sound_packets(samples: NDArray[np.int16], block_ms: int) -> Iterator[Packet]:
    """PCM blocks of 16 kHz sound; a partial one at the end is dropped."""
    per_block = AUDIO_HZ * block_ms // 1000
    period_ns = 1_000_000_000 // AUDIO_HZ
    for start in range(0, len(samples) - per_block + 1, per_block):
        capture_ns = (start + per_block - 1) * period_ns
        chunk = samples[start : start + per_block].astype("<i2").tobytes()
        yield Packet(capture_ns=capture_ns, arrival_ns=capture_ns, span_ns=per_block * period_ns, chunks=(chunk,))


def text_packets(lines: list[tuple[float, str]]) -> Iterator[Packet]:
    """Lines at their times in s."""
    for time_s, text in lines:
        capture_ns = int(time_s * 1e9)
        yield Packet(capture_ns=capture_ns, arrival_ns=capture_ns, chunks=(text.encode("utf-8"),))
