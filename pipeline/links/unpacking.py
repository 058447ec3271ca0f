"""Messages from their form between processes, checked before they are believed; see `pipeline.links.wire`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np

from pipeline.links.base import LinkError
from pipeline.links.wire import (
    ANNOUNCEMENT,
    AUDIO,
    DECISION,
    FRAME,
    HEADER_BYTES,
    LAYOUT,
    MAGIC,
    MAX_CHUNKS,
    MAX_DECISION_BYTES,
    MAX_ENGINE_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_TEXT_BYTES,
    PROGRESS,
    RECORDING,
    TELEMETRY,
    TEXT,
    TOKENS,
    Buffer,
    Envelope,
)
from pipeline.messages import (
    Announcement,
    AnnouncementKind,
    AudioBlock,
    Decision,
    Frame,
    Header,
    Message,
    Progress,
    Recording,
    TelemetryBlock,
    TextLine,
    Tokens,
)

_ANNOUNCEMENT_KINDS: Final = {int(kind): kind for kind in AnnouncementKind}
_UINT8, _INT16, _INT64, _FLOAT32 = (np.dtype(name) for name in ("uint8", "int16", "int64", "float32"))


def decode(header: Buffer, payload: memoryview) -> Message:
    """Read one message. ``payload`` (flat bytes) may be longer than the header says: memory is handed out in whole words.

    Arrays are read-only views into ``payload``. Raises `LinkError`, and nothing else, on bytes that are not a message.
    """
    message, _ = decode_with_envelope(header, payload)
    return message


def decode_with_envelope(header: Buffer, payload: memoryview) -> tuple[Message, Envelope]:
    """`decode`, and who sent it."""
    try:
        fields = LAYOUT.unpack(header)
    except struct.error as error:
        raise LinkError(f"wire header: expected {HEADER_BYTES} bytes ({error})") from error
    magic, kind, announcement_kind, size, sender, start_ns, count, stream = fields[:8]
    if magic != MAGIC:
        raise LinkError(f"wire magic 0x{magic:08x} is not 0x{MAGIC:08x}: the sender is another version or no part of this run")
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise LinkError(f"wire kind {kind}: not a kind of message this version knows")
    if size > payload.nbytes or size > MAX_PAYLOAD_BYTES:
        raise LinkError(f"wire payload: the header says {size} bytes, {payload.nbytes} are there")
    try:
        name = _names.get(stream) or _known_name(stream)
        message = decoder(name, announcement_kind, fields[8:22], fields[22:], payload[:size])
    except (ValueError, RecursionError, OverflowError) as error:
        raise LinkError(f"wire {decoder.__name__.removeprefix('_decode_')}: {error}") from error
    return message, Envelope(sender, start_ns, count)


_names: dict[bytes, str] = {}
"""Streams that messages were of, padded as they lie in headers."""
_MAX_NAMES: Final = 1024


def _known_name(padded: bytes) -> str:
    name = padded.rstrip(b"\0").decode()
    if len(_names) < _MAX_NAMES:  # a sender that is no part of this run must not fill the memory with names
        _names[padded] = name
    return name


_Numbers = tuple[int, ...]
_Shape = tuple[int, ...]


def _header(stream: str, numbers: _Numbers) -> Header:
    epoch, seq, capture, receive, publish, span = numbers[:6]
    return Header(
        stream=stream,
        epoch=epoch,
        seq=seq,
        capture_ns=capture,
        receive_ns=receive,
        publish_ns=publish,
        span_ns=span,
        delay_ns=numbers[11],
    )


def _expect(payload: memoryview, size: int, what: str) -> None:
    if payload.nbytes != size:
        raise LinkError(f"wire {what}: its shape needs {size} payload bytes, the header says {payload.nbytes}")


def _view(payload: memoryview, dtype: Any, count: int, offset: int = 0) -> np.ndarray[Any, Any]:
    if not count:
        array = np.empty(0, dtype)
    else:
        array = np.frombuffer(payload, dtype, count, offset)
        if payload.readonly:
            return array
    array.flags.writeable = False
    return array


def _announcement(stream: str, kind: int, numbers: _Numbers) -> Announcement:
    known = _ANNOUNCEMENT_KINDS.get(kind)
    if known is None:
        raise LinkError(f"wire announcement kind {kind}: not one of {sorted(_ANNOUNCEMENT_KINDS)}")
    return Announcement(header=_header(stream, numbers), kind=known, watermark_ns=numbers[6])


def _decode_announcement(stream: str, kind: int, numbers: _Numbers, shape: _Shape, payload: memoryview) -> Announcement:
    _expect(payload, 0, "announcement")
    return _announcement(stream, kind, numbers)


def _decode_frame(stream: str, kind: int, numbers: _Numbers, shape: _Shape, payload: memoryview) -> Frame:
    height, width, colours, _ = shape
    count = height * width * colours
    _expect(payload, count, "frame")
    image = _view(payload, _UINT8, count).reshape(height, width, colours)
    return Frame(header=_header(stream, numbers), image_hwc=image, decode_ns=numbers[8])


def _decode_audio(stream: str, kind: int, numbers: _Numbers, shape: _Shape, payload: memoryview) -> AudioBlock:
    _expect(payload, 2 * shape[0], "audio block")
    return AudioBlock(header=_header(stream, numbers), pcm=_view(payload, _INT16, shape[0]), decode_ns=numbers[8])


def _decode_telemetry(stream: str, kind: int, numbers: _Numbers, shape: _Shape, payload: memoryview) -> TelemetryBlock:
    rows, channels = shape[:2]
    cells = rows * channels
    _expect(payload, 8 * rows + 5 * cells, "telemetry block")
    valid = _view(payload, _UINT8, cells, 8 * rows + 4 * cells)
    if cells and valid.max() > 1:
        raise LinkError(f"wire telemetry validity: {valid.max()} is neither 0 nor 1")
    return TelemetryBlock(
        header=_header(stream, numbers),
        times_ns=_view(payload, _INT64, rows),
        values=_view(payload, _FLOAT32, cells, 8 * rows).reshape(rows, channels),
        valid=valid.view(np.bool_).reshape(rows, channels),
        decode_ns=numbers[8],
    )


def _decode_text(stream: str, kind: int, numbers: _Numbers, shape: _Shape, payload: memoryview) -> TextLine:
    _expect(payload, shape[0], "text line")
    if payload.nbytes > MAX_TEXT_BYTES:
        raise LinkError(f"wire text line of {payload.nbytes} bytes: at most {MAX_TEXT_BYTES}")
    return TextLine(header=_header(stream, numbers), text=str(payload, "utf-8"), decode_ns=numbers[8])


def _decode_recording(stream: str, kind: int, numbers: _Numbers, shape: _Shape, payload: memoryview) -> Recording:
    count = shape[0]
    if count > MAX_CHUNKS or payload.nbytes < 8 * count:
        raise LinkError(
            f"wire recording of {count} chunks in {payload.nbytes} bytes: at most {MAX_CHUNKS}, with 8 bytes each for its size"
        )
    sizes = struct.unpack_from(f"={count}Q", payload)
    _expect(payload, 8 * count + sum(sizes), "recording")
    chunks, offset = [], 8 * count
    for size in sizes:
        chunks.append(bytes(payload[offset : offset + size]))
        offset += size
    return Recording(announcement=_announcement(stream, kind, numbers), chunks=tuple(chunks))


def _decode_tokens(stream: str, kind: int, numbers: _Numbers, shape: _Shape, payload: memoryview) -> Tokens:
    rows, channels, named = shape[:3]
    size = 4 * rows * channels
    if named > MAX_ENGINE_BYTES:
        raise LinkError(f"wire tokens: an engine's name of {named} bytes; at most {MAX_ENGINE_BYTES}")
    _expect(payload, size + named, "tokens")
    return Tokens(
        header=_header(stream, numbers),
        window_end_ns=numbers[7],
        values=_view(payload, _FLOAT32, rows * channels).reshape(rows, channels),
        decode_ns=numbers[8],
        decoded_ns=numbers[12],
        taken_ns=numbers[13],
        encode_start_ns=numbers[9],
        encode_ns=numbers[10],
        engine=str(payload[size:], "utf-8") if named else "",
    )


def _decode_progress(stream: str, kind: int, numbers: _Numbers, shape: _Shape, payload: memoryview) -> Progress:
    _expect(payload, 0, "progress")
    return Progress(stage=stream, event_ns=numbers[2], count=numbers[1])


def _decode_decision(stream: str, kind: int, numbers: _Numbers, shape: _Shape, payload: memoryview) -> Decision:
    _expect(payload, shape[0], "decision")
    if payload.nbytes > MAX_DECISION_BYTES:
        raise LinkError(f"wire decision of {payload.nbytes} bytes: at most {MAX_DECISION_BYTES}")
    try:
        return _unpack_decision(payload)
    except msgspec.DecodeError as error:
        raise LinkError(f"wire decision: {error}") from error


def _output(_type: Any, raw: Any) -> np.ndarray[Any, Any]:
    """A head's probabilities: float32, one-dimensional. Bytes read from MessagePack are a copy, and read-only."""
    return np.frombuffer(raw, _FLOAT32)


_unpack_decision = msgspec.msgpack.Decoder(Decision, dec_hook=_output).decode

_DECODERS: Final[dict[int, Callable[[str, int, _Numbers, _Shape, memoryview], Message]]] = {
    ANNOUNCEMENT: _decode_announcement,
    FRAME: _decode_frame,
    AUDIO: _decode_audio,
    TELEMETRY: _decode_telemetry,
    TEXT: _decode_text,
    RECORDING: _decode_recording,
    TOKENS: _decode_tokens,
    PROGRESS: _decode_progress,
    DECISION: _decode_decision,
}


def from_bytes(block: Buffer) -> Message:
    """Read what `to_bytes` wrote; arrays are views into ``block``, which lives as long as they do. Raises `LinkError`."""
    return from_bytes_with_envelope(block)[0]


def from_bytes_with_envelope(block: Buffer) -> tuple[Message, Envelope]:
    """`from_bytes`, and who sent it."""
    view = memoryview(block).cast("B").toreadonly()
    return decode_with_envelope(view[:HEADER_BYTES], view[HEADER_BYTES:])
