"""comma2k19 segments: hand-made ones, and the real one where it is."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.formats.comma2k19 import STEERING_RATIO, comma2k19_specs, rows_from_segment, segment_folder
from pipeline.sources.assign import assign_sources, open_source
from pipeline.sources.base import Channel, SourceError, StreamNeeds

REAL = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "driving" / "comma2k19_segment"
NAMES = (
    "speed_mps",
    "accel_forward_mps2",
    "accel_left_mps2",
    "accel_up_mps2",
    "yaw_rate_radps",
    "steering_rad",
    "brake",
)
CHANNELS = tuple(Channel(name=name, unit="", required=name == "speed_mps") for name in NAMES)
NEEDS = {
    "camera": StreamNeeds(stream="camera", kind="camera"),
    "telemetry": StreamNeeds(stream="telemetry", kind="telemetry", channels=CHANNELS),
}


def write_log(segment: Path, log: str, times, values) -> None:
    folder = segment / "processed_log" / log
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("t", times), ("value", values)):
        with (folder / name).open("wb") as file:
            np.save(file, np.array(array), allow_pickle=True)


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    segment = tmp_path / "parent" / "b0c9_2018_40"
    write_log(segment, "CAN/speed", [100.5, 101.5], [[8.0], [9.0]])
    write_log(segment, "CAN/steering_angle", [100.25, 101.5], [90.0, -90.0])
    write_log(segment, "IMU/accelerometer", [100.0], [[1.0, 2.0, -9.5]])
    write_log(segment, "IMU/gyro", [100.0], [[0.0, 0.0, 0.25]])
    return segment


def test_logs_become_rows_in_our_signs_and_units_from_the_earliest_time(segment):
    rows = rows_from_segment(segment, CHANNELS)
    assert rows.times_ns.tolist() == [0, 250_000_000, 500_000_000, 1_500_000_000]
    wheel = np.float32(np.pi / 2 / STEERING_RATIO)
    assert rows.values.tolist() == [
        [0, 1.0, -2.0, 9.5, -0.25, 0, 0],
        [0, 0, 0, 0, 0, wheel, 0],
        [8.0, 0, 0, 0, 0, 0, 0],
        [9.0, 0, 0, 0, 0, -wheel, 0],
    ]
    assert rows.valid.astype(int).tolist() == [
        [0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 1, 0],
    ]


def test_times_count_from_an_earlier_camera_frame(segment):
    (segment / "global_pose").mkdir()
    with (segment / "global_pose" / "frame_times").open("wb") as file:
        np.save(file, np.array([99.5, 99.55]))
    assert rows_from_segment(segment, CHANNELS).times_ns[0] == 500_000_000


def test_a_parent_of_one_segment_will_do_but_not_of_two(segment):
    assert segment_folder(segment.parent) == segment
    (segment.parent / "other" / "processed_log").mkdir(parents=True)
    with pytest.raises(SourceError, match="holds 2 comma2k19 segments"):
        segment_folder(segment.parent)


def test_the_camera_comes_along_where_its_video_is(segment):
    assert set(comma2k19_specs(segment, NEEDS)) == {"telemetry"}
    (segment / "video.hevc").write_bytes(b"\0")
    specs = comma2k19_specs(segment.parent, NEEDS)
    assert (specs["camera"].scheme, specs["camera"].options) == ("video", {"fps": "20"})


@pytest.mark.parametrize(
    ("times", "values", "message"),
    [
        ([1.0, 0.5], [[1.0], [2.0]], "t: row 1: time runs backwards"),
        ([0.0, 1.0], [[1.0], [np.nan]], "value: row 1 is not a finite number"),
        ([0.0], [[1.0], [2.0]], "as many rows"),
        ([0.0, 1e6], [[1.0], [2.0]], "more than a day"),
        ([0.0], np.array([[{"a": 1}]], dtype=object), "cannot be read as a NumPy array"),
        ([0.0], [["x"]], "not numbers"),
        ([0.0], np.zeros((1, 0)), "has 0 columns"),
    ],
)
def test_a_broken_log_names_file_and_row(segment, times, values, message):
    write_log(segment, "CAN/speed", times, values)
    with pytest.raises(SourceError, match=message) as caught:
        rows_from_segment(segment, CHANNELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\3\4junk", b"\x93NUMPY\1\0"])
def test_a_file_that_is_no_array_is_refused(segment, content):
    (segment / "processed_log" / "CAN" / "speed" / "t").write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read as a NumPy array"):
        rows_from_segment(segment, CHANNELS)


def test_a_header_that_promises_more_than_the_file_holds_is_refused(segment):
    path = segment / "processed_log" / "CAN" / "speed" / "t"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (2**45,)})
    with pytest.raises(SourceError, match="cannot be read as a NumPy array"):
        rows_from_segment(segment, CHANNELS)


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder shared with comma2k19_segment is not beside the repository")
def test_the_real_segment_plays_as_telemetry():
    spec = assign_sources(NEEDS, [f"comma2k19={REAL}"], {}).specs["telemetry"]
    with open_source(spec) as source:
        packets = list(source.packets())
    assert len(packets) == 800
    blocks = [json.loads(packet.chunks[0]) for packet in packets]
    assert sum(len(block["values"]) for block in blocks) == 10_781
    speeds = [row[0] for block in blocks for row in block["values"] if row[0] is not None]
    assert len(speeds) == 3313
    assert 7.5 < min(speeds) < 8.5
    assert 19 < max(speeds) < 20.5
    ups = [row[3] for block in blocks for row in block["values"] if row[3] is not None]
    assert np.mean(ups) == pytest.approx(9.67, abs=0.05)
