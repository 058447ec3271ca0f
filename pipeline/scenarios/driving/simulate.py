"""From a simulated drive to a log: every sensor's samples with their delays and dropouts, and the ground truth.

The log is as a recorder would have written it: frames as H.264, sound as PCM blocks, telemetry rows in blocks, lines of
text. The runtime cannot tell it from a recording but for the word *simulated* in its description.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Scenario
from pipeline.logs.writer import LogWriter
from pipeline.messages import FOREVER_NS, Announcement, AnnouncementKind, Header, Recording
from pipeline.scenarios.driving.feeds import Arrivals, arrivals, telemetry, text_lines
from pipeline.scenarios.driving.scene import Renderer
from pipeline.scenarios.driving.sound import pcm
from pipeline.scenarios.driving.world import ACTIONS, Drive, sample_drive
from pipeline.sources.base import Encoding, Packet, StreamInfo
from pipeline.sources.telemetry import packets_of_rows

ORIGIN_NS = 1_000_000_000
CAMERA_HZ, AUDIO_HZ = 20, 16_000
CAMERA_PERIOD_NS = 1_000_000_000 // CAMERA_HZ
WIDTH, HEIGHT = 320, 192
KEYFRAME_EVERY = 40
CRF = "24"
HEARTBEAT_NS = 1_000_000_000
ORIGIN = "simulated drive"


def simulate(
    path: Path, scenario: Scenario, *, seed: int, duration_s: float, on_progress: Callable[[float], None] | None = None
) -> None:
    """Write the simulated drive of ``seed`` to ``path``, whole or not at all. ``on_progress`` gets the seconds done.

    Needs the extra ``sim`` (panda3d, scipy). The same seed gives the same log on the same machine.
    """
    drive = sample_drive(seed, duration_s)
    late = arrivals(drive)
    infos = stream_infos(scenario, seed)
    metadata = {
        "simulated": "true",
        "seed": str(seed),
        "duration_s": f"{duration_s:g}",
        "config_sha256": scenario.sha256,
        "creator": "chiasm simulate",
    }
    with (
        Renderer() as renderer,
        LogWriter(path, scenario=scenario.name, origin_ns=ORIGIN_NS, streams=infos, metadata=metadata, atomic=True) as log,
    ):
        lanes = [
            _recordings("camera", _frames(drive, renderer, on_progress), late),
            _recordings("microphone", _sound(drive, scenario.streams["microphone"].block_ms), late),
            _recordings("telemetry", _rows(drive, scenario.streams["telemetry"].block_ms), late),
            _recordings("text", _lines(drive), late, heartbeats_until_ns=int(duration_s * 1e9)),
        ]
        truth_at = 0
        for recording in heapq.merge(*lanes, key=lambda r: r.announcement.header.receive_ns):
            receive_ns = recording.announcement.header.receive_ns
            truth_at = _write_truth(log, drive, truth_at, receive_ns)
            log.announcement(recording)
        _write_truth(log, drive, truth_at, FOREVER_NS)
        log.finish({"clean": "true"})


def stream_infos(scenario: Scenario, seed: int) -> list[StreamInfo]:
    """What the four simulated sensors say of themselves."""
    origin = f"{ORIGIN}, seed {seed}"
    channels = scenario.streams["telemetry"].channels
    audio_block_ns = scenario.streams["microphone"].block_ms * 1_000_000
    rows_block_ns = scenario.streams["telemetry"].block_ms * 1_000_000
    camera = Encoding(codec="av:h264", width=WIDTH, height=HEIGHT)
    sound = Encoding(codec="pcm-s16", sample_rate_hz=AUDIO_HZ)
    rows = Encoding(codec="telemetry-json", channels=tuple(c.name for c in channels), units=tuple(c.unit for c in channels))
    return [
        StreamInfo(
            stream="camera", kind="camera", encoding=camera, period_ns=CAMERA_PERIOD_NS, min_gap_ns=CAMERA_PERIOD_NS,
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


def _recordings(stream: str, packets: Iterator[Packet], late: Arrivals, heartbeats_until_ns: int = 0) -> Iterator[Recording]:
    """Stamp packets as a recorder would have: in order, delayed, some lost; heartbeats between; an end."""
    seq, last_receive_ns, next_beat_ns, last_capture_ns = 0, 0, HEARTBEAT_NS, 0
    batch = list(packets) if stream != "camera" else packets

    def beats(until_ns: int) -> Iterator[Recording]:
        nonlocal next_beat_ns
        while next_beat_ns < min(until_ns, heartbeats_until_ns):
            yield _announce(stream, seq, next_beat_ns, next_beat_ns, AnnouncementKind.HEARTBEAT)
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
    yield _announce(stream, seq, end_ns, end_ns + 1, AnnouncementKind.END)


def _announce(stream: str, seq: int, capture_ns: int, receive_ns: int, kind: AnnouncementKind) -> Recording:
    header = Header(stream=stream, seq=seq, capture_ns=ORIGIN_NS + capture_ns, receive_ns=ORIGIN_NS + receive_ns)
    return Recording(announcement=Announcement(header=header, kind=kind))


def _delayed(stream: str, packets: list[Packet] | Iterator[Packet], late: Arrivals) -> Iterator[tuple[Packet, int | None]]:
    if isinstance(packets, list):
        captures_s = np.array([p.capture_ns / 1e9 for p in packets])
        delays_s = late.delays_s(stream, captures_s)
        for packet, delay_s in zip(packets, delays_s, strict=True):
            yield packet, None if np.isnan(delay_s) else int(delay_s * 1e9)
        return
    for packet in packets:  # frames carry their delay themselves: they are rendered as they are written
        yield packet, packet.arrival_ns - packet.capture_ns if packet.chunks else None


def _frames(drive: Drive, renderer: Renderer, on_progress: Callable[[float], None] | None) -> Iterator[Packet]:
    """H.264 in order, one packet a frame; a frame that the camera loses is never encoded, so the stream stays whole."""
    encoder = _FrameEncoder()
    count = len(drive.frame_times_s)
    delays_s = arrivals(drive).delays_s("camera", np.asarray(drive.frame_times_s))
    for index in range(count):
        capture_ns = index * CAMERA_PERIOD_NS
        if np.isnan(delays_s[index]):
            yield Packet(capture_ns=capture_ns, arrival_ns=capture_ns, chunks=())
        else:
            chunk = encoder.encode(renderer.frame(drive, index))
            yield Packet(capture_ns=capture_ns, arrival_ns=capture_ns + int(delays_s[index] * 1e9), chunks=(chunk,))
        if on_progress is not None and index % CAMERA_HZ == 0:
            on_progress(index / CAMERA_HZ)


class _FrameEncoder:
    """x264, one thread, no reordering: each frame in gives its packet out, Annex B."""

    def __init__(self) -> None:
        import av

        context = av.CodecContext.create("libx264", "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context.time_base, context.framerate = Fraction(1, CAMERA_HZ), Fraction(CAMERA_HZ)
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


def _sound(drive: Drive, block_ms: int) -> Iterator[Packet]:
    samples = pcm(drive)
    per_block = AUDIO_HZ * block_ms // 1000
    period_ns = 1_000_000_000 // AUDIO_HZ
    for start in range(0, len(samples) - per_block + 1, per_block):
        capture_ns = (start + per_block - 1) * period_ns
        chunk = samples[start : start + per_block].astype("<i2").tobytes()
        yield Packet(capture_ns=capture_ns, arrival_ns=capture_ns, span_ns=per_block * period_ns, chunks=(chunk,))


def _rows(drive: Drive, block_ms: int) -> Iterator[Packet]:
    times_s, values, valid = telemetry(drive)
    times_ns = np.round(np.asarray(times_s) * 1e9).astype(np.int64)
    yield from packets_of_rows(times_ns, values, valid, block_ns=block_ms * 1_000_000)


def _lines(drive: Drive) -> Iterator[Packet]:
    for time_s, text in text_lines(drive):
        capture_ns = int(time_s * 1e9)
        yield Packet(capture_ns=capture_ns, arrival_ns=capture_ns, chunks=(text.encode("utf-8"),))


def _write_truth(log: LogWriter, drive: Drive, first: int, until_ns: int) -> int:
    """Write the truth of the frames captured before ``until_ns``; where to go on."""
    index = first
    while index < len(drive.frame_times_s) and ORIGIN_NS + index * CAMERA_PERIOD_NS <= until_ns:
        truth = {"emergency": int(drive.emergency[index]), "action": ACTIONS[int(drive.action[index])]}
        log.truth(ORIGIN_NS + index * CAMERA_PERIOD_NS, truth)
        index += 1
    return index
