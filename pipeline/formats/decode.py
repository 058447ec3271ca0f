"""Decoding: from a packet's chunks to an array. One path, live and in replay: the same bytes give the same array.

Pinned: one thread; errors are raised, not concealed; colour matrix and range as the stream says, or where it says nothing
BT.601 below 720 lines and BT.709 from there (the usual convention); full-range RGB out; swscale's fixed-point YUV to RGB path.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.sources.base import Encoding, SourceError, StreamInfo

if TYPE_CHECKING:
    import av

MAX_CHUNK_BYTES = 64 * 2**20
MAX_PIXELS = 2**25
MAX_SIDE = 16_384
MAX_QUEUED_FRAMES = 64
MAX_TELEMETRY_BYTES = 2**20
MAX_ROWS = 4096
MAX_TEXT_BYTES = 4096

FLUSH = b""
"""A chunk that means: the stream ends here, give the frames that a reordering video codec still holds."""

# AVCOL_SPC_* of a frame to SWS_CS_* of the converter (libavutil/pixfmt.h, libswscale/swscale.h).
_MATRIX_FROM_COLORSPACE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
_BT709, _BT601 = 1, 5
_RANGE_LIMITED, _RANGE_FULL = 1, 2


class Decoder(Protocol):
    """One stream's decoder. Packets are fed in the order of the stream, each exactly once."""

    def decode(self, packet_chunks: tuple[bytes, ...]) -> Any:
        """Decode one packet.

        camera: uint8 ``[height, width, 3]`` RGB. microphone: int16 ``[samples]``. telemetry: ``(offsets_ns int64 [rows],
        values float32 [rows, channels], valid bool [rows, channels])``. text: str. Arrays are read-only or fresh. Raises
        SourceError, naming the stream, when the bytes are broken or too large; the next packet may be tried after that.
        """
        ...


def decoder_for(info: StreamInfo) -> Decoder:
    """The decoder for ``info.encoding``. Raises SourceError for a codec that is unknown or that this FFmpeg lacks."""
    codec = info.encoding.codec
    if codec.startswith("av:"):
        return VideoDecoder(info)
    plain: dict[str, type[_PlainDecoder]] = {
        "jpeg": ImageDecoder,
        "png": ImageDecoder,
        "rgb8": RawImageDecoder,
        "pcm-s16": PcmDecoder,
        "telemetry-json": TelemetryDecoder,
        "text": TextDecoder,
    }
    if codec not in plain:
        raise SourceError(f"{info.stream}: no decoder for {codec!r}; there are av:NAME, {', '.join(plain)}")
    return plain[codec](info)


