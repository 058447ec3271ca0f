"""What is read out of a log for people: differences, a summary, tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.logs.compare import compare_logs
from pipeline.logs.records import LogError
from pipeline.logs.summary import nearest_rank, summarise
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
from pipeline.sources.base import Encoding, StreamInfo

PERIOD_NS = 50_000_000
TELEMETRY = StreamInfo(
    stream="telemetry",
    kind="telemetry",
    encoding=Encoding(codec="telemetry-json", channels=("speed", "yaw"), units=("m/s", "rad/s")),
    period_ns=PERIOD_NS,
    min_gap_ns=0,
)


def decision(origin_ns: int, seq: int, *, age_ns: int = 5, engine: str = "e1", latency_ns: int = 1000) -> Decision:
    reference_ns = origin_ns + seq * PERIOD_NS
    spans = Spans(critical_stream="telemetry", total_ns=latency_ns, decode_ns=0, encode_ns=0, fuse_ns=0, wait_ns=0, runtime_ns=1)
    admitted = Admitted(stream="telemetry", availability=Availability.PRESENT, seq=seq, age_ns=age_ns)
    return Decision(
        seq=seq,
        reference_ns=reference_ns,
        publish_ns=reference_ns + latency_ns,
        deadline_ns=reference_ns + PERIOD_NS,
        status="on_time",
        action="keep",
        outputs={"action": np.array([0.25, 0.75], np.float32)},
        labels={"action": "keep"},
        state="{}",
        receipt=Receipt(admitted=(admitted,), spans=spans, engines={"fusion": engine}, config_sha256="c", state_sha256="s"),
    )


def write(path: Path, decisions: list[Decision], recordings: tuple[Recording, ...] = (), origin_ns: int = 0) -> Path:
    with LogWriter(path, scenario="driving", origin_ns=origin_ns, streams=[TELEMETRY], metadata={}) as log:
        for recording in recordings:
            log.announcement(recording)
        for item in decisions:
            log.decision(item)
        log.finish({"clean": "true", "digest": "ab"})
    return path


def block(seq: int, *, at: int, kind: AnnouncementKind = AnnouncementKind.SAMPLE) -> Recording:
    header = Header(stream="telemetry", seq=seq, capture_ns=at, receive_ns=at + 7, span_ns=10)
    data = json.dumps({"offsets_ns": [-10, 0], "values": [[1.5, None], [2.5, 0.25]]}).encode()
    chunks = (data,) if kind is AnnouncementKind.SAMPLE else ()
    return Recording(announcement=Announcement(header=header, kind=kind), chunks=chunks)


def test_runs_started_at_other_times_and_published_later_compare_as_same(tmp_path: Path) -> None:
    a = write(tmp_path / "a.mcap", [decision(0, seq) for seq in range(200)])
    b = write(tmp_path / "b.mcap", [decision(10**12, seq, latency_ns=7777) for seq in range(200)], origin_ns=10**12)
    comparison = compare_logs(a, b)
    assert comparison.same
    assert (comparison.decisions_a, comparison.decisions_b) == (200, 200)
    assert (comparison.counts, comparison.differences, comparison.notes) == ({}, (), ())


def test_skipped_decision_logged_after_its_successor_is_still_paired(tmp_path: Path) -> None:
    ordered = [decision(0, seq) for seq in range(10)]
    a = write(tmp_path / "a.mcap", ordered)
    b = write(tmp_path / "b.mcap", [ordered[1], ordered[0], *ordered[2:]])
    assert compare_logs(a, b).same


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"outputs": {"action": np.array([np.nextafter(np.float32(0.25), 1), 0.75], np.float32)}}, "outputs"),
        ({"outputs": {}, "status": "skipped"}, "skipped"),
        ({"action": "stop"}, "action"),
        ({"state": '{"since": 2}'}, "state"),
        ({"receipt": decision(0, 3, age_ns=6).receipt}, "admitted"),
    ],
)
def test_each_kind_of_difference_is_found_at_its_time(tmp_path: Path, change: dict[str, object], kind: str) -> None:
    same = [decision(0, seq) for seq in range(6)]
    other = [*same[:3], replace(same[3], **change), *same[4:]]  # type: ignore[arg-type]
    comparison = compare_logs(write(tmp_path / "a.mcap", same), write(tmp_path / "b.mcap", other))
    assert not comparison.same
    assert comparison.differing == 1
    assert comparison.counts[kind] == 1
    assert {d.relative_ns for d in comparison.differences} == {3 * PERIOD_NS}


def test_missing_decisions_and_other_engines_are_named(tmp_path: Path) -> None:
    a = write(tmp_path / "a.mcap", [decision(0, seq) for seq in (0, 1, 3)])
    b = write(tmp_path / "b.mcap", [decision(0, seq, engine="e2") for seq in (0, 2, 3, 4)])
    comparison = compare_logs(a, b)
    assert comparison.counts == {"only in a": 1, "only in b": 2}
    assert comparison.notes == ("engines differ: fusion",)


def test_cut_log_compares_up_to_the_cut_and_says_so(tmp_path: Path) -> None:
    a = write(tmp_path / "a.mcap", [decision(0, seq) for seq in range(100)])
    b = tmp_path / "b.mcap"
    whole = a.read_bytes()
    b.write_bytes(whole[: whole.rindex(b"\x28\xb5\x2f\xfd")])  # without the last chunk
    comparison = compare_logs(a, b)
    assert 0 < comparison.decisions_b < 100
    assert comparison.counts == {"only in a": 100 - comparison.decisions_b}
    assert any("is cut: byte" in note for note in comparison.notes)


def test_summary_counts_streams_gaps_and_decisions(tmp_path: Path) -> None:
    times = [seq * PERIOD_NS for seq in range(20) if seq not in (5, 6)]
    blocks = [block(seq if seq < 10 else seq + 2, at=at) for seq, at in enumerate(times)]
    blocks.append(block(99, at=times[-1] + 1, kind=AnnouncementKind.HEARTBEAT))
    blocks.append(block(99, at=times[-1] + 2, kind=AnnouncementKind.END))
    decisions = [decision(0, seq, latency_ns=1000 * (seq + 1)) for seq in range(100)]
    decisions[7] = replace(decisions[7], status="late", action="slow")
    decisions[8] = replace(decisions[8], status="skipped", outputs={})

    summary = summarise(write(tmp_path / "a.mcap", decisions, tuple(blocks)))

    (stream,) = summary.streams
    assert (stream.samples, stream.heartbeats, stream.ended, stream.epochs) == (18, 1, True, 1)
    assert (stream.gaps, stream.longest_gap_ns, stream.missing) == (1, 3 * PERIOD_NS, 2)
    assert stream.rate_hz == pytest.approx(17 / (19 * 0.05))
    assert stream.delay_p50_ns == 7
    found = summary.decisions
    assert found.by_status == {"on_time": 98, "late": 1, "skipped": 1}
    assert found.by_action == {"keep": 98, "slow": 1}
    assert (found.latency_p50_ns, found.latency_p99_ns, found.latency_max_ns) == (51_000, 100_000, 100_000)
    assert (summary.clean, summary.digest, summary.closed, summary.truncated_at) == (True, "ab", True, None)
    assert summary.channels["/decisions"].messages == 100
    assert summary.channels["/telemetry"].bytes == 18 * len(blocks[0].chunks[0])
    assert summary.duration_ns == 99 * PERIOD_NS + 100_000


def test_summary_of_an_empty_log_is_zero(tmp_path: Path) -> None:
    summary = summarise(write(tmp_path / "a.mcap", []))
    assert (summary.streams[0].samples, summary.streams[0].rate_hz, summary.decisions.count) == (0, 0.0, 0)


def test_nearest_rank_takes_a_value_that_occurred() -> None:
    assert nearest_rank([], 50) == 0
    assert [nearest_rank([1, 2, 3, 4], p) for p in (0, 25, 26, 50, 75, 99, 100)] == [1, 1, 2, 2, 3, 4, 4]


def test_tables_hold_the_log_and_their_units(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from pipeline.logs.tables import export_tables

    decisions = [decision(0, seq) for seq in range(5)]
    log = write(tmp_path / "a.mcap", decisions, (block(0, at=100), block(1, at=200)))

    tables = export_tables(log, tmp_path / "out")

    assert sorted(tables) == ["decisions", "latency", "telemetry"]
    rows = pq.read_table(tables["telemetry"])
    assert rows.select(["time_ns", "speed", "yaw"]).to_pylist() == [
        {"time_ns": 90, "speed": 1.5, "yaw": None},
        {"time_ns": 100, "speed": 2.5, "yaw": 0.25},
        {"time_ns": 190, "speed": 1.5, "yaw": None},
        {"time_ns": 200, "speed": 2.5, "yaw": 0.25},
    ]
    assert rows.schema.field("speed").metadata[b"unit"] == b"m/s"
    assert rows.schema.metadata[b"origin_ns"] == b"0"
    first = pq.read_table(tables["decisions"]).to_pylist()[1]
    assert first["outputs"] == [("action", [0.25, 0.75])]
    assert first["admitted"][0] | {} == {
        "stream": "telemetry", "availability": "present", "seq": 1, "epoch": 0, "window_end_ns": 0, "age_ns": 5,
        "overrun": False,
    }  # fmt: skip
    assert pq.read_table(tables["latency"]).column("latency_ns").to_pylist() == [1000] * 5
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(p.name for p in tables.values())


def test_table_of_broken_telemetry_is_refused_and_left_out(tmp_path: Path) -> None:
    from pipeline.logs.tables import export_tables

    broken = replace(block(3, at=100), chunks=(b'{"offsets_ns": [0], "values": [[1]]}',))
    log = write(tmp_path / "a.mcap", [], (broken,))
    with pytest.raises(LogError, match="telemetry: sample 3 is not a telemetry block"):
        export_tables(log, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*telemetry*"))


@pytest.mark.parametrize(
    "change",
    [{"reference_ns": "now"}, {"publish_ns": 2**80}, {"action": ["keep"]}, {"outputs": {"a": [[1.0]]}}, {"more": 1}],
)
def test_hostile_decisions_are_refused_in_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    from pipeline.decision_json import decision_to_dict

    path = tmp_path / "a.mcap"
    with LogWriter(path, scenario="driving", origin_ns=0, streams=[], metadata={}) as log:
        log._add("/decisions", 0, json.dumps(decision_to_dict(decision(0, 0)) | change).encode(), 0)
        log.finish({})
    for use in (summarise, lambda log: compare_logs(log, log)):
        with pytest.raises(LogError, match="/decisions"):
            use(path)
