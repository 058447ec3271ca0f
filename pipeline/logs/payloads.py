"""How samples lie in a log: the two-way map between a chunk's bytes and a well-known message.

Images, video, sound, lines and positions use Foxglove's protobuf schemas, so that Foxglove and Rerun open a log as it
is; telemetry is JSON. Packing loses nothing: `Payload.unpack` gives the decoder's bytes exactly as `pack` got them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.logs.annexb import parameter_sets, to_annexb, to_prefixed
from pipeline.messages import Header
from pipeline.sources.base import StreamInfo

_VIDEO_FORMATS = {"av:h264": "h264", "av:hevc": "h265", "av:vp9": "vp9", "av:av1": "av1"}
_IMAGE_FORMATS = {"jpeg": "jpeg", "png": "png", "av:mjpeg": "jpeg"}
_UNCONVERTED = "; length-prefixed"
"""Ends the `format` of a video packet without an exact form with start codes: kept, though no viewer shows it."""
_VERBATIM = "base64:"
"""Begins a text line's `file` field when its bytes are not UTF-8, so that even those come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """How one stream's chunks lie in its channel.

    ``schema`` names a JSON schema of `JSON_SCHEMAS`, or is "" when ``protobuf`` is the message class or the bytes are
    bare. ``pack(chunk, header)`` gives the message's data, ``unpack(data)`` the chunk again, bit for bit; it raises
    ValueError (or protobuf's DecodeError) for data that `pack` cannot have made.
    """

    message_encoding: str
    schema: str
    protobuf: Any = None
    pack: Callable[[bytes, Header], bytes]
    unpack: Callable[[memoryview], bytes]


def payload_for(info: StreamInfo) -> Payload:
    """The payload format of a stream, chosen by its codec; an unknown codec's chunks are kept as bare bytes."""
    codec = info.encoding.codec
    if codec in _VIDEO_FORMATS:
        return _video(info, _VIDEO_FORMATS[codec])
    if codec in _IMAGE_FORMATS:
        return _image(info, _IMAGE_FORMATS[codec])
    if codec == "rgb8":
        return _raw_image(info)
    if codec == "pcm-s16":
        return _audio(info)
    if codec == "text":
        return _text(info)
    if codec == "telemetry-json":
        return Payload(message_encoding="json", schema="chiasm.TelemetryBlock", pack=_as_is, unpack=bytes)
    return Payload(message_encoding="application/octet-stream", schema="", pack=_as_is, unpack=bytes)


def _as_is(chunk: bytes, _header: Header) -> bytes:
    return chunk


def stamp(message: Any, time_ns: int) -> None:
    """Set a protobuf message's `timestamp`; times before zero are not representable there and become zero."""
    message.timestamp.seconds, message.timestamp.nanos = divmod(max(time_ns, 0), 1_000_000_000)


def _serialised(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _data_field(message_class: Any) -> Callable[[memoryview], bytes]:
    def unpack(data: memoryview) -> bytes:
        chunk: bytes = message_class.FromString(bytes(data)).data
        return chunk

    return unpack


def _video(info: StreamInfo, video_format: str) -> Payload:
    from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo

    sets = parameter_sets(info.encoding.codec, info.encoding.extradata)

    def pack(chunk: bytes, header: Header) -> bytes:
        message = CompressedVideo(frame_id=info.stream, data=chunk, format=video_format)
        if sets is not None:
            annexb = to_annexb(chunk, sets)
            if annexb is None:
                message.format = video_format + _UNCONVERTED
            else:
                message.data = annexb
        stamp(message, header.capture_ns)
        return _serialised(message)

    def unpack(data: memoryview) -> bytes:
        message = CompressedVideo.FromString(bytes(data))
        chunk: bytes = message.data
        return chunk if sets is None or message.format.endswith(_UNCONVERTED) else to_prefixed(chunk, sets)

    return Payload(message_encoding="protobuf", schema="", protobuf=CompressedVideo, pack=pack, unpack=unpack)


def _image(info: StreamInfo, image_format: str) -> Payload:
    from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage

    def pack(chunk: bytes, header: Header) -> bytes:
        message = CompressedImage(frame_id=info.stream, data=chunk, format=image_format)
        stamp(message, header.capture_ns)
        return _serialised(message)

    return Payload(
        message_encoding="protobuf", schema="", protobuf=CompressedImage, pack=pack, unpack=_data_field(CompressedImage)
    )


def _raw_image(info: StreamInfo) -> Payload:
    from foxglove_schemas_protobuf.RawImage_pb2 import RawImage

    width, height = info.encoding.width, info.encoding.height

    def pack(chunk: bytes, header: Header) -> bytes:
        message = RawImage(frame_id=info.stream, width=width, height=height, step=3 * width, encoding="rgb8", data=chunk)
        stamp(message, header.capture_ns)
        return _serialised(message)

    return Payload(message_encoding="protobuf", schema="", protobuf=RawImage, pack=pack, unpack=_data_field(RawImage))


def _audio(info: StreamInfo) -> Payload:
    from foxglove_schemas_protobuf.RawAudio_pb2 import RawAudio

    rate = info.encoding.sample_rate_hz

    def pack(chunk: bytes, header: Header) -> bytes:
        message = RawAudio(data=chunk, format="pcm-s16", sample_rate=rate, number_of_channels=1)
        stamp(message, header.capture_ns - header.span_ns)  # Foxglove's stamp is that of the block's start
        return _serialised(message)

    return Payload(message_encoding="protobuf", schema="", protobuf=RawAudio, pack=pack, unpack=_data_field(RawAudio))


def _text(info: StreamInfo) -> Payload:
    from foxglove_schemas_protobuf.Log_pb2 import Log

    def pack(chunk: bytes, header: Header) -> bytes:
        message = Log(level=Log.INFO, name=info.stream)
        try:
            message.message = chunk.decode("utf-8")
        except UnicodeDecodeError:
            message.message = chunk.decode("utf-8", errors="replace")
            message.file = _VERBATIM + base64.b64encode(chunk).decode()
        stamp(message, header.capture_ns)
        return _serialised(message)

    def unpack(data: memoryview) -> bytes:
        message = Log.FromString(bytes(data))
        if message.file.startswith(_VERBATIM):
            return base64.b64decode(message.file[len(_VERBATIM) :], validate=True)
        text: str = message.message
        return text.encode("utf-8")

    return Payload(message_encoding="protobuf", schema="", protobuf=Log, pack=pack, unpack=unpack)


def location_fix(info: StreamInfo, chunk: bytes, capture_ns: int) -> bytes | None:
    """A `foxglove.LocationFix` of a telemetry block's last row that has a position; None when none has."""
    from foxglove_schemas_protobuf.LocationFix_pb2 import LocationFix

    channels = info.encoding.channels
    latitude, longitude = channels.index("latitude_deg"), channels.index("longitude_deg")
    altitude = channels.index("altitude_m") if "altitude_m" in channels else None
    try:
        block = json.loads(chunk)
        for offset, row in zip(reversed(block["offsets_ns"]), reversed(block["values"]), strict=True):
            if row[latitude] is None or row[longitude] is None:
                continue
            fix = LocationFix(frame_id=info.stream, latitude=row[latitude], longitude=row[longitude])
            if altitude is not None and row[altitude] is not None:
                fix.altitude = row[altitude]
            stamp(fix, capture_ns + offset)
            return _serialised(fix)
    except (ValueError, KeyError, TypeError, IndexError):
        return None  # a broken block is for its decoder to refuse, and it is in the log as it came
    return None


def has_location(info: StreamInfo) -> bool:
    """Whether a stream's telemetry has a position."""
    return {"latitude_deg", "longitude_deg"} <= set(info.encoding.channels)