class VideoDecoder:
    """FFmpeg video. Feeding a packet's chunks must bring out one frame more than the packet before.

    A stream whose first packet has one chunk is in order and decoded without delay. Otherwise the codec reorders, and the
    decoder waits for as many frames as the stream's profile allows (FFmpeg's ``strict``), so that it never has to guess.
    """

    def __init__(self, info: StreamInfo) -> None:
        from av.video.reformatter import VideoReformatter

        self._info = info
        self._reformatter = VideoReformatter()
        self._context: av.VideoCodecContext | None = None
        self._queue: deque[av.VideoFrame] = deque()
        self._is_drained = False

    def decode(self, packet_chunks: tuple[bytes, ...]) -> NDArray[np.uint8]:
        """The next frame in the order of presentation."""
        if self._context is None:
            self._context = self._open(reorders=len(packet_chunks) != 1)
        for chunk in packet_chunks:
            self._feed(chunk)
        if not self._queue:
            raise SourceError(f"{self._info.stream}: {self._info.encoding.codec} gave no frame for a packet; {self._fix}")
        return self._rgb(self._queue.popleft())

    @property
    def _fix(self) -> str:
        return f"{self._info.origin or 'the recording'} is damaged there, replace it or re-encode it"

    def size_after(self, chunk: bytes, *, reorders: bool) -> tuple[int, int] | None:
        """Feed one chunk without taking a frame; width and height of the first that waits. For finding out a codec's delay."""
        if self._context is None:
            self._context = self._open(reorders=reorders)
        self._feed(chunk)
        return (self._queue[0].width, self._queue[0].height) if self._queue else None

    def _open(self, *, reorders: bool) -> av.VideoCodecContext:
        import av

        encoding = self._info.encoding
        name = encoding.codec.removeprefix("av:")
        try:
            context = av.CodecContext.create(name, "r")
            if not isinstance(context, av.VideoCodecContext):
                raise SourceError(f"{self._info.stream}: {encoding.codec!r} is no video codec")
            context.thread_count = 1
            context.thread_type = "NONE"
            if encoding.extradata:
                context.extradata = encoding.extradata
            options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
            context.options = options | ({"strict": "strict"} if reorders else {})
            context.open()
        except (av.FFmpegError, ValueError) as error:
            raise SourceError(
                f"{self._info.stream}: FFmpeg cannot decode {encoding.codec!r} ({error}); re-encode it as h264"
            ) from error
        return context

    def _feed(self, chunk: bytes) -> None:
        import av

        assert self._context is not None
        if len(chunk) > MAX_CHUNK_BYTES:
            raise SourceError(f"{self._info.stream}: a packet of {len(chunk)} bytes is more than {MAX_CHUNK_BYTES}")
        try:
            if chunk == FLUSH:
                frames = [] if self._is_drained else self._context.decode(None)
                self._is_drained = True
            else:
                if self._is_drained:  # the stream begins again, at a keyframe
                    self._context.flush_buffers()
                    self._queue.clear()
                    self._is_drained = False
                frames = self._context.decode(av.Packet(chunk))
        except av.FFmpegError as error:
            codec = self._info.encoding.codec
            raise SourceError(f"{self._info.stream}: a broken {codec} packet ({error.strerror}); {self._fix}") from error
        self._queue.extend(frames)
        if len(self._queue) > MAX_QUEUED_FRAMES:
            self._queue.clear()
            raise SourceError(f"{self._info.stream}: one packet gave more than {MAX_QUEUED_FRAMES} frames; {self._fix}")

    def _rgb(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        import av
        from av.video.reformatter import Interpolation

        stream, encoding = self._info.stream, self._info.encoding
        if encoding.width and cropped_size(frame.width, frame.height, encoding) != (encoding.width, encoding.height):
            raise SourceError(
                f"{stream}: a frame of {frame.width}x{frame.height} in a stream of {encoding.width}x{encoding.height}; "
                "re-encode it at one size"
            )
        if frame.is_corrupt:
            raise SourceError(f"{stream}: {encoding.codec} frame is corrupt; {self._fix}")
        is_rgb = frame.format.is_rgb
        matrix = _MATRIX_FROM_COLORSPACE.get(int(frame.colorspace), _BT709 if frame.height >= 720 else _BT601)
        is_full = is_rgb or int(frame.color_range) == _RANGE_FULL or frame.format.name.startswith("yuvj")
        try:
            converted = self._reformatter.reformat(
                frame,
                format="rgb24",
                src_colorspace=None if is_rgb else matrix,
                dst_colorspace=None if is_rgb else matrix,
                src_color_range=_RANGE_FULL if is_full else _RANGE_LIMITED,
                dst_color_range=_RANGE_FULL,
                interpolation=Interpolation.BILINEAR | Interpolation.BITEXACT,
                threads=1,
            )
        except (av.FFmpegError, ValueError) as error:
            raise SourceError(f"{stream}: cannot turn {frame.format.name} into RGB ({error}); re-encode as yuv420p") from error
        padded = converted.to_ndarray()
        height, width = encoding.height or frame.height, encoding.width or frame.width
        # Cut as rows of bytes: numpy copies those ten times faster than rows of pixels.
        lines = padded.reshape(frame.height, -1)[:height, : width * 3]
        return np.ascontiguousarray(lines, dtype=np.uint8).reshape(height, width, 3)


def cropped_size(width: int, height: int, encoding: Encoding) -> tuple[int, int]:
    """What of a decoded picture counts: less than a macroblock at the right and bottom may be there for the codec only.

    Cropped after the conversion: told the width beforehand, FFmpeg converts into lines that numpy must copy anyway.
    """
    is_padded = 0 <= width - encoding.width < 16 and 0 <= height - encoding.height < 16
    return (encoding.width, encoding.height) if is_padded else (width, height)


class _PlainDecoder(ABC):
    """A codec without state: all of a packet is in its chunks."""

    max_bytes = MAX_CHUNK_BYTES

    def __init__(self, info: StreamInfo) -> None:
        self._info = info

    def decode(self, packet_chunks: tuple[bytes, ...]) -> Any:
        """See `Decoder.decode`."""
        content = packet_chunks[0] if len(packet_chunks) == 1 else b"".join(packet_chunks)
        if len(content) > self.max_bytes:
            raise self._broken(f"has {len(content)} bytes, at most {self.max_bytes}")
        return self._read(content)

    @abstractmethod
    def _read(self, content: bytes) -> Any:
        """The payload of one whole packet."""

    def _broken(self, what: str) -> SourceError:
        origin = f" from {self._info.origin}" if self._info.origin else ""
        return SourceError(f"{self._info.stream}: a {self._info.encoding.codec} packet{origin} {what}; replace or drop it")


class ImageDecoder(_PlainDecoder):
    """One JPEG or PNG file; as stored, whatever its Exif orientation says."""

    def _read(self, content: bytes) -> NDArray[np.uint8]:
        import cv2

        size = image_size(content)
        if size is None:
            raise self._broken("is not a whole JPEG or PNG image")
        width, height = size
        if not 0 < width <= MAX_SIDE or not 0 < height <= MAX_SIDE or width * height > MAX_PIXELS:
            raise self._broken(f"is {width}x{height}, more than {MAX_PIXELS} pixels")
        encoding = self._info.encoding
        if encoding.width and (width, height) != (encoding.width, encoding.height):
            raise self._broken(f"is {width}x{height} in a stream of {encoding.width}x{encoding.height}")
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
        except cv2.error as error:
            raise self._broken("cannot be decoded") from error
        if image is None or image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise self._broken("cannot be decoded")
        return np.asarray(image, dtype=np.uint8)


def image_size(content: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG's or PNG's header declares; None if it is neither or is cut short (no end marker)."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        if len(content) < 33 or content[12:16] != b"IHDR" or b"IEND" not in content[-32:]:
            return None
        width, height = struct.unpack_from(">II", content, 16)
        return int(width), int(height)
    if not content.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD7:  # fill bytes and markers without a length
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", content, at + 5)
            # A thumbnail's end marker lies before the frame header, so one after it ends the picture.
            return (int(width), int(height)) if content.rfind(b"\xff\xd9") > at else None
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None


class RawImageDecoder(_PlainDecoder):
    """Height x width x 3 bytes."""

    def _read(self, content: bytes) -> NDArray[np.uint8]:
        height, width = self._info.encoding.height, self._info.encoding.width
        if height <= 0 or width <= 0 or len(content) != height * width * 3:
            raise self._broken(f"has {len(content)} bytes, not {height} x {width} x 3")
        return np.frombuffer(content, dtype=np.uint8).reshape(height, width, 3)


class PcmDecoder(_PlainDecoder):
    """Little-endian int16, mono."""

    max_bytes = 2**22

    def _read(self, content: bytes) -> NDArray[np.int16]:
        if not content or len(content) % 2:
            raise self._broken(f"has {len(content)} bytes, not one or more int16")
        return np.frombuffer(content, dtype="<i2").astype(np.int16, copy=False)


class _Rows(msgspec.Struct, forbid_unknown_fields=True):
    offsets_ns: list[Annotated[int, msgspec.Meta(ge=0, lt=2**62)]]
    values: list[list[float | None]]


class TelemetryDecoder(_PlainDecoder):
    """``{"offsets_ns": [rows], "values": [[row] ...]}``; see `Encoding`."""

    max_bytes = MAX_TELEMETRY_BYTES
    _parser = msgspec.json.Decoder(_Rows)

    def _read(self, content: bytes) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
        channels = len(self._info.encoding.channels)
        try:
            block = self._parser.decode(content)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._broken(f"is not JSON of offsets_ns and values ({error})") from error
        rows = block.values
        if not 0 < len(rows) == len(block.offsets_ns) <= MAX_ROWS:
            raise self._broken(f"does not hold 1 to {MAX_ROWS} rows, each with an offset")
        offsets_ns = np.array(block.offsets_ns, dtype=np.int64)
        if offsets_ns[-1] != 0 or (offsets_ns[1:] > offsets_ns[:-1]).any():
            raise self._broken("has rows whose time runs backwards, or a last one that is not at 0")
        if any(len(row) != channels for row in rows):
            raise self._broken(f"has rows without exactly {channels} values")
        exact = np.array(rows, dtype=np.float64)  # numpy makes NaN of None, which JSON cannot say itself
        valid = ~np.isnan(exact)
        with np.errstate(over="ignore"):
            values = (np.where(valid, exact, 0.0) + 0.0).astype(np.float32)  # -0.0 becomes 0.0
        if not np.isfinite(values).all():
            raise self._broken("has a value that float32 cannot hold")
        return offsets_ns, values, valid


class TextDecoder(_PlainDecoder):
    """One line of UTF-8."""

    max_bytes = MAX_TEXT_BYTES

    def _read(self, content: bytes) -> str:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._broken(f"is no UTF-8 at byte {error.start}") from error
