"""What goes into a log comes out of it, bit for bit, and other tools can read it."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.logs.annexb import parameter_sets, to_annexb, to_prefixed
from pipeline.logs.reader import LogReader
from pipeline.logs.records import LogError
from pipeline.logs.writer import LogWriter
from pipeline.messages import (
    Admitted,
    Announcement,
    AnnouncementKind,
    Availability,
    Decision,
    Header,
    Receipt,
    Recording,
    Spans,
)
from pipeline.sources.base import Encoding, StreamInfo, StreamKind

ORIGIN_NS = 5_000_000_000_000
SHARED = Path(__file__).resolve().parents[3] / ".." / "shared"
UNIT_SPS, UNIT_PPS, UNIT_KEY, UNIT_DELTA = b"\x67sps", b"\x68pps", b"\x65key frame", b"\x41delta"
AVCC = b"\x01\x64\x00\x1f\xff\xe1" + struct.pack(">H", 4) + UNIT_SPS + b"\x01" + struct.pack(">H", 4) + UNIT_PPS


def info(stream: str, kind: StreamKind, codec: str, **encoding: object) -> StreamInfo:
    return StreamInfo(
        stream=stream,
        kind=kind,
        encoding=Encoding(codec=codec, **encoding),  # type: ignore[arg-type]
        period_ns=50_000_000,
        min_gap_ns=1,
        origin="a test",
        calibration={"fx": "1.5"},
    )


def recording(stream: str, seq: int, *chunks: bytes, kind: AnnouncementKind = AnnouncementKind.SAMPLE) -> Recording:
    at = ORIGIN_NS + seq * 50_000_000
    header = Header(stream=stream, epoch=1, seq=seq, capture_ns=at, receive_ns=at + 7, publish_ns=at + 9, span_ns=20)
    return Recording(announcement=Announcement(header=header, kind=kind, watermark_ns=at + 3), chunks=chunks)


def write(path: Path, streams: list[StreamInfo], recordings: list[Recording]) -> None:
    with LogWriter(path, scenario="driving", origin_ns=ORIGIN_NS, streams=streams, metadata={"creator": "test"}) as log:
        for item in recordings:
            log.announcement(item)
        log.finish({"clean": "true"})


def prefixed(*units: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in units)


def a_decision() -> Decision:
    spans = Spans(
        critical_stream="camera", total_ns=9, decode_ns=1, encode_ns=2, fuse_ns=3, wait_ns=1, runtime_ns=2
    )  # fmt: skip
    admitted = (Admitted(stream="camera", availability=Availability.PRESENT, seq=4, age_ns=3),)
    receipt = Receipt(admitted=admitted, spans=spans, engines={"fusion": "ab"}, config_sha256="cd", state_sha256="ef")
    return Decision(
        seq=1, reference_ns=ORIGIN_NS + 1, publish_ns=ORIGIN_NS + 10, deadline_ns=ORIGIN_NS + 50, status="on_time",
        action="slow", outputs={"action": np.array([0.1, 0.7, 1e-30], np.float32)}, labels={"action": "slow"},
        state='{"since": 1}', receipt=receipt,
    )  # fmt: skip


STREAMS_AND_CHUNKS = [
    (
        info("camera", "camera", "av:h264", width=4, height=2, extradata=b"\0\1\2"),
        [b"\0\0\0\1\x65abc", b"\0\0\0\1\x41"],
    ),
    (
        info("camera.mp4", "camera", "av:h264", extradata=AVCC),
        [
            prefixed(UNIT_KEY),
            prefixed(UNIT_DELTA, UNIT_DELTA),
            prefixed(UNIT_SPS, UNIT_PPS, UNIT_KEY),
            b"\0\0\0\x09cut",
        ],
    ),
    (info("camera.left", "camera", "jpeg", width=4, height=2), [b"\xff\xd8 one", b""]),
    (info("camera.png", "camera", "png"), [b"\x89PNG"]),
    (info("camera.raw", "camera", "rgb8", width=4, height=2), [bytes(range(24))]),
    (info("microphone", "microphone", "pcm-s16", sample_rate_hz=16_000), [b"\1\2\3\4", b""]),
    (info("microphone.aac", "microphone", "av:aac", extradata=b"\x12\x10"), [b"\0\xff raw"]),
    (info("telemetry", "telemetry", "telemetry-json"), [b'{ "offsets_ns":[0],"values":[[1.50]]}', b"not JSON"]),
    (info("text", "text", "text"), ["Grüße".encode(), b"broken \xff\xfe", b"", b"nul \0"]),
]


@pytest.mark.parametrize(("stream", "chunks"), STREAMS_AND_CHUNKS, ids=lambda value: getattr(value, "stream", ""))
def test_every_kind_of_stream_comes_back_verbatim(tmp_path: Path, stream: StreamInfo, chunks: list[bytes]) -> None:
    sent = [recording(stream.stream, seq, chunk) for seq, chunk in enumerate(chunks)]
    sent.append(recording(stream.stream, len(sent), *chunks))
    sent.append(recording(stream.stream, len(sent), kind=AnnouncementKind.END))
    write(tmp_path / "a.mcap", [stream], sent)

    log = LogReader(tmp_path / "a.mcap")

    assert log.streams == {stream.stream: stream}
    assert list(log.recordings()) == sent
    assert list(log.recordings(stream.stream)) == sent
    assert log.truncated_at is None


def test_streams_interleaved_over_many_chunks_are_told_apart(tmp_path: Path) -> None:
    streams = [stream for stream, _chunks in STREAMS_AND_CHUNKS]
    sent = [recording(s.stream, seq, b"%d" % seq * 20_000) for seq in range(60) for s in streams if s.stream != "text"]
    write(tmp_path / "a.mcap", streams, sent)

    log = LogReader(tmp_path / "a.mcap")

    assert list(log.recordings()) == sent
    for name in log.streams:
        assert list(log.recordings(name)) == [r for r in sent if r.announcement.header.stream == name]


def test_start_end_decisions_truth_and_snapshots_come_back(tmp_path: Path) -> None:
    path, decision = tmp_path / "a.mcap", a_decision()
    metadata = {"creator": "test", "simulated": "yes"}
    with LogWriter(path, scenario="driving", origin_ns=ORIGIN_NS, streams=[], metadata=metadata, clock_offset_ns=-5) as log:
        log.decision(decision)
        log.truth(ORIGIN_NS + 3, {"emergency": 1, "action": "keep"})
        log.snapshot(ORIGIN_NS + 4, "{}")
        log.finish({"clean": "true", "digest": "0f"})

    reader = LogReader(path)

    assert (reader.scenario, reader.origin_ns, reader.clock_offset_ns) == ("driving", ORIGIN_NS, -5)
    assert metadata.items() <= reader.metadata.items()
    assert reader.end == {"clean": "true", "digest": "0f"}
    (back,) = reader.decisions()
    assert back.outputs["action"].tobytes() == decision.outputs["action"].tobytes()
    assert (back.receipt, back.state, back.status) == (decision.receipt, decision.state, decision.status)
    assert list(reader.truth()) == [{"time_ns": ORIGIN_NS + 3, "emergency": 1, "action": "keep"}]
    assert list(reader.snapshots()) == [{"time_ns": ORIGIN_NS + 4, "state": "{}"}]


def test_generic_mcap_reader_decodes_the_foxglove_messages(tmp_path: Path) -> None:
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory

    telemetry = info("telemetry", "telemetry", "telemetry-json", channels=("latitude_deg", "longitude_deg"))
    streams = [stream for stream, _chunks in STREAMS_AND_CHUNKS]
    streams = [stream for stream in streams if stream.stream in ("camera.mp4", "microphone", "text")]
    block = json.dumps({"offsets_ns": [-1_000_000_000, 0], "values": [[52.5, 13.25], [None, 1.0]]}).encode()
    write(
        tmp_path / "a.mcap",
        [*streams, telemetry],
        [
            recording("camera.mp4", 0, prefixed(UNIT_KEY)),
            recording("camera.mp4", 1, prefixed(UNIT_DELTA)),
            recording("microphone", 0, b"\1\2"),
            recording("text", 0, b"hello"),
            recording("telemetry", 0, block),
        ],
    )

    reader = make_reader(io.BytesIO((tmp_path / "a.mcap").read_bytes()), decoder_factories=[DecoderFactory()])
    topics = ["/camera.mp4", "/microphone", "/text", "/telemetry/location"]
    found = [(channel.topic, message) for _, channel, _, message in reader.iter_decoded_messages(topics=topics)]
    by_topic = {topic: [m for t, m in found if t == topic] for topic in topics}

    key, delta = by_topic["/camera.mp4"]
    code = b"\0\0\0\1"
    assert key.data == code + UNIT_SPS + code + UNIT_PPS + code + UNIT_KEY
    assert (delta.data, delta.format, delta.timestamp.seconds) == (code + UNIT_DELTA, "h264", ORIGIN_NS // 10**9)
    (sound,) = by_topic["/microphone"]
    assert (sound.data, sound.sample_rate, sound.number_of_channels) == (b"\1\2", 16_000, 1)
    assert [line.message for line in by_topic["/text"]] == ["hello"]
    (fix,) = by_topic["/telemetry/location"]
    assert (fix.latitude, fix.longitude, fix.timestamp.seconds) == (52.5, 13.25, ORIGIN_NS // 10**9 - 1)


@given(st.lists(st.binary(min_size=1, max_size=12), max_size=5), st.binary(max_size=8))
def test_a_packet_turned_to_start_codes_comes_back_or_is_refused(units: list[bytes], tail: bytes) -> None:
    sets = parameter_sets("av:h264", AVCC)
    assert sets is not None
    packet = prefixed(*units) + tail
    data = to_annexb(packet, sets)
    assert data is None or to_prefixed(data, sets) == packet


def test_gopro_video_is_kept_exactly_and_as_start_codes() -> None:
    av = pytest.importorskip("av")
    path = SHARED / "data/driving/gopro_gpmf/karma.mp4"
    if not path.exists():
        pytest.skip("needs ../shared with the GoPro recordings")
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        sets = parameter_sets("av:h264", bytes(video.codec_context.extradata))
        packets = [bytes(packet) for packet in container.demux(video) if packet.size][:60]
    assert sets is not None
    converted = [to_annexb(packet, sets) for packet in packets]
    assert all(data is not None and to_prefixed(data, sets) == p for data, p in zip(converted, packets, strict=True))
    assert converted[0] is not None
    assert converted[0].startswith(sets.annexb)


def test_atomic_log_appears_only_when_finished(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(b"the old one")
    with LogWriter(path, scenario="driving", origin_ns=0, streams=[], metadata={}, atomic=True) as log:
        assert path.read_bytes() == b"the old one"
        log.finish({})
    assert LogReader(path).end == {}
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_log_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="midway"),
        LogWriter(tmp_path / "a.mcap", scenario="s", origin_ns=0, streams=[], metadata={}, atomic=True),
    ):
        raise RuntimeError("midway")
    assert list(tmp_path.iterdir()) == []


def test_recorded_log_left_without_finish_is_readable_and_has_no_end(tmp_path: Path) -> None:
    stream, chunks = STREAMS_AND_CHUNKS[0]
    with LogWriter(tmp_path / "a.mcap", scenario="s", origin_ns=ORIGIN_NS, streams=[stream], metadata={}) as log:
        log.announcement(recording("camera", 0, chunks[0]))
    reader = LogReader(tmp_path / "a.mcap")
    assert reader.end is None
    assert len(list(reader.recordings())) == 1


def test_recorded_log_is_on_disk_after_two_seconds_of_events(tmp_path: Path) -> None:
    stream, chunks = STREAMS_AND_CHUNKS[0]
    sent = [recording("camera", seq, chunks[0]) for seq in range(61)]
    with LogWriter(tmp_path / "a.mcap", scenario="s", origin_ns=ORIGIN_NS, streams=[stream], metadata={}) as log:
        for item in sent[:-1]:
            log.announcement(item)
        crashed = (tmp_path / "a.mcap").read_bytes()
    (tmp_path / "b.mcap").write_bytes(crashed)
    reader = LogReader(tmp_path / "b.mcap")
    assert list(reader.recordings()) == sent[:41]
    assert reader.truncated_at is not None


def test_undeclared_stream_is_refused_by_name(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "a.mcap", scenario="s", origin_ns=0, streams=[], metadata={}) as log:
        with pytest.raises(LogError, match=r"a\.mcap.*'camera'.*StreamInfo"):
            log.announcement(recording("camera", 0, b"x"))
        log.finish({})
    with pytest.raises(LogError, match="no stream 'camera'"):
        list(LogReader(tmp_path / "a.mcap").recordings("camera"))


def test_log_in_a_missing_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"nowhere/a\.mcap: cannot write the log: No such file"):
        LogWriter(tmp_path / "nowhere" / "a.mcap", scenario="s", origin_ns=0, streams=[], metadata={})
