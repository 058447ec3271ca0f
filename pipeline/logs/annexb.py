"""H.264 and HEVC packets from length prefixes (as in MP4) to start codes (Annex B, as viewers want) and back, exactly.

A start code is as long as the usual prefix, so only those four bytes of each unit change, and each key frame gets the
parameter sets before it. What could not be turned back exactly is refused; the log then keeps the packet as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_START_CODE = b"\0\0\0\1"
_PREFIX_BYTES = len(_START_CODE)
_H264_KEY_TYPES = frozenset({5})
_HEVC_KEY_TYPES = frozenset(range(16, 24))


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSets:
    """A stream's parameter sets, with start codes, and how to know its key frames."""

    annexb: bytes
    hevc: bool

    def is_key(self, unit: bytes) -> bool:
        """Whether a unit begins a key frame."""
        if self.hevc:
            return (unit[0] >> 1) & 0x3F in _HEVC_KEY_TYPES
        return unit[0] & 0x1F in _H264_KEY_TYPES


def parameter_sets(codec: str, extradata: bytes) -> ParameterSets | None:
    """Those of an ``avcC`` or ``hvcC`` record of MP4 with four-byte prefixes; None for anything else."""
    if codec not in ("av:h264", "av:hevc") or extradata[:1] != b"\1":
        return None
    hevc = codec == "av:hevc"
    try:
        if extradata[21 if hevc else 4] & 3 != _PREFIX_BYTES - 1:
            return None
        units = list(_hvcc_units(extradata) if hevc else _avcc_units(extradata))
    except (IndexError, struct.error):
        return None
    return ParameterSets(annexb=b"".join(_START_CODE + unit for unit in units), hevc=hevc)


def to_annexb(packet: bytes, sets: ParameterSets) -> bytes | None:
    """The packet with start codes, or None when `to_prefixed` would not give the packet again."""
    units: list[bytes] = []
    position = 0
    while position < len(packet):
        length = int.from_bytes(packet[position : position + _PREFIX_BYTES], "big")
        position += _PREFIX_BYTES + length
        if length == 0 or position > len(packet):
            return None
        units.append(packet[position - length : position])
    key = any(sets.is_key(unit) for unit in units)
    data = (sets.annexb if key else b"") + b"".join(_START_CODE + unit for unit in units)
    return data if to_prefixed(data, sets) == packet else None


def to_prefixed(data: bytes, sets: ParameterSets) -> bytes:
    """The packet of which `to_annexb` made `data`. Raises ValueError when it cannot have."""
    if sets.annexb and data.startswith(sets.annexb):
        data = data[len(sets.annexb) :]
    before, *units = data.split(_START_CODE)
    if before:
        raise ValueError("the video packet does not begin with a start code")
    return b"".join(len(unit).to_bytes(_PREFIX_BYTES, "big") + unit for unit in units)


def _avcc_units(record: bytes) -> Iterator[bytes]:
    position = 5
    for mask in (0x1F, 0xFF):
        count = record[position] & mask
        position += 1
        for _ in range(count):
            (length,) = struct.unpack_from(">H", record, position)
            yield record[position + 2 : position + 2 + length]
            position += 2 + length


def _hvcc_units(record: bytes) -> Iterator[bytes]:
    position = 23
    for _ in range(record[22]):
        (count,) = struct.unpack_from(">H", record, position + 1)
        position += 3
        for _ in range(count):
            (length,) = struct.unpack_from(">H", record, position)
            yield record[position + 2 : position + 2 + length]
            position += 2 + length
