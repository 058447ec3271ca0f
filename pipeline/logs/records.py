"""The records of an MCAP file, read in order from a file that may be cut, broken or hostile.

The mcap package's own reader takes lengths on trust and turns a cut into whichever exception comes first; a log that
survived a crash must read up to its last whole chunk and say where that was. So framing is read here (the layouts
are those of the MCAP specification, version 0): every length is checked against the file and a bound before anything
is allocated. Writing is the mcap package's.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

Bytes = bytes | memoryview

MAGIC = b"\x89MCAP0\r\n"
MAX_RECORD_BYTES = 256 * 2**20
"""Longest record, packed or unpacked, that is read. A chunk is 1 MiB and its last message, a raw frame at most."""

OP_HEADER, OP_FOOTER, OP_SCHEMA, OP_CHANNEL, OP_MESSAGE, OP_CHUNK = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
OP_METADATA, OP_METADATA_INDEX, OP_DATA_END = 0x0C, 0x0D, 0x0F
_FOOTER_BYTES = 9 + 20 + len(MAGIC)

_OPCODE_LENGTH = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<HIQQ")
_CHUNK = struct.Struct("<QQQI")


class LogError(Exception):
    """A log cannot be used: one line with the file, what is wrong and the fix. The CLI exits with 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of the file: where it begins, its opcode and its body."""

    offset: int
    opcode: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRecord:
    """An MCAP channel."""

    id: int
    schema_id: int
    topic: str
    message_encoding: str
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord:
    """An MCAP message. ``data`` is a view into its chunk: copy it to keep it without keeping the chunk."""

    channel_id: int
    log_time: int
    publish_time: int
    data: memoryview


class Cut(Exception):
    """The file ends inside a record."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"byte {offset}: {why}")
        self.offset = offset


def read_records(file: BinaryIO, path: Path) -> Iterator[Record]:
    """Yield the file's records from after the magic up to and with DataEnd.

    Raises `Cut` where the file ends before that, `LogError` for a record longer than `MAX_RECORD_BYTES`.
    Bodies of records that a log's reader has no use for (message indexes) are skipped, not read.
    """
    size = os.fstat(file.fileno()).st_size
    offset = len(MAGIC)
    file.seek(offset)
    while True:
        head = file.read(_OPCODE_LENGTH.size)
        if len(head) < _OPCODE_LENGTH.size:
            raise Cut(offset, "no end of data")
        opcode, length = _OPCODE_LENGTH.unpack(head)
        if opcode == 0:
            # A file system that lost power may leave zeros where the last writes should be.
            raise Cut(offset, "unwritten bytes")
        start = offset + _OPCODE_LENGTH.size
        if length > size - start:
            raise Cut(offset, "a record is cut")
        if length > MAX_RECORD_BYTES:
            raise LogError(
                f"{path}: the record at byte {offset} claims {length} bytes, more than the {MAX_RECORD_BYTES} allowed: "
                "the log is broken; replay another copy"
            )
        if opcode in (OP_MESSAGE, OP_CHUNK, OP_CHANNEL, OP_METADATA, OP_DATA_END):
            body = file.read(length)
            if len(body) < length:
                raise Cut(offset, "a record is cut")
            yield Record(offset=offset, opcode=opcode, body=body)
            if opcode == OP_DATA_END:
                return
        else:
            file.seek(length, os.SEEK_CUR)
        offset = start + length


def unpack_chunk(record: Record, path: Path) -> Bytes:
    """The chunk's records, decompressed (or, if they were not compressed, as they lie in ``record``) and checked against its CRC.

    Raises `LogError` naming the chunk.
    """
    body = record.body
    try:
        _start, _end, size, crc = _CHUNK.unpack_from(body, 0)
        compression, position = _read_string(body, _CHUNK.size)
        (packed_size,) = struct.unpack_from("<Q", body, position)
        packed = memoryview(body)[position + 8 : position + 8 + packed_size]
        if packed_size != len(packed) or size > MAX_RECORD_BYTES:
            raise ValueError("its lengths do not fit")
        data = _decompress(packed, compression, size)
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise LogError(
            f"{path}: the chunk at byte {record.offset} is broken ({error}): replay another copy of the log"
        ) from error
    if crc and zlib.crc32(data) != crc:
        raise LogError(f"{path}: the chunk at byte {record.offset} fails its CRC: replay another copy of the log")
    return data


def _decompress(packed: memoryview, compression: str, size: int) -> Bytes:
    """Exactly `size` bytes, never allocating more. Raises ValueError."""
    data: Bytes
    if compression == "":
        data = packed
    elif compression == "zstd":
        import zstandard

        try:
            # A frame's own content size overrides max_output_size, so it is checked first; -1 is unknown.
            if zstandard.frame_content_size(packed) not in (-1, size):
                raise ValueError("zstd size differs from the chunk's")
            data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(f"zstd: {error}") from error
    elif compression == "lz4":
        import lz4.frame

        try:
            data = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=size)
        except RuntimeError as error:
            raise ValueError(f"lz4: {error}") from error
    else:
        raise ValueError(f"unknown compression {compression[:20]!r}")
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes instead of {size}")
    return data


