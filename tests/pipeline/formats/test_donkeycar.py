"""donkeycar tubs: hand-made ones, and the real one where it is."""

import json
from pathlib import Path

import pytest

from pipeline.formats.donkeycar import records_of_tub, rows_from_tub
from pipeline.sources.assign import assign_sources, open_source
from pipeline.sources.base import Channel, SourceError, StreamNeeds

REAL = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "driving" / "donkeycar_tub"
STEERING = (Channel(name="steering_rad", unit="rad"), Channel(name="throttle", unit="1"))
NEEDS = {
    "camera": StreamNeeds(stream="camera", kind="camera"),
    "telemetry": StreamNeeds(stream="telemetry", kind="telemetry", channels=STEERING),
}
# The smallest a JPEG's header can be: start, a frame header of 4 x 2 pixels, end.
JPEG = b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x02\x00\x04\x01\x01\x11\x00\xff\xd9"


def record(index: int, **more: object) -> str:
    fields = {"_index": index, "cam/image_array": f"{index}_cam.jpg", "user/angle": -0.5, "user/throttle": 0.25}
    return json.dumps(fields | more)


def write_catalog(tub: Path, *lines: str) -> None:
    (tub / "catalog_0.catalog").write_text("\n".join(lines) + "\n")


@pytest.fixture
def tub(tmp_path: Path) -> Path:
    tub = tmp_path / "tub"
    (tub / "images").mkdir(parents=True)
    (tub / "manifest.json").write_text('["a"]\n{"paths": ["catalog_0.catalog"], "deleted_indexes": [11]}\n')
    for index in range(10, 14):
        (tub / "images" / f"{index}_cam.jpg").write_bytes(JPEG)
    write_catalog(tub, record(13), record(10), record(11), record(12))
    return tub


def test_records_come_in_the_order_of_their_index_without_the_deleted(tub):
    assert [each.index for each in records_of_tub(tub)] == [10, 12, 13]


def test_steering_is_left_positive_and_rows_keep_the_hole_of_a_deleted_record(tub):
    rows = rows_from_tub(tub, STEERING, fps=20)
    assert rows.times_ns.tolist() == [0, 100_000_000, 150_000_000]
    assert rows.values.tolist()[0] == pytest.approx([0.2, 0.25])


def test_a_tub_feeds_camera_and_telemetry_at_the_rate_given(tub):
    result = assign_sources(NEEDS, [f"donkeycar={tub.parent}?fps=10&loop=true"], {})
    assert set(result.specs) == {"camera", "telemetry"}
    assert {spec.loop_period_ns for spec in result.specs.values()} == {400_000_000}
    plain = assign_sources(NEEDS, [f"donkeycar={tub}?fps=10"], {})
    with open_source(plain.specs["camera"]) as source:
        assert [p.capture_ns for p in source.packets()] == [0, 200_000_000, 300_000_000]
        assert (source.info.encoding.codec, source.info.encoding.width, source.info.encoding.height) == ("jpeg", 4, 2)


def test_telemetry_is_left_out_with_a_notice_where_the_scenario_requires_speed(tub):
    channels = (*STEERING, Channel(name="speed_mps", unit="m/s", required=True))
    needs = NEEDS | {"telemetry": StreamNeeds(stream="telemetry", kind="telemetry", channels=channels)}
    result = assign_sources(needs, [f"donkeycar={tub}"], {})
    assert set(result.specs) == {"camera"}
    assert "telemetry: left out, a donkeycar tub has no speed_mps" in result.notices[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1 is not JSON"),
        (["[]"], "line 1 has no whole number _index"),
        ([record(1, _index=True)], "no whole number _index"),
        ([record(1, **{"cam/image_array": "../../etc/passwd"})], "no plain file name"),
        ([record(1, **{"user/angle": "left"})], "user/angle is 'left'"),
        ([record(1), '{"_index": 2, "cam/image_array": "2", "user/angle": NaN}'], "line 2: user/angle"),
        ([record(1), record(1)], "_index 1 is there twice"),
        ([], "no records"),
    ],
)
def test_a_broken_catalog_names_file_and_line(tub, lines, message):
    write_catalog(tub, *lines)
    with pytest.raises(SourceError, match=message) as caught:
        records_of_tub(tub)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"not a jpeg"])
def test_a_missing_or_broken_first_image_is_refused_on_entering(tub, content):
    image = tub / "images" / "10_cam.jpg"
    image.unlink()
    if content is not None:
        image.write_bytes(content)
    spec = assign_sources(NEEDS, [f"donkeycar={tub}"], {}).specs["camera"]
    with pytest.raises(SourceError, match=r"10_cam\.jpg"), open_source(spec):
        pass


def test_a_manifest_that_reaches_outside_the_tub_is_refused(tub):
    (tub / "manifest.json").write_text('{"paths": ["../secret.catalog"]}\n')
    with pytest.raises(SourceError, match="no plain file name"):
        records_of_tub(tub)


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder shared with donkeycar_tub is not beside the repository")
def test_the_real_tub_plays_700_frames_at_20_hz():
    spec = assign_sources(NEEDS, [f"donkeycar={REAL}"], {}).specs["camera"]
    with open_source(spec) as source:
        packets = list(source.packets())
        assert (source.info.encoding.width, source.info.encoding.height) == (160, 120)
    assert len(packets) == 700
    assert packets[-1].capture_ns == 34_950_000_000
