"""The one form that messages have between processes: a fixed header and a payload.

The header carries every scalar; arrays, text and chunks lie in the payload, one after another, in the machine's byte order (both
ends are on one host, or on hosts of the same kind: the magic tells). A decision is MessagePack, its outputs as bytes. Whatever
arrives is checked before it is believed.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any, Final, NamedTuple

Buffer = Any
"""Something that exports contiguous bytes: bytes, memoryview, a C-contiguous array."""

MAGIC: Final = 0x43484D33
"""``CHM3``: this version of the wire form, in this machine's byte order."""
MAX_PAYLOAD_BYTES: Final = 2**30
MAX_TEXT_BYTES: Final = 4096
MAX_CHUNKS: Final = 4096
MAX_ENGINE_BYTES: Final = 256
MAX_DECISION_BYTES: Final = 2**20
STREAM_BYTES: Final = 32


class WireHeader(ctypes.Structure):
    """The fixed part of a message, as it lies in shared memory. `LAYOUT` packs the same bytes."""

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


LAYOUT: Final = struct.Struct(f"=IHHQQqQ{STREAM_BYTES}s14q4I")
HEADER_BYTES: Final = LAYOUT.size
assert ctypes.sizeof(WireHeader) == HEADER_BYTES
assert HEADER_BYTES % 8 == 0

ANNOUNCEMENT, FRAME, AUDIO, TELEMETRY, TEXT, RECORDING, TOKENS, PROGRESS, DECISION = range(1, 10)


class Envelope(NamedTuple):
    """Who sent a message over an edge and the how-manieth it was: gaps in ``number`` are what was overwritten.

    ``sender`` names one incarnation of the sending end, ``sender_start_ns`` is when it sent its first message.
    """

    sender: int = 0
    sender_start_ns: int = 0
    number: int = 0


NO_ENVELOPE: Final = Envelope()
