"""A log that was cut reads up to the cut; one that is broken or hostile is refused in one line."""

from __future__ import annotations

import itertools
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.logs import writer as writer_module
from pipeline.logs.reader import LogReader
from pipeline.logs.records import MAGIC, MAX_RECORD_BYTES, LogError
from pipeline.logs.writer import LogWriter
from pipeline.messages import Announcement, Header, Recording
from pipeline.sources.base import Encoding, StreamInfo

ORIGIN_NS = 10**12
STREAMS = [
    StreamInfo(stream="camera", kind="camera", encoding=Encoding(codec="jpeg", width=8, height=8), period_ns=1, min_gap_ns=0),
    StreamInfo(stream="text", kind="text", encoding=Encoding(codec="text"), period_ns=0, min_gap_ns=0),
]


def sample(stream: str, seq: int) -> Recording:
    at = ORIGIN_NS + seq * 50_000_000
    header = Header(stream=stream, seq=seq, capture_ns=at, receive_ns=at)
    return Recording(announcement=Announcement(header=header), chunks=(b"%s %d " % (stream.encode(), seq) * 20,))


SENT = [sample(stream, seq) for seq in range(200) for stream in ("camera", "text")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.mcap"
    with LogWriter(path, scenario="driving", origin_ns=ORIGIN_NS, streams=STREAMS, metadata={}) as log:
        for item in SENT:
            log.announcement(item)
        log.finish({"clean": "true"})
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], Path]:
    folder, counter = tmp_path_factory.mktemp("scratch"), itertools.count()

    def save(content: bytes) -> Path:
        path = folder / f"{next(counter)}.mcap"
        path.write_bytes(content)
        return path

    return save


def record(opcode: int, body: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(body)) + body


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def entries(values: dict[str, str]) -> bytes:
    body = b"".join(text(k) + text(v) for k, v in values.items())
    return struct.pack("<I", len(body)) + body


def chunk(records: bytes, *, compression: str = "", size: int | None = None, packed: bytes | None = None) -> bytes:
    packed = records if packed is None else packed
    size = len(records) if size is None else size
    head = struct.pack("<QQQI", 0, 0, size, zlib.crc32(records)) + text(compression)
    return record(0x06, head + struct.pack("<Q", len(packed)) + packed)


def start(**values: str) -> bytes:
    values = {
        "format": "1", "scenario": "s", "origin_ns": "0", "clock_offset_ns": "0", "stream_count": "0"
    } | values  # fmt: skip
    return MAGIC + record(0x01, text("") + text("")) + record(0x0C, text("chiasm.log") + entries(values))


END = record(0x0F, bytes(4)) + record(0x02, bytes(20)) + MAGIC


def channel(number: int, topic: str, **metadata: str) -> bytes:
    return record(0x04, struct.pack("<HH", number, 0) + text(topic) + text("json") + entries(metadata))


def message(number: int, data: bytes) -> bytes:
    return record(0x05, struct.pack("<HIQQ", number, 0, 0, 0) + data)


def announcement(**values: object) -> bytes:
    fields = {"kind": 0, "stream": "camera", "epoch": 0, "seq": 0, "capture_ns": 0, "receive_ns": 0, "span_ns": 0}
    return json.dumps(fields | {"chunks": 0} | values).encode()


def camera_log(*messages: bytes) -> bytes:
    from pipeline.logs.schemas import stream_info_to_json

    heads = channel(1, "/streams") + channel(2, "/announcements") + channel(3, "/camera", stream="camera")
    return start(stream_count="1") + chunk(heads + message(1, stream_info_to_json(STREAMS[0])) + b"".join(messages)) + END


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
@example(0.0)
def test_cut_anywhere_gives_a_prefix_or_one_line(whole: bytes, scratch: Callable[[bytes], Path], fraction: float) -> None:
    path = scratch(whole[: int(len(whole) * fraction)])
    try:
        log = LogReader(path)
    except LogError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return
    got = list(log.recordings())
    assert got == SENT[: len(got)]
    assert log.truncated_at is not None
    assert list(log.recordings("text")) == [r for r in got if r.announcement.header.stream == "text"]