def read_chunk_records(data: Bytes, where: str) -> Iterator[tuple[int, int, int]]:
    """Yield (opcode, start, end) of each record in a chunk's data. Raises `LogError`, beginning with `where`."""
    position, size = 0, len(data)
    while position < size:
        if position + _OPCODE_LENGTH.size > size:
            raise LogError(f"{where}: broken off inside; replay another copy of the log")
        opcode, length = _OPCODE_LENGTH.unpack_from(data, position)
        start = position + _OPCODE_LENGTH.size
        position = start + length
        if position > size:
            raise LogError(f"{where}: a record claims {length} bytes, more than there are; replay another copy")
        yield opcode, start, position


def message_head(data: Bytes, start: int, end: int, where: str) -> tuple[int, int]:
    """Channel and log time of the message record in ``data[start:end]``; `parse_message` reads the rest. Raises `LogError`."""
    if end - start < _MESSAGE.size:
        raise LogError(f"{where}: a message is shorter than its header; replay another copy of the log")
    channel_id, _sequence, log_time, _publish_time = _MESSAGE.unpack_from(data, start)
    return channel_id, log_time


def parse_message(data: Bytes, start: int, end: int) -> MessageRecord:
    """The message record in ``data[start:end]``."""
    channel_id, _sequence, log_time, publish_time = _MESSAGE.unpack_from(data, start)
    return MessageRecord(
        channel_id=channel_id,
        log_time=log_time,
        publish_time=publish_time,
        data=memoryview(data)[start + _MESSAGE.size : end],
    )


def parse_channel(body: bytes, where: str) -> ChannelRecord:
    """The channel record in `body`."""
    try:
        channel_id, schema_id = struct.unpack_from("<HH", body, 0)
        topic, position = _read_string(body, 4)
        encoding, position = _read_string(body, position)
        metadata, _position = _read_map(body, position)
    except (struct.error, ValueError) as error:
        raise LogError(f"{where}: a channel is broken ({error}); replay another copy of the log") from error
    return ChannelRecord(id=channel_id, schema_id=schema_id, topic=topic, message_encoding=encoding, metadata=metadata)


def parse_metadata(record: Record, path: Path) -> tuple[str, dict[str, str]]:
    """A metadata record's name and entries."""
    try:
        name, position = _read_string(record.body, 0)
        entries, _position = _read_map(record.body, position)
    except (struct.error, ValueError) as error:
        raise LogError(
            f"{path}: the metadata at byte {record.offset} is broken ({error}); replay another copy of the log"
        ) from error
    return name, entries


def find_metadata(file: BinaryIO, path: Path, name: str) -> tuple[bool, dict[str, str] | None]:
    """Whether the file was closed in order, and the metadata record `name` as its summary finds it (None if absent)."""
    size = os.fstat(file.fileno()).st_size
    if size < _FOOTER_BYTES + len(MAGIC):
        return False, None
    file.seek(size - _FOOTER_BYTES)
    tail = file.read(_FOOTER_BYTES)
    opcode, length = _OPCODE_LENGTH.unpack_from(tail, 0)
    if opcode != OP_FOOTER or length != 20 or tail[-len(MAGIC) :] != MAGIC:
        return False, None
    (summary_start,) = struct.unpack_from("<Q", tail, 9)
    summary_end = size - _FOOTER_BYTES
    if not len(MAGIC) <= summary_start <= summary_end or summary_end - summary_start > MAX_RECORD_BYTES:
        return True, None
    file.seek(summary_start)
    summary = file.read(summary_end - summary_start)
    for opcode, start, end in read_chunk_records(summary, f"{path}: the summary at byte {summary_start}"):
        if opcode != OP_METADATA_INDEX or end - start < 20:
            continue
        offset, _length = struct.unpack_from("<QQ", summary, start)
        if summary[start + 20 : end] == name.encode() and offset < summary_start:
            return True, _metadata_at(file, path, offset, name)
    return True, None


def _metadata_at(file: BinaryIO, path: Path, offset: int, name: str) -> dict[str, str] | None:
    file.seek(offset)
    head = file.read(_OPCODE_LENGTH.size)
    if len(head) < _OPCODE_LENGTH.size:
        return None
    opcode, length = _OPCODE_LENGTH.unpack(head)
    if opcode != OP_METADATA or length > 2**20:
        return None
    found, entries = parse_metadata(Record(offset=offset, opcode=opcode, body=file.read(length)), path)
    return entries if found == name else None


def _read_string(body: bytes, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", body, position)
    end = position + 4 + length
    if end > len(body):
        raise ValueError("a string is longer than its record")
    return body[position + 4 : end].decode("utf-8"), end


def _read_map(body: bytes, position: int) -> tuple[dict[str, str], int]:
    (length,) = struct.unpack_from("<I", body, position)
    position += 4
    end = position + length
    if end > len(body):
        raise ValueError("a map is longer than its record")
    entries: dict[str, str] = {}
    while position < end:
        key, position = _read_string(body, position)
        entries[key], position = _read_string(body, position)
    return entries, position
