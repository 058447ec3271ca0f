"""Rows cut into packets, and the recorded telemetry source."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.base import Channel, SourceError, SourceSpec, StreamNeeds
from pipeline.sources.telemetry import MAX_ROWS_PER_BLOCK, TelemetryFile, packets_of_rows

CHANNELS = (Channel(name="speed_mps", unit="m/s", required=True), Channel(name="brake", unit="1"))


def spec_of(path) -> SourceSpec:
    needs = StreamNeeds(stream="telemetry", kind="telemetry", channels=CHANNELS)
    return SourceSpec(needs=needs, scheme="csv", target=str(path))


def test_rows_are_cut_on_the_block_grid_and_stamped_by_their_last_row():
    times = np.array([0, 20, 49, 50, 120]) * 1_000_000
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    valid = np.ones((5, 2), dtype=bool)
    valid[3, 1] = False
    packets = list(packets_of_rows(times, values, valid, block_ns=50_000_000))
    assert [(p.capture_ns, p.span_ns, p.arrival_ns) for p in packets] == [
        (49_000_000, 49_000_000, 49_000_000),
        (50_000_000, 0, 50_000_000),
        (120_000_000, 0, 120_000_000),
    ]
    assert json.loads(packets[0].chunks[0]) == {
        "offsets_ns": [49_000_000, 29_000_000, 0],
        "values": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]],
    }
    assert json.loads(packets[1].chunks[0])["values"] == [[6.0, None]]


def test_too_many_rows_in_a_block_are_refused():
    rows = MAX_ROWS_PER_BLOCK + 1
    with pytest.raises(SourceError, match="thin the rows"):
        list(packets_of_rows(np.zeros(rows, np.int64), np.zeros((rows, 1)), np.ones((rows, 1), bool), block_ns=1000))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_every_float32_survives_the_json(numbers):
    values = np.array(numbers, dtype=np.float32)[:, None]
    times = np.arange(len(numbers), dtype=np.int64)
    (packet,) = packets_of_rows(times, values, np.ones(values.shape, bool), block_ns=1_000_000)
    read = np.array(json.loads(packet.chunks[0])["values"], dtype=np.float64).astype(np.float32)
    assert read.tobytes() == values.tobytes()


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=50), st.integers(10**6, 10**9))
def test_no_row_is_lost_and_blocks_are_ordered(times, block_ns):
    times_ns = np.sort(np.array(times, dtype=np.int64))
    packets = list(packets_of_rows(times_ns, np.zeros((len(times), 1)), np.ones((len(times), 1), bool), block_ns=block_ns))
    rebuilt = [p.capture_ns - offset for p in packets for offset in json.loads(p.chunks[0])["offsets_ns"]]
    assert rebuilt == times_ns.tolist()
    assert all(p.span_ns < block_ns for p in packets)
    assert all(a.capture_ns < b.capture_ns - b.span_ns for a, b in itertools.pairwise(packets))


def test_a_dense_file_says_its_block_as_period_and_its_smallest_gap(tmp_path):
    rows = "".join(f"{n / 100},{n}\n" for n in range(100))
    (tmp_path / "t.csv").write_text("time_s,speed_mps\n" + rows)
    with TelemetryFile(spec_of(tmp_path / "t.csv")) as source:
        packets = list(source.packets())
        assert (source.info.period_ns, source.info.min_gap_ns) == (50_000_000, 50_000_000)
        assert source.info.encoding.channels == ("speed_mps", "brake")
        assert source.info.encoding.units == ("m/s", "1")
    assert len(packets) == 20
    assert all(row[1] is None for p in packets for row in json.loads(p.chunks[0])["values"])


def test_a_sparse_file_says_its_own_period(tmp_path):
    (tmp_path / "t.csv").write_text("time_s,speed_mps\n" + "".join(f"{n},{n}\n" for n in range(5)))
    with TelemetryFile(spec_of(tmp_path / "t.csv")) as source:
        assert (source.info.period_ns, source.info.min_gap_ns) == (1_000_000_000, 1_000_000_000)


def test_a_required_channel_that_is_never_measured_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("time_s,speed_mps,brake\n0,,1\n1,,0\n")
    with pytest.raises(SourceError, match=r"no speed_mps \[m/s\], which the scenario requires"):
        TelemetryFile(spec_of(tmp_path / "t.csv")).__enter__()


def test_a_file_without_rows_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("time_s,speed_mps\n")
    with pytest.raises(SourceError, match="no rows"):
        TelemetryFile(spec_of(tmp_path / "t.csv")).__enter__()