def test_a_cut_says_the_byte_and_the_time_and_loses_less_than_two_seconds_of_chunks(
    whole: bytes, scratch: Callable[[bytes], Path]
) -> None:
    middle = whole.index(struct.pack("<B", 6), len(whole) // 2)
    log = LogReader(scratch(whole[:middle]))
    got = list(log.recordings())
    assert 0 < len(got) < len(SENT)
    seconds = got[-1].announcement.header.receive_ns - ORIGIN_NS
    assert log.truncated_at is not None
    assert log.truncated_at.startswith("byte ")
    assert f"{seconds / 1e9:.3f} s after the start" in log.truncated_at
    assert log.end is None


def test_cut_after_the_data_keeps_every_recording_and_the_end(whole: bytes, scratch: Callable[[bytes], Path]) -> None:
    log = LogReader(scratch(whole[:-10]))
    assert list(log.recordings()) == SENT
    assert log.end == {"clean": "true"}
    assert log.truncated_at is not None


def test_unwritten_zeros_at_the_end_are_a_cut(whole: bytes, scratch: Callable[[bytes], Path]) -> None:
    log = LogReader(scratch(whole[: whole.index(record(0x0F, bytes(4)))] + bytes(4096)))
    assert list(log.recordings()) == SENT
    assert "byte " in str(log.truncated_at)


@settings(max_examples=150, deadline=None)
@given(st.integers(0), st.integers(1, 255))
def test_flipped_byte_never_gives_another_error_than_ours(
    whole: bytes, scratch: Callable[[bytes], Path], position: int, flip: int
) -> None:
    content = bytearray(whole)
    content[position % len(content)] ^= flip
    try:
        for item in LogReader(scratch(bytes(content))).recordings():
            assert item in SENT or item.announcement.header.stream in ("camera", "text")
    except LogError as error:
        assert "\n" not in str(error)


def test_flipped_byte_in_a_chunk_names_the_chunk(whole: bytes, scratch: Callable[[bytes], Path]) -> None:
    content = bytearray(whole)
    content[content.rindex(b"\x28\xb5\x2f\xfd") + 50] ^= 0xFF  # inside the last zstd frame
    with pytest.raises(LogError, match=r"chunk at byte \d+ (fails its CRC|is broken)"):
        list(LogReader(scratch(bytes(content))).recordings())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an MCAP file"),
        (b"RIFF not this", "not an MCAP file"),
        (MAGIC, "cut at byte 8"),
        (MAGIC + record(0x01, text("") + text("")) + END, "not a chiasm log"),
        (MAGIC + record(0x0C, text("other") + entries({})) + END, "not a chiasm log"),
        (MAGIC + record(0x0C, struct.pack("<I", 2**32 - 1)) + END, "metadata at byte 8 is broken"),
        (start(format="99") + END, "format '99' is unknown"),
        (start(origin_ns="soon") + END, "origin_ns of the log is 'soon'"),
        (start(origin_ns="9" * 5000) + END, "origin_ns of the log"),
        (start(stream_count="1000000") + END, "stream_count 1000000"),
        (start(stream_count="1") + END, "ends before its streams are described"),
        (start(stream_count="1") + chunk(channel(1, "/streams") + message(1, b"{}")) + END, "/streams"),
        (start(stream_count="1") + chunk(channel(1, "/streams") + message(1, b"[" * 100_000)) + END, "/streams"),
        (MAGIC + struct.pack("<BQ", 0x0C, 2**64 - 1), "cut at byte 8"),
    ],
)
def test_what_is_no_log_is_refused_at_opening(scratch: Callable[[bytes], Path], content: bytes, says: str) -> None:
    path = scratch(content)
    with pytest.raises(LogError) as caught:
        LogReader(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (chunk(b"", size=2**62), "its lengths do not fit"),
        (chunk(b"", compression="zstd", size=10, packed=b"not zstd"), "is broken"),
        (chunk(b"", compression="rot13"), "unknown compression 'rot13'"),
        (chunk(struct.pack("<BQ", 5, 2**63)), "claims 9223372036854775808 bytes"),
        (chunk(record(0x05, b"short")), "shorter than its header"),
        (chunk(record(0x04, b"\0")), "a channel is broken"),
        (record(0x06, b"short"), "is broken"),
    ],
)
def test_hostile_chunks_are_refused(scratch: Callable[[bytes], Path], body: bytes, says: str) -> None:
    log = LogReader(scratch(start() + body + END))
    with pytest.raises(LogError) as caught:
        list(log.recordings())
    assert says in str(caught.value)


def test_zstd_bomb_is_refused_without_unpacking(scratch: Callable[[bytes], Path]) -> None:
    import zstandard

    bomb = zstandard.compress(bytes(64 * 2**20))
    log = LogReader(scratch(start() + chunk(b"", compression="zstd", size=1000, packed=bomb) + END))
    with pytest.raises(LogError, match="zstd size differs"):
        list(log.recordings())


def test_record_longer_than_allowed_is_refused(scratch: Callable[[bytes], Path]) -> None:
    path = scratch(start())
    with open(path, "ab") as file:
        file.write(struct.pack("<BQ", 0x06, MAX_RECORD_BYTES + 1))
        file.truncate(MAX_RECORD_BYTES + 10_000)  # sparse: takes no room
    with pytest.raises(LogError, match="more than the"):
        list(LogReader(path).recordings())


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([message(2, b"{")], "/announcements"),
        ([message(2, announcement(kind=77))], "/announcements"),
        ([message(2, announcement(seq="1"))], "Expected `int`, got `str` - at `$.seq`"),
        ([message(2, announcement(capture_ns=2**70))], "64-bit integers"),
        ([message(2, announcement(extra=1))], "not an announcement"),
        ([message(2, announcement(stream="sonar"))], "'sonar' is not declared"),
        ([message(2, announcement(chunks=1))], "announces 1 chunks and the log holds 0"),
        ([message(3, b""), message(2, announcement(chunks=0))], "announces 0 chunks and the log holds 1"),
        ([message(3, b"\xff\xff\xff"), message(2, announcement(chunks=1))], "camera: sample 0"),
        ([message(3, b"")] * 5000, "chunks of /camera unannounced"),
    ],
)
def test_hostile_messages_are_refused_naming_the_stream(
    scratch: Callable[[bytes], Path], messages: list[bytes], says: str
) -> None:
    log = LogReader(scratch(camera_log(*messages)))
    with pytest.raises(LogError) as caught:
        list(log.recordings())
    assert says in str(caught.value)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.mcap", tmp_path):
        with pytest.raises(LogError, match="no such log file"):
            LogReader(path)


def test_full_disk_is_one_line_and_leaves_nothing_when_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "FLUSH_NS", 0)
    with LogWriter(tmp_path / "a.mcap", scenario="s", origin_ns=0, streams=STREAMS, metadata={}, atomic=True) as log:
        with open("/dev/full", "wb", buffering=0) as full:
            os.dup2(full.fileno(), log._file.fileno())  # type: ignore[union-attr]
        with pytest.raises(LogError, match="No space left"):
            for item in SENT:
                log.announcement(item)
    assert list(tmp_path.iterdir()) == []
