"""The one form that messages have between processes: a fixed header and a payload.

The header carries every scalar; arrays, text and chunks lie in the payload, one after another, in the machine's byte order (both
ends are on one host, or on hosts of the same kind: the magic tells). Whatever arrives is checked before it is believed.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.decision_json import decision_from_json, decision_to_json
from pipeline.links.base import LinkError
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

Buffer = Any
"""Something that exports contiguous bytes: bytes, memoryview, a C-contiguous array."""

MAGIC: Final = 0x43484D32
"""``CHM1``: this version of the wire form, in this machine's byte order."""
MAX_PAYLOAD_BYTES: Final = 2**30
MAX_TEXT_BYTES: Final = 4096
MAX_CHUNKS: Final = 4096
MAX_ENGINE_BYTES: Final = 256
MAX_DECISION_BYTES: Final = 2**20
STREAM_BYTES: Final = 32


class WireHeader(ctypes.Structure):
    """The fixed part of a message, as it lies in shared memory. `_LAYOUT` packs the same bytes."""

    _fields_ = (
        ("magic", ctypes.c_uint32),
        ("kind", ctypes.c_uint16),
        ("announcement_kind", ctypes.c_uint16),
        ("payload_bytes", ctypes.c_uint64),
        ("sender", ctypes.c_uint64),
        ("sender_start_ns", ctypes.c_int64),
        ("count", ctypes.c_uint64),
        ("stream", ctypes.c_char * STREAM_BYTES),
        ("epoch", ctypes.c_int64),
        ("seq", ctypes.c_int64),
        ("capture_ns", ctypes.c_int64),
        ("receive_ns", ctypes.c_int64),
        ("publish_ns", ctypes.c_int64),
        ("span_ns", ctypes.c_int64),
        ("watermark_ns", ctypes.c_int64),
        ("window_end_ns", ctypes.c_int64),
        ("decode_ns", ctypes.c_int64),
        ("encode_start_ns", ctypes.c_int64),
        ("encode_ns", ctypes.c_int64),
        ("delay_ns", ctypes.c_int64),
        ("decoded_ns", ctypes.c_int64),
        ("taken_ns", ctypes.c_int64),
        ("shape", ctypes.c_uint32 * 4),
    )


_LAYOUT: Final = struct.Struct(f"=IHHQQqQ{STREAM_BYTES}s14q4I")
HEADER_BYTES: Final = _LAYOUT.size
assert ctypes.sizeof(WireHeader) == HEADER_BYTES
assert HEADER_BYTES % 8 == 0

_ANNOUNCEMENT, _FRAME, _AUDIO, _TELEMETRY, _TEXT, _RECORDING, _TOKENS, _PROGRESS, _DECISION = range(1, 10)
_ANNOUNCEMENT_KINDS: Final = {int(kind): kind for kind in AnnouncementKind}


class Envelope(NamedTuple):
    """Who sent a message over an edge and the how-manieth it was: gaps in ``number`` are what was overwritten.

    ``sender`` names one incarnation of the sending end, ``sender_start_ns`` is when it sent its first message.
    """

    sender: int = 0
    sender_start_ns: int = 0
    number: int = 0


_NO_ENVELOPE: Final = Envelope()


# ---- encode -----------------------------------------------------------------------------------------------------------


def _stream_bytes(name: str) -> bytes:
    raw = name.encode()
    if len(raw) > STREAM_BYTES or b"\0" in raw:
        raise LinkError(f"stream {name!r}: a name on a link has at most {STREAM_BYTES} bytes of UTF-8 and no NUL; shorten it")
    return raw


def _array(array: np.ndarray[Any, Any], dtype: str, dims: int, what: str) -> np.ndarray[Any, Any]:
    if array.dtype != dtype or array.ndim != dims:
        raise LinkError(f"{what}: expected {dtype} with {dims} dimensions, found {array.dtype} {list(array.shape)}")
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def encode(message: Message, envelope: Envelope = _NO_ENVELOPE) -> tuple[bytes, list[Buffer]]:
    """Return the packed `WireHeader` and the payload's buffers, in order. Arrays are not copied unless they are not contiguous.

    Raises `LinkError` when the message cannot travel: a wrong dtype or dimension, a name, text or number beyond its bounds.
    """
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
        packed = _LAYOUT.pack(
            MAGIC, kind, announcement_kind, size, envelope.sender, envelope.sender_start_ns, envelope.number,
            name, *numbers, *shape,
        )  # fmt: skip
    except struct.error as error:
        raise LinkError(f"{type(message).__name__} of {stream!r}: a number does not fit its field ({error})") from error
    return packed, buffers


