"""Recorded cameras: a video file, a folder of images."""

from __future__ import annotations

import heapq
import re
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pipeline.formats.decode import FLUSH, VideoDecoder, cropped_size, image_size
from pipeline.formats.media import VideoScan, ns_from_pts, open_media, packets_of, pts_of, scan_video, video_of
from pipeline.sources.base import Encoding, Packet, SourceError, SourceSpec, StreamInfo

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_DELAY = 32
"""No codec holds back more frames than this (H.264 and HEVC: 16)."""

MAX_IMAGES = 1_000_000
MAX_IMAGE_BYTES = 64 * 2**20
DEFAULT_FPS = "20"

_ANNEXB_FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}


class VideoFile:
    """``camera=FILE``: a video file's packets as they are, H.264 and HEVC with start codes and parameter sets (Annex B).

    A video whose codec does not reorder gives one chunk a frame. Otherwise the first packet holds as many chunks as the decoder
    needs before a frame comes out, and one of the last an empty chunk (`FLUSH`). Capture is presentation time since the first
    frame. Frames that an edit list hides at the beginning are shown, since later ones are predicted from them.
    """

    timing: Literal["media", "live"] = "media"

    def __init__(self, spec: SourceSpec) -> None:
        self._path = spec.target
        self._stream = spec.needs.stream
        self._scan: VideoScan | None = None
        self._delay = 0
        self._stopped = threading.Event()
        self.info = StreamInfo(
            stream=self._stream, kind="camera", encoding=Encoding(codec="av:h264"), period_ns=0, min_gap_ns=0, origin=spec.target
        )

    def __enter__(self) -> Self:
        """Check the file, find its order of frames and the codec's delay. Raises SourceError."""
        self._scan = scan_video(self._path, self._stream)
        with open_media(self._path, self._stream) as container:
            video = _video(container)
            codec, extradata = _codec_of(video, self._path, self._stream)
            rate = video.average_rate or video.guessed_rate
            encoding = Encoding(codec=codec, extradata=extradata, width=video.width, height=video.height)
        period_ns = int(1_000_000_000 / rate) if rate else self._scan.min_gap_ns
        self.info = replace(self.info, encoding=encoding, period_ns=period_ns, min_gap_ns=self._scan.min_gap_ns)
        self._delay, width, height = self._probe(self._scan)
        width, height = cropped_size(width, height, encoding)
        self.info = replace(self.info, encoding=replace(encoding, width=width, height=height))
        self._stopped.clear()
        return self

    def __exit__(self, *exc: object) -> None:
        self._scan = None

    def _probe(self, scan: VideoScan) -> tuple[int, int, int]:
        """How many packets the decoder wants before the first frame comes out, and the frame's width and height."""
        if scan.in_order:
            for _, chunk in self._stored():
                size = VideoDecoder(self.info).size_after(chunk, reorders=False)
                if size:
                    return 0, *size
                break
        probe = VideoDecoder(self.info)
        delay = 0
        for _, chunk in self._stored():
            size = probe.size_after(chunk, reorders=True)
            if size:
                return delay, *size
            delay += 1
            if delay == MAX_DELAY:
                break
        size = probe.size_after(FLUSH, reorders=True)
        if size is None:
            raise SourceError(f"{self._stream}: no frame can be decoded from {self._path!r}; re-encode it as h264")
        return delay, *size

    def _stored(self) -> Iterator[tuple[int, bytes]]:
        """Presentation time and bytes of each packet, in the order of the file."""
        from av.bitstream import BitStreamFilterContext

        with open_media(self._path, self._stream) as container:
            video = _video(container)
            name = _ANNEXB_FILTERS.get(self.info.encoding.codec.removeprefix("av:"))
            annexb = BitStreamFilterContext(name, video) if name else None
            for packet in packets_of(container, video, self._path, self._stream):
                pts = pts_of(packet, self._path, self._stream)
                if annexb is None:
                    yield pts, bytes(packet)
                    continue
                yield pts, b"".join(bytes(filtered) for filtered in annexb.filter(packet))

    def packets(self) -> Iterator[Packet | None]:
        """One packet a frame, in the order of presentation. Raises SourceError where the file is damaged."""
        scan, delay = self._scan, self._delay
        assert scan is not None, "enter the source first"
        lookahead = delay if scan.in_order else MAX_DELAY
        times: list[int] = []
        chunks: deque[bytes] = deque()
        shown = 0  # frames given so far
        last_ns = -1

        def next_packet(*, is_end: bool) -> Packet:
            """The earliest frame, with all chunks up to the one ``delay`` packets ahead of it that were not given yet."""
            nonlocal shown, last_ns
            capture_ns = ns_from_pts(heapq.heappop(times) - scan.origin, scan.time_base)
            if capture_ns <= last_ns:
                raise SourceError(
                    f"{self._stream}: {self._path!r} frame {shown} at {capture_ns} ns is not after the one before; re-encode it"
                )
            last_ns = capture_ns
            stored = shown + 1 + len(times)  # packets read so far
            given = stored - len(chunks)
            wanted = shown + 1 + delay
            part = tuple(chunks.popleft() for _ in range(min(wanted, stored) - given))
            if is_end and wanted == stored + 1:
                part = (*part, FLUSH)
            shown += 1
            return Packet(capture_ns=capture_ns, arrival_ns=capture_ns, chunks=part)

        for pts, chunk in self._stored():
            heapq.heappush(times, pts)
            chunks.append(chunk)
            if len(times) > lookahead:
                if self._stopped.is_set():
                    return
                yield next_packet(is_end=False)
        while times and not self._stopped.is_set():
            yield next_packet(is_end=True)

    def stop(self) -> None:
        """End before the next packet."""
        self._stopped.set()


