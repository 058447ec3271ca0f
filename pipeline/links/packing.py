"""Messages to their form between processes; see `pipeline.links.wire`."""

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
    LAYOUT,
    MAGIC,
    MAX_CHUNKS,
    MAX_DECISION_BYTES,
    MAX_ENGINE_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_TEXT_BYTES,
    NO_ENVELOPE,
    PROGRESS,
    RECORDING,
    STREAM_BYTES,
    TELEMETRY,
    TEXT,
    TOKENS,
    Buffer,
    Envelope,
)
from pipeline.messages import (
    Announcement,
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

_UINT8, _INT16, _INT64, _FLOAT32, _BOOL = (np.dtype(name) for name in ("uint8", "int16", "int64", "float32", "bool"))


def _stream_bytes(name: str) -> bytes:
    raw = name.encode()
    if len(raw) > STREAM_BYTES or b"\0" in raw:
        raise LinkError(f"stream {name!r}: a name on a link has at most {STREAM_BYTES} bytes of UTF-8 and no NUL; shorten it")
    return raw


def _array(array: np.ndarray[Any, Any], dtype: np.dtype[Any], dims: int, what: str) -> np.ndarray[Any, Any]:
    if (array.dtype is not dtype and array.dtype != dtype) or array.ndim != dims:
        raise LinkError(f"{what}: expected {dtype} with {dims} dimensions, found {array.dtype} {list(array.shape)}")
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def encode(message: Message, envelope: Envelope = NO_ENVELOPE) -> tuple[bytes, list[Buffer]]:
    """Return the packed `WireHeader` and the payload's buffers, in order. Arrays are not copied unless they are not contiguous.

    Raises `LinkError` when the message cannot travel: a wrong dtype or dimension, a name, text or number beyond its bounds.
    """
    packed, buffers, _ = encode_sized(message, *envelope)
    return packed, buffers


def encode_sized(message: Message, sender: int, start_ns: int, number: int) -> tuple[bytes, list[Buffer], int]:
    """`encode` for a link that is in a hurry: the envelope in parts, and how many bytes the buffers have together."""
    encoder = _ENCODERS.get(type(message))
    if encoder is None:
        raise LinkError(f"a {type(message).__name__} cannot travel over a link; send one of pipeline.messages.Message")
    try:
        kind, announcement_kind, stream, numbers, shape, buffers = encoder(message)
        name = _stream_bytes(stream)
    except UnicodeEncodeError as error:
        raise LinkError(
            f"{type(message).__name__}: its text is not Unicode ({error}); decode it with errors='replace'"
        ) from error
    size = 0
    for buffer in buffers:
        size += buffer.nbytes if isinstance(buffer, np.ndarray) else len(buffer)
    if size > MAX_PAYLOAD_BYTES:
        raise LinkError(f"{type(message).__name__} of {size} bytes: at most {MAX_PAYLOAD_BYTES} travel over a link")
    try:
        packed = LAYOUT.pack(MAGIC, kind, announcement_kind, size, sender, start_ns, number, name, *numbers, *shape)
    except struct.error as error:
        raise LinkError(f"{type(message).__name__} of {stream!r}: a number does not fit its field ({error})") from error
    return packed, buffers, size


_Parts = tuple[int, int, str, tuple[int, ...], tuple[int, int, int, int], list[Buffer]]
_NO_SHAPE: Final = (0, 0, 0, 0)
_ZEROS: Final = (0,) * 14


def _numbers(h: Header, watermark: int = 0, decode: int = 0) -> tuple[int, ...]:
    times = (h.capture_ns, h.receive_ns, h.publish_ns, h.span_ns)
    return (h.epoch, h.seq, *times, watermark, 0, decode, 0, 0, h.delay_ns, 0, 0)


def _encode_announcement(message: Announcement) -> _Parts:
    header = message.header
    return ANNOUNCEMENT, int(message.kind), header.stream, _numbers(header, message.watermark_ns), _NO_SHAPE, []


def _encode_frame(message: Frame) -> _Parts:
    image = _array(message.image_hwc, _UINT8, 3, "frame")
    height, width, colours = image.shape
    return (
        FRAME,
        0,
        message.header.stream,
        _numbers(message.header, decode=message.decode_ns),
        (height, width, colours, 0),
        [image],
    )


def _encode_audio(message: AudioBlock) -> _Parts:
    pcm = _array(message.pcm, _INT16, 1, "audio block")
    return AUDIO, 0, message.header.stream, _numbers(message.header, decode=message.decode_ns), (len(pcm), 0, 0, 0), [pcm]


def _encode_telemetry(message: TelemetryBlock) -> _Parts:
    times = _array(message.times_ns, _INT64, 1, "telemetry times")
    values = _array(message.values, _FLOAT32, 2, "telemetry values")
    valid = _array(message.valid, _BOOL, 2, "telemetry validity")
    rows, channels = values.shape
    if times.shape != (rows,) or valid.shape != values.shape:
        raise LinkError(
            f"telemetry block: times {times.shape}, values {values.shape}, valid {valid.shape} do not belong together"
        )
    numbers = _numbers(message.header, decode=message.decode_ns)
    return TELEMETRY, 0, message.header.stream, numbers, (rows, channels, 0, 0), [times, values, valid]


def _encode_text(message: TextLine) -> _Parts:
    raw = message.text.encode()
    if len(raw) > MAX_TEXT_BYTES:
        raise LinkError(f"text of {len(raw)} bytes: a line has at most {MAX_TEXT_BYTES}")
    return TEXT, 0, message.header.stream, _numbers(message.header, decode=message.decode_ns), (len(raw), 0, 0, 0), [raw]


def _encode_recording(message: Recording) -> _Parts:
    chunks = message.chunks
    if len(chunks) > MAX_CHUNKS:
        raise LinkError(f"recording of {len(chunks)} chunks: at most {MAX_CHUNKS} travel together")
    sizes = struct.pack(f"={len(chunks)}Q", *map(len, chunks))
    header = message.announcement.header
    numbers = _numbers(header, message.announcement.watermark_ns)
    return RECORDING, int(message.announcement.kind), header.stream, numbers, (len(chunks), 0, 0, 0), [sizes, *chunks]


def _encode_tokens(message: Tokens) -> _Parts:
    values = _array(message.values, _FLOAT32, 2, "tokens")
    engine = message.engine.encode()
    if len(engine) > MAX_ENGINE_BYTES:
        raise LinkError(f"tokens: an engine's name of {len(engine)} bytes; at most {MAX_ENGINE_BYTES} travel over a link")
    numbers = (
        *_numbers(message.header)[:7], message.window_end_ns, message.decode_ns, message.encode_start_ns, message.encode_ns,
        message.header.delay_ns, message.decoded_ns, message.taken_ns,
    )  # fmt: skip
    buffers: list[Buffer] = [values, engine] if engine else [values]
    return TOKENS, 0, message.header.stream, numbers, (values.shape[0], values.shape[1], len(engine), 0), buffers


def _encode_progress(message: Progress) -> _Parts:
    return PROGRESS, 0, message.stage, (0, message.count, message.event_ns, *_ZEROS[3:]), _NO_SHAPE, []


def _encode_decision(message: Decision) -> _Parts:
    for head, output in message.outputs.items():
        if not np.isfinite(_array(output, _FLOAT32, 1, f"decision {message.seq}, output {head!r}")).all():
            raise LinkError(f"decision {message.seq}: output {head!r} is {output.tolist()}; outputs must be finite numbers")
    try:
        raw = _pack_decision(message)
    except OverflowError as error:
        raise LinkError(f"decision {message.seq}: a number does not fit 64 bits ({error})") from error
    if len(raw) > MAX_DECISION_BYTES:
        raise LinkError(f"decision {message.seq} of {len(raw)} bytes: at most {MAX_DECISION_BYTES} travel over a link")
    return DECISION, 0, "", _ZEROS, (len(raw), 0, 0, 0), [raw]


_pack_decision = msgspec.msgpack.Encoder(enc_hook=np.ndarray.tobytes).encode

_ENCODERS: Final[dict[type, Callable[[Any], _Parts]]] = {
    Announcement: _encode_announcement,
    Frame: _encode_frame,
    AudioBlock: _encode_audio,
    TelemetryBlock: _encode_telemetry,
    TextLine: _encode_text,
    Recording: _encode_recording,
    Tokens: _encode_tokens,
    Progress: _encode_progress,
    Decision: _encode_decision,
}


def to_bytes(message: Message, envelope: Envelope = NO_ENVELOPE) -> bytes:
    """One message as one block of bytes: header, then payload."""
    header, buffers = encode(message, envelope)
    return b"".join([header, *(buffer.tobytes() if isinstance(buffer, np.ndarray) else buffer for buffer in buffers)])