_Parts = tuple[int, int, str, tuple[int, ...], tuple[int, int, int, int], list[Buffer]]
_NO_SHAPE: Final = (0, 0, 0, 0)
_ZEROS: Final = (0,) * 14


def _numbers(h: Header, watermark: int = 0, decode: int = 0) -> tuple[int, ...]:
    times = (h.capture_ns, h.receive_ns, h.publish_ns, h.span_ns)
    return (h.epoch, h.seq, *times, watermark, 0, decode, 0, 0, h.delay_ns, 0, 0)


def _encode_announcement(message: Announcement) -> _Parts:
    header = message.header
    return _ANNOUNCEMENT, int(message.kind), header.stream, _numbers(header, message.watermark_ns), _NO_SHAPE, []


def _encode_frame(message: Frame) -> _Parts:
    image = _array(message.image_hwc, "uint8", 3, "frame")
    height, width, colours = image.shape
    return (
        _FRAME,
        0,
        message.header.stream,
        _numbers(message.header, decode=message.decode_ns),
        (height, width, colours, 0),
        [image],
    )


def _encode_audio(message: AudioBlock) -> _Parts:
    pcm = _array(message.pcm, "int16", 1, "audio block")
    return _AUDIO, 0, message.header.stream, _numbers(message.header, decode=message.decode_ns), (len(pcm), 0, 0, 0), [pcm]


def _encode_telemetry(message: TelemetryBlock) -> _Parts:
    times = _array(message.times_ns, "int64", 1, "telemetry times")
    values = _array(message.values, "float32", 2, "telemetry values")
    valid = _array(message.valid, "bool", 2, "telemetry validity")
    rows, channels = values.shape
    if times.shape != (rows,) or valid.shape != values.shape:
        raise LinkError(
            f"telemetry block: times {times.shape}, values {values.shape}, valid {valid.shape} do not belong together"
        )
    numbers = _numbers(message.header, decode=message.decode_ns)
    return _TELEMETRY, 0, message.header.stream, numbers, (rows, channels, 0, 0), [times, values, valid]


def _encode_text(message: TextLine) -> _Parts:
    raw = message.text.encode()
    if len(raw) > MAX_TEXT_BYTES:
        raise LinkError(f"text of {len(raw)} bytes: a line has at most {MAX_TEXT_BYTES}")
    return _TEXT, 0, message.header.stream, _numbers(message.header, decode=message.decode_ns), (len(raw), 0, 0, 0), [raw]


def _encode_recording(message: Recording) -> _Parts:
    chunks = message.chunks
    if len(chunks) > MAX_CHUNKS:
        raise LinkError(f"recording of {len(chunks)} chunks: at most {MAX_CHUNKS} travel together")
    sizes = struct.pack(f"={len(chunks)}Q", *map(len, chunks))
    header = message.announcement.header
    numbers = _numbers(header, message.announcement.watermark_ns)
    return _RECORDING, int(message.announcement.kind), header.stream, numbers, (len(chunks), 0, 0, 0), [sizes, *chunks]


def _encode_tokens(message: Tokens) -> _Parts:
    values = _array(message.values, "float32", 2, "tokens")
    engine = message.engine.encode()
    if len(engine) > MAX_ENGINE_BYTES:
        raise LinkError(f"tokens: an engine's name of {len(engine)} bytes; at most {MAX_ENGINE_BYTES} travel over a link")
    numbers = (
        *_numbers(message.header)[:7], message.window_end_ns, message.decode_ns, message.encode_start_ns, message.encode_ns,
        message.header.delay_ns, message.decoded_ns, message.taken_ns,
    )  # fmt: skip
    buffers: list[Buffer] = [values, engine] if engine else [values]
    return _TOKENS, 0, message.header.stream, numbers, (values.shape[0], values.shape[1], len(engine), 0), buffers


def _encode_progress(message: Progress) -> _Parts:
    return _PROGRESS, 0, message.stage, (0, message.count, message.event_ns, *_ZEROS[3:]), _NO_SHAPE, []


def _encode_decision(message: Decision) -> _Parts:
    try:
        raw = decision_to_json(message, with_memory=True).encode()
    except ValueError as error:
        raise LinkError(f"decision {message.seq}: {error}; outputs and receipt must hold finite numbers only") from error
    if len(raw) > MAX_DECISION_BYTES:
        raise LinkError(f"decision {message.seq} of {len(raw)} bytes: at most {MAX_DECISION_BYTES} travel over a link")
    return _DECISION, 0, "", _ZEROS, (len(raw), 0, 0, 0), [raw]


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


