"""GPMF, the telemetry that GoPro cameras write: a strict reader.

Source: https://github.com/gopro/gpmf-parser (the format's documentation). Big endian KLV: 4-byte key, 1-byte type, 1-byte struct
size, 2-byte repeat, then ``size x repeat`` bytes, padded to 4. Type 0 nests. Every length is checked against its parent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_DEPTH = 8
MAX_NODES = 100_000
MAX_PAYLOAD_BYTES = 16 * 2**20
MAX_COMPLEX_ELEMENTS = 256

_DTYPES = {
    "b": ">i1",
    "B": ">u1",
    "s": ">i2",
    "S": ">u2",
    "l": ">i4",
    "L": ">u4",
    "f": ">f4",
    "d": ">f8",
    "j": ">i8",
    "J": ">u8",
    "q": ">i4",  # Q15.16
    "Q": ">i8",  # Q31.32
    "F": ">u4",  # four characters
}
_FIXED_POINT = {"q": 2.0**16, "Q": 2.0**32}
_OPAQUE = frozenset("cUG")
"""Types that are text or bytes: characters, a UTC date, a GUID."""


class GpmfError(Exception):
    """The bytes are not GPMF: what is wrong, and at which byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One KLV at byte ``offset``: ``content`` holds its bytes without padding; ``children`` are a nest's (type NUL)."""

    key: str
    type: str
    size: int
    repeat: int
    offset: int
    content: bytes
    children: tuple[Node, ...] = ()

    def child(self, key: str) -> Node | None:
        """The last child with this key: a stream's later word counts."""
        return next((node for node in reversed(self.children) if node.key == key), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorStream:
    """One ``STRM`` of one payload, in physical units: ``values`` float64 ``[samples, elements]``.

    ``total`` is its ``TSMP``, the count of samples since the recording began (-1 if absent); ``axes`` its ``(ORIN, ORIO)``;
    ``fix`` is a GPS stream's ``GPSF`` (0 none, 2 or 3 dimensions, -1 if absent).
    """

    key: str
    name: str
    units: tuple[str, ...]
    values: NDArray[np.float64]
    total: int = -1
    axes: tuple[str, str] = ("", "")
    fix: int = -1


def parse(payload: bytes) -> tuple[Node, ...]:
    """The KLVs of one payload. Raises GpmfError, and nothing else, for what is broken, too deep or too much."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise GpmfError(f"a payload of {len(payload)} bytes is more than {MAX_PAYLOAD_BYTES}")
    return _Reader(payload).nodes(0, len(payload), 0)


class _Reader:
    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._count = 0

    def nodes(self, start: int, end: int, depth: int) -> tuple[Node, ...]:
        if depth > MAX_DEPTH:
            raise GpmfError(f"byte {start}: nested more than {MAX_DEPTH} deep")
        found = []
        at = start
        while at < end:
            if end - at < 4 or not any(self._payload[at : at + 4]):
                if any(self._payload[at:end]):
                    raise GpmfError(f"byte {at}: {end - at} bytes where a key should be")
                break  # zeros up to the parent's end are padding
            node, at = self._node(at, end, depth)
            found.append(node)
        return tuple(found)

    def _node(self, at: int, end: int, depth: int) -> tuple[Node, int]:
        self._count += 1
        if self._count > MAX_NODES:
            raise GpmfError(f"byte {at}: more than {MAX_NODES} entries")
        if end - at < 8:
            raise GpmfError(f"byte {at}: {end - at} bytes are left, an entry's head has 8")
        key_bytes, type_byte, size, repeat = struct.unpack_from(">4sBBH", self._payload, at)
        if not all(32 <= byte < 127 for byte in key_bytes):
            raise GpmfError(f"byte {at}: {key_bytes!r} is no key of four characters")
        key, length, first = key_bytes.decode("ascii"), size * repeat, at + 8
        after = first + (length + 3) // 4 * 4
        if after > end:
            raise GpmfError(f"byte {at}: {key} claims {length} bytes, but its parent has {end - first} left")
        content = self._payload[first : first + length]
        children = self.nodes(first, first + length, depth + 1) if type_byte == 0 else ()
        node = Node(key=key, type=chr(type_byte), size=size, repeat=repeat, offset=at, content=content, children=children)
        return node, after


def numbers_of(node: Node, complex_type: str = "") -> NDArray[np.float64]:
    """A node's numbers, float64 ``[repeat, elements]``, not scaled; type ``?`` as ``complex_type`` (its ``TYPE``) says.

    Characters and dates inside a complex structure become NaN. Raises GpmfError for other types and sizes that do not fit.
    """
    if node.type == "?":
        return _complex_numbers(node, _expanded(complex_type, node.offset))
    if node.type not in _DTYPES:
        raise GpmfError(f"byte {node.offset}: {node.key} has type {node.type!r}, which is not numeric")
    dtype = np.dtype(_DTYPES[node.type])
    if node.size == 0 or node.size % dtype.itemsize:
        raise GpmfError(
            f"byte {node.offset}: {node.key} has structs of {node.size} bytes, "
            f"no multiple of type {node.type!r}'s {dtype.itemsize}"
        )
    raw = np.frombuffer(node.content, dtype=dtype).reshape(node.repeat, node.size // dtype.itemsize)
    return raw.astype(np.float64) / _FIXED_POINT.get(node.type, 1.0)


def _expanded(complex_type: str, offset: int) -> str:
    """``f[3]B`` to ``fffB``."""
    expanded: list[str] = []
    at = 0
    while at < len(complex_type):
        letter, at, times = complex_type[at], at + 1, 1
        if complex_type[at : at + 1] == "[":
            close = complex_type.find("]", at)
            digits = complex_type[at + 1 : close] if close > at else ""
            if not (digits.isascii() and digits.isdigit() and len(digits) <= 3):
                raise GpmfError(f"byte {offset}: TYPE {complex_type!r} has a bad count")
            times, at = int(digits), close + 1
        expanded += [letter] * times
        if len(expanded) > MAX_COMPLEX_ELEMENTS:
            raise GpmfError(f"byte {offset}: TYPE {complex_type!r} has more than {MAX_COMPLEX_ELEMENTS} elements")
    return "".join(expanded)


def _complex_numbers(node: Node, letters: str) -> NDArray[np.float64]:
    sizes = {"c": "S1", "U": "S16", "G": "S16"}
    fields = []
    for index, letter in enumerate(letters):
        if letter not in _DTYPES and letter not in sizes:
            raise GpmfError(f"byte {node.offset}: {node.key} has TYPE {letters!r} with unknown {letter!r}")
        fields.append((f"f{index}", _DTYPES.get(letter) or sizes[letter]))
    dtype = np.dtype(fields)
    if not letters or dtype.itemsize != node.size:
        raise GpmfError(
            f"byte {node.offset}: {node.key} has structs of {node.size} bytes, its TYPE {letters!r} needs {dtype.itemsize}"
        )
    table = np.frombuffer(node.content, dtype=dtype)
    values = np.full((node.repeat, len(letters)), np.nan)
    for index, letter in enumerate(letters):
        if letter not in _OPAQUE:
            values[:, index] = table[f"f{index}"].astype(np.float64) / _FIXED_POINT.get(letter, 1.0)
    return values


def text_of(node: Node | None) -> str:
    """A node's characters (Latin-1), without padding; empty if there is no such node."""
    return node.content.rstrip(b"\0").decode("latin-1").strip() if node is not None else ""


def _texts_of(node: Node | None) -> tuple[str, ...]:
    if node is None or node.size == 0:
        return ()
    pieces = (node.content[at : at + node.size] for at in range(0, len(node.content), node.size))
    return tuple(piece.rstrip(b"\0").decode("latin-1").strip() for piece in pieces)


_ABOUT = frozenset(
    {"STNM", "SCAL", "SIUN", "UNIT", "TYPE", "TSMP", "TMPC", "TICK", "TOCK", "EMPT", "STMP", "TIMO", "RMRK"}
    | {"ORIN", "ORIO", "MTRX", "GPSF", "GPSU", "GPSP", "GPSA"}
)
"""Keys that speak about a stream's data, which follows them."""


def streams_of(nodes: tuple[Node, ...]) -> Iterator[SensorStream]:
    """The numeric sensor streams of a payload, scaled by ``SCAL``. Raises GpmfError for sizes that do not fit."""
    for device in nodes:
        if device.key != "DEVC":
            continue
        for stream in device.children:
            if stream.key == "STRM":
                yield from _sensor_stream(stream)


def _sensor_stream(stream: Node) -> Iterator[SensorStream]:
    data = next((node for node in reversed(stream.children) if node.key not in _ABOUT), None)
    if data is None or data.repeat == 0 or (data.type not in _DTYPES and data.type != "?"):
        return  # empty, nested or text: nothing to measure
    values = numbers_of(data, text_of(stream.child("TYPE")))
    scale = stream.child("SCAL")
    if scale is not None:
        divisors = numbers_of(scale).reshape(-1)
        if len(divisors) not in (1, values.shape[1]) or not np.isfinite(divisors).all() or (divisors == 0).any():
            raise GpmfError(
                f"byte {scale.offset}: SCAL holds {len(divisors)} divisors (or a zero) "
                f"for the {values.shape[1]} elements of {data.key}"
            )
        with np.errstate(all="ignore"):
            values = values / divisors
    yield SensorStream(
        key=data.key,
        name=text_of(stream.child("STNM")),
        units=_texts_of(stream.child("SIUN") or stream.child("UNIT")),
        values=values,
        total=_count_of(stream.child("TSMP")),
        axes=(text_of(stream.child("ORIN")), text_of(stream.child("ORIO"))),
        fix=_count_of(stream.child("GPSF")),
    )


def _count_of(node: Node | None) -> int:
    return int(numbers_of(node)[-1, -1]) if node is not None and node.repeat and node.type in ("L", "J", "S", "B") else -1
