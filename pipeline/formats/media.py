"""Media files through FFmpeg: opening them safely, checking that they are whole, and their time axis.

Time 0 of a recording is its first video frame, in order of presentation; of a file without video its first sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.sources.base import SourceError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

SCAN_LIMIT_BYTES = 512 * 2**20
"""A larger file's order of frames is judged by its beginning, not by reading all of it."""

SCAN_LIMIT_PACKETS = 2000
ORIGIN_PACKETS = 64
"""Presentation may run behind decoding by at most 16 frames, so the earliest frame is among the first packets."""

MAX_PACKETS = 10_000_000
MAX_MEDIA_NS = 30 * 86_400 * 1_000_000_000
"""No recording is longer than 30 days; a stamp beyond is damage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoScan:
    """What demuxing alone says of a video.

    ``origin``, ``end``: pts of the first frame and of the end of the last. ``in_order``: frames are stored as they are shown.
    ``min_gap_ns``: least time between two frames; 0 if only the beginning was read.
    """

    frames: int
    origin: int
    end: int
    time_base: Fraction
    in_order: bool
    min_gap_ns: int


def ns_from_pts(pts: int, time_base: Fraction) -> int:
    """Exact rational to ns, rounded down."""
    return pts * time_base.numerator * 1_000_000_000 // time_base.denominator


@contextmanager
def open_media(path: str, stream: str) -> Iterator[InputContainer]:
    """Open a local media file. Raises SourceError, naming ``stream``, when it is missing or unreadable, also while it is read."""
    import av

    file = Path(path)
    if not file.is_file():
        raise SourceError(f"{stream}: no file {path!r}; check the path")
    try:
        # Only local files, whatever a playlist inside asks for.
        container = av.open("file:" + str(file), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{stream}: {path!r} {_why_unreadable(file)} ({reason}); copy or record it again") from error
    with container:
        try:
            yield container
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SourceError(f"{stream}: {path!r} is damaged ({reason}); copy or record it again") from error


def _why_unreadable(file: Path) -> str:
    try:
        with file.open("rb") as head:
            is_mp4 = head.read(12)[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    except OSError:
        return "cannot be read"
    return "is an MP4 cut short, or its index (moov) is broken" if is_mp4 else "is no media file that FFmpeg reads"


def video_of(container: InputContainer) -> VideoStream | None:
    """The first video that is no cover picture."""
    from av.stream import Disposition

    for video in container.streams.video:
        if not video.disposition & Disposition.attached_pic:
            return video
    return None


def check_whole(container: InputContainer, media: Stream, path: str, stream: str) -> None:
    """Compare the index's last byte with the file's size. Raises SourceError when the file was cut short."""
    size_bytes = Path(path).stat().st_size
    end = max((entry.pos + entry.size for entry in media.index_entries), default=0)
    if end > size_bytes:
        raise SourceError(
            f"{stream}: {path!r} is cut short: its index names byte {end}, but it has {size_bytes} bytes; copy it again"
        )


def packets_of(container: InputContainer, media: Stream, path: str, stream: str) -> Iterator[Packet[Stream]]:
    """A stream's packets. Raises SourceError for one that is cut short."""
    for count, packet in enumerate(container.demux(media)):
        if packet.size == 0:  # FFmpeg's mark of the end
            continue
        if packet.is_corrupt or count > MAX_PACKETS:
            raise SourceError(f"{stream}: {path!r} is cut short or damaged at byte {packet.pos}; copy it again")
        yield packet


def pts_of(packet: Packet[Stream], path: str, stream: str) -> int:
    """A packet's time of presentation. Raises SourceError if the container gives none."""
    pts = packet.dts if packet.pts is None else packet.pts
    if pts is None:
        raise SourceError(f"{stream}: {path!r} does not say when its frames are; put it into an MP4 or MKV container")
    return pts


def origin_ns(path: str, stream: str) -> int | None:
    """Time of the first video frame on the container's axis; None without video."""
    with open_media(path, stream) as container:
        video = video_of(container)
        if video is None:
            return None
        times: list[int] = []
        for packet in packets_of(container, video, path, stream):
            times.append(pts_of(packet, path, stream))
            if len(times) == ORIGIN_PACKETS:
                break
        return ns_from_pts(min(times), _time_base(video, path, stream)) if times else None


def scan_video(path: str, stream: str) -> VideoScan:
    """Demux a video without decoding it. Raises SourceError when there is none, or it is cut short, or its times are unusable."""
    with open_media(path, stream) as container:
        video = video_of(container)
        if video is None:
            raise SourceError(f"{stream}: {path!r} has no video; give a file that has, or leave it out with {stream}=none")
        check_whole(container, video, path, stream)
        time_base = _time_base(video, path, stream)
        reads_all = Path(path).stat().st_size <= SCAN_LIMIT_BYTES
        times: list[int] = []
        latest = last_duration = 0
        for packet in packets_of(container, video, path, stream):
            pts = pts_of(packet, path, stream)
            if not times or pts > latest:
                latest, last_duration = pts, packet.duration or 0
            times.append(pts)
            if not reads_all and len(times) == SCAN_LIMIT_PACKETS:
                break
        whole_duration = video.duration
    if not times:
        raise SourceError(f"{stream}: {path!r} has a video track without frames; record it again")
    shown = sorted(times)
    gaps = [after - before for before, after in pairwise(shown)]
    if gaps and min(gaps) <= 0:
        raise SourceError(f"{stream}: {path!r} has two frames at one time; re-encode it at a constant frame rate")
    end = shown[-1] + (last_duration or (gaps[-1] if gaps else 0))
    if not reads_all and whole_duration:
        end = shown[0] + whole_duration
    if ns_from_pts(end - shown[0], time_base) > MAX_MEDIA_NS:
        raise SourceError(f"{stream}: {path!r} has frames more than 30 days apart; it is damaged, copy or re-encode it")
    return VideoScan(
        frames=len(times),
        origin=shown[0],
        end=end,
        time_base=time_base,
        in_order=shown == times,
        min_gap_ns=ns_from_pts(min(gaps), time_base) if gaps and reads_all else 0,
    )


def loop_period_ns(path: str, stream: str = "camera") -> int:
    """How long a recording plays: first frame to the end of the last (frames x period), so that it can be joined to itself."""
    scan = scan_video(path, stream)
    return ns_from_pts(scan.end - scan.origin, scan.time_base)


def _time_base(media: Stream, path: str, stream: str) -> Fraction:
    if media.time_base is None:
        raise SourceError(f"{stream}: {path!r} has no time base; put it into an MP4 or MKV container")
    return media.time_base