# ---- decode -----------------------------------------------------------------------------------------------------------


def decode(header: Buffer, payload: memoryview) -> Message:
    """Read one message. ``payload`` (flat bytes) may be longer than the header says: memory is handed out in whole words.

    Arrays are read-only views into ``payload``. Raises `LinkError`, and nothing else, on bytes that are not a message.
    """
    message, _ = decode_with_envelope(header, payload)
    return message


def decode_with_envelope(header: Buffer, payload: memoryview) -> tuple[Message, Envelope]:
    """`decode`, and who sent it."""
    try:
        fields = _LAYOUT.unpack(header)
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
        name = stream.rstrip(b"\0").decode()
        message = decoder(name, announcement_kind, fields[8:22], fields[22:], payload[:size])
    except (ValueError, RecursionError, OverflowError) as error:
        raise LinkError(f"wire {decoder.__name__.removeprefix('_decode_')}: {error}") from error
    return message, Envelope(sender, start_ns, count)


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
    image = _view(payload, np.uint8, count).reshape(height, width, colours)
    return Frame(header=_header(stream, numbers), image_hwc=image, decode_ns=numbers[8])


def _decode_audio(stream: str, kind: int, numbers: _Numbers, shape: _Shape, payload: memoryview) -> AudioBlock:
    _expect(payload, 2 * shape[0], "audio block")
    return AudioBlock(header=_header(stream, numbers), pcm=_view(payload, np.int16, shape[0]), decode_ns=numbers[8])


def _decode_telemetry(stream: str, kind: int, numbers: _Numbers, shape: _Shape, payload: memoryview) -> TelemetryBlock:
    rows, channels = shape[:2]
    cells = rows * channels
    _expect(payload, 8 * rows + 5 * cells, "telemetry block")
    valid = _view(payload, np.uint8, cells, 8 * rows + 4 * cells)
    if cells and valid.max() > 1:
        raise LinkError(f"wire telemetry validity: {valid.max()} is neither 0 nor 1")
    return TelemetryBlock(
        header=_header(stream, numbers),
        times_ns=_view(payload, np.int64, rows),
        values=_view(payload, np.float32, cells, 8 * rows).reshape(rows, channels),
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
        values=_view(payload, np.float32, rows * channels).reshape(rows, channels),
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
    decision = decision_from_json(bytes(payload))
    for name in ("seq", "reference_ns", "publish_ns", "deadline_ns", "status", "action", "labels", "state", "memory"):
        expected = int if name == "seq" or name.endswith("_ns") else dict if name == "labels" else str
        if type(getattr(decision, name)) is not expected:
            raise LinkError(f"wire decision: {name} is not of type {expected.__name__}")
    for head, output in decision.outputs.items():
        if output.ndim != 1:
            raise LinkError(f"wire decision: output {head!r} is not a list of numbers")
        output.flags.writeable = False
    return decision


_DECODERS: Final[dict[int, Callable[[str, int, _Numbers, _Shape, memoryview], Message]]] = {
    _ANNOUNCEMENT: _decode_announcement,
    _FRAME: _decode_frame,
    _AUDIO: _decode_audio,
    _TELEMETRY: _decode_telemetry,
    _TEXT: _decode_text,
    _RECORDING: _decode_recording,
    _TOKENS: _decode_tokens,
    _PROGRESS: _decode_progress,
    _DECISION: _decode_decision,
}


# ---- in one piece, for the link between hosts -------------------------------------------------------------------------


def to_bytes(message: Message, envelope: Envelope = _NO_ENVELOPE) -> bytes:
    """One message as one block of bytes: header, then payload."""
    header, buffers = encode(message, envelope)
    return b"".join([header, *(buffer.tobytes() if isinstance(buffer, np.ndarray) else buffer for buffer in buffers)])


def from_bytes(block: Buffer) -> Message:
    """Read what `to_bytes` wrote; arrays are views into ``block``, which lives as long as they do. Raises `LinkError`."""
    return from_bytes_with_envelope(block)[0]


def from_bytes_with_envelope(block: Buffer) -> tuple[Message, Envelope]:
    """`from_bytes`, and who sent it."""
    view = memoryview(block).cast("B").toreadonly()
    return decode_with_envelope(view[:HEADER_BYTES], view[HEADER_BYTES:])