def _video(container: InputContainer) -> VideoStream:
    video = video_of(container)
    assert video is not None  # the scan found it
    return video


def _codec_of(video: VideoStream, path: str, stream: str) -> tuple[str, bytes]:
    """The codec's name for `Encoding.codec`, and what its decoder must be told beforehand."""
    context = video.codec_context
    if context is None:
        raise SourceError(f"{stream}: FFmpeg cannot decode the video in {path!r}; re-encode it as h264")
    name = context.codec.canonical_name
    if name in _ANNEXB_FILTERS:  # the filter puts the parameter sets before every keyframe
        return f"av:{name}", b""
    return f"av:{name}", bytes(context.extradata or b"")


class ImageFolder:
    """``camera=FOLDER``: its PNG or JPEG files in natural order (``2.png`` before ``10.png``), at option ``fps`` (20 Hz)."""

    timing: Literal["media", "live"] = "media"

    def __init__(self, spec: SourceSpec) -> None:
        self._folder = Path(spec.target)
        self._stream = spec.needs.stream
        self._images: list[Path] = []
        self._stopped = threading.Event()
        self._fps = self._parse_fps(spec.options.get("fps", DEFAULT_FPS))
        self.info = self._info("png", 0, 0)

    def _parse_fps(self, text: str) -> Fraction:
        try:
            fps = Fraction(text)
        except (ValueError, ZeroDivisionError):
            fps = Fraction(0)
        if not Fraction(1, 1000) <= fps <= 10_000:
            raise SourceError(f"{self._stream}: fps={text!r} is not a number of frames a second from 0.001 to 10000")
        return fps

    def _info(self, codec: str, width: int, height: int) -> StreamInfo:
        period_ns = int(1_000_000_000 / self._fps)
        return StreamInfo(
            stream=self._stream,
            kind="camera",
            encoding=Encoding(codec=codec, width=width, height=height),
            period_ns=period_ns,
            min_gap_ns=period_ns,
            origin=str(self._folder),
        )

    def __enter__(self) -> Self:
        """List the folder and read the first image. Raises SourceError."""
        if not self._folder.is_dir():
            raise SourceError(f"{self._stream}: no folder {str(self._folder)!r}; check the path")
        codecs: set[str] = set()
        self._images = []
        for file in self._folder.iterdir():
            codec = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}.get(file.suffix.lower())
            if codec and file.is_file():
                codecs.add(codec)
                self._images.append(file)
        if not self._images or len(self._images) > MAX_IMAGES:
            raise SourceError(
                f"{self._stream}: {str(self._folder)!r} holds {len(self._images)} .png or .jpg files; it needs 1 to {MAX_IMAGES}"
            )
        if len(codecs) > 1:
            raise SourceError(f"{self._stream}: {str(self._folder)!r} mixes PNG and JPEG files; convert them to one")
        self._images.sort(key=lambda file: _natural(file.name))
        size = image_size(self._content(self._images[0]))
        if size is None:
            raise SourceError(f"{self._stream}: {str(self._images[0])!r} is no whole {codecs.pop()} image; replace it")
        self.info = self._info(codecs.pop(), *size)
        self._stopped.clear()
        return self

    def __exit__(self, *exc: object) -> None:
        self._images = []

    def _content(self, file: Path) -> bytes:
        try:
            with file.open("rb") as image:
                content = image.read(MAX_IMAGE_BYTES + 1)
        except OSError as error:
            raise SourceError(f"{self._stream}: cannot read {str(file)!r} ({error.strerror}); check it") from error
        if not content or len(content) > MAX_IMAGE_BYTES:
            raise SourceError(f"{self._stream}: {str(file)!r} is empty or larger than {MAX_IMAGE_BYTES} bytes; replace it")
        return content

    def packets(self) -> Iterator[Packet | None]:
        """One packet a file. Raises SourceError, naming the file, for what is no image of the stream's size."""
        encoding = self.info.encoding
        for index, file in enumerate(self._images):
            if self._stopped.is_set():
                return
            content = self._content(file)
            if image_size(content) != (encoding.width, encoding.height):
                raise SourceError(
                    f"{self._stream}: {str(file)!r} is no whole image of {encoding.width}x{encoding.height}; replace or remove it"
                )
            capture_ns = index * 1_000_000_000 * self._fps.denominator // self._fps.numerator
            yield Packet(capture_ns=capture_ns, arrival_ns=capture_ns, chunks=(content,))

    def stop(self) -> None:
        """End before the next packet."""
        self._stopped.set()


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts digits as numbers, then by name."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [(0, int(part), part) if part.isdigit() and part.isascii() else (1, 0, part) for part in parts]
