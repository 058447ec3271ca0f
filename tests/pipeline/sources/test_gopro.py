import struct
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.formats.decode import decoder_for
from pipeline.sources.base import Channel, Packet, SourceError, SourceSpec, StreamInfo, StreamNeeds
from pipeline.sources.gopro import GoproTelemetry, gopro_specs, loop_period_ns
from pipeline.sources.looped import Looped

av = pytest.importorskip("av")

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared"
CHANNELS = (
    Channel(name="speed_mps", unit="m/s", required=True),
    Channel(name="accel_forward_mps2", unit="m/s2"),
    Channel(name="accel_left_mps2", unit="m/s2"),
    Channel(name="accel_up_mps2", unit="m/s2"),
    Channel(name="yaw_rate_radps", unit="rad/s"),
    Channel(name="steering_rad", unit="rad"),
)
NEEDS = StreamNeeds(stream="telemetry", kind="telemetry", channels=CHANNELS)


def klv(key: str, kind: str, size: int, repeat: int, content: bytes) -> bytes:
    return key.encode() + struct.pack(">BBH", ord(kind), size, repeat) + content + bytes(-len(content) % 4)


def nest(key: str, *children: bytes) -> bytes:
    content = b"".join(children)
    return klv(key, "\0", 1, len(content), content)


def sensor(key: str, rows: list[list[int]], *about: bytes, scale: int = 100) -> bytes:
    content = b"".join(struct.pack(f">{len(row)}i", *row) for row in rows)
    divisor = klv("SCAL", "l", 4, 1, struct.pack(">i", scale))
    return nest("STRM", *about, divisor, klv(key, "l", 4 * len(rows[0]), len(rows), content))


def gps(speeds: list[int], fix: int = 3) -> bytes:
    return sensor("GPS5", [[0, 0, 0, speed, 0] for speed in speeds], klv("GPSF", "L", 4, 1, struct.pack(">L", fix)))


def write_gopro(path: Path, payloads: list[bytes], *, duration_ms: int = 1000) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        track = container.add_data_stream("bin_data")
        track.time_base, track.metadata["handler_name"] = Fraction(1, 1000), "\tGoPro MET"
        for index in range(25 * len(payloads)):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), dtype=np.uint8))
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for index, payload in enumerate(payloads):
            packet = av.Packet(payload)
            packet.stream, packet.time_base, packet.duration = track, Fraction(1, 1000), duration_ms
            packet.pts = packet.dts = index * duration_ms
            container.mux(packet)
    return path


def telemetry(path: Path, needs: StreamNeeds = NEEDS) -> SourceSpec:
    return SourceSpec(needs=needs, scheme="gopro-telemetry", target=str(path))


def rows_of(info: StreamInfo, packets: list[Packet]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    decoder = decoder_for(info)
    blocks = [(packet.capture_ns, *decoder.decode(packet.chunks)) for packet in packets]
    times = np.concatenate([capture_ns - offsets for capture_ns, offsets, _, _ in blocks])
    return times, np.concatenate([block[2] for block in blocks]), np.concatenate([block[3] for block in blocks])


def read(path: Path) -> tuple[StreamInfo, list[Packet], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    with GoproTelemetry(telemetry(path)) as source:
        packets = [packet for packet in source.packets() if packet is not None]
    return source.info, packets, rows_of(source.info, packets)


def test_each_measurement_makes_or_joins_a_row_at_its_time(tmp_path: Path) -> None:
    payload = nest("DEVC", gps([150, 250]), sensor("ACCL", [[980, -10, 20]] * 4))
    _, _, (times, values, valid) = read(write_gopro(tmp_path / "a.mp4", [payload, payload]))
    assert times.tolist() == [index * 250_000_000 for index in range(8)]
    assert valid[:, 0].tolist() == [True, False, True, False] * 2
    assert values[::2, 0].tolist() == [1.5, 2.5] * 2
    assert valid[:, 1:4].all()
    np.testing.assert_allclose(values[0, 1:4], [0.2, 0.1, 9.8], rtol=1e-6)  # forward Y, left -X, up Z of the order Z, X, Y
    assert not valid[:, 4:].any()


def test_orientation_key_decides_which_element_is_which_axis(tmp_path: Path) -> None:
    axes = klv("ORIN", "c", 1, 3, b"XzY")
    payload = nest("DEVC", gps([100]), sensor("ACCL", [[11, -980, 33]], axes), sensor("GYRO", [[1, 50, 2]], axes))
    _, _, (_, values, valid) = read(write_gopro(tmp_path / "a.mp4", [payload]))
    assert valid[0, :5].all()
    np.testing.assert_allclose(values[0, 1:5], [0.33, -0.11, 9.8, -0.5], rtol=1e-6)


def test_speed_without_a_fix_does_not_count(tmp_path: Path) -> None:
    accl = sensor("ACCL", [[980, 0, 0]] * 2)
    path = write_gopro(tmp_path / "a.mp4", [nest("DEVC", gps([900], fix=0), accl), nest("DEVC", gps([100]), accl)])
    _, _, (_, values, valid) = read(path)
    assert values[valid[:, 0], 0].tolist() == [1.0]


def test_missing_required_channel_is_refused_with_what_the_track_has(tmp_path: Path) -> None:
    path = write_gopro(tmp_path / "a.mp4", [nest("DEVC", gps([900], fix=0), sensor("ACCL", [[980, 0, 0]]))])
    source = GoproTelemetry(telemetry(path))
    with pytest.raises(SourceError, match=r"no speed_mps \[m/s\]; its GPMF track has ACCL, GPS5"), source:
        pass


def test_track_with_a_bad_length_is_refused_with_payload_and_byte(tmp_path: Path) -> None:
    good = nest("DEVC", gps([100]))
    bad = bytearray(good)
    bad[good.index(b"GPS5") + 6 : good.index(b"GPS5") + 8] = b"\xff\xff"
    path = write_gopro(tmp_path / "a.mp4", [good, bytes(bad)])
    at = good.index(b"GPS5")
    source = GoproTelemetry(telemetry(path))
    with pytest.raises(SourceError, match=rf"GPMF payload 1 is broken at byte {at}: GPS5 claims") as caught, source:
        pass
    assert "\n" not in str(caught.value)


def test_file_without_gpmf_track_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = write_gopro(tmp_path / "a.mp4", [nest("DEVC", gps([100]))])
    path.write_bytes(path.read_bytes().replace(b"GoPro MET", b"Other MET"))
    with pytest.raises(SourceError, match=r"no GPMF track.*telemetry=none"), GoproTelemetry(telemetry(path)):
        pass


def test_blocks_never_come_closer_than_declared_also_at_the_end_and_in_a_loop(tmp_path: Path) -> None:
    payload = nest("DEVC", gps([100] * 18), sensor("ACCL", [[980, 0, 0]] * 200))
    path = write_gopro(tmp_path / "a.mp4", [payload, payload], duration_ms=1010)
    info, packets, (times, _, _) = read(path)
    assert 400 < len(times) < 436  # some instants are shared
    assert info.min_gap_ns >= 44_000_000
    assert min(after.capture_ns - before.capture_ns for before, after in pairwise(packets)) >= info.min_gap_ns
    with Looped(GoproTelemetry(telemetry(path)), 2_000_000_000) as looped:
        again = [packet for packet in islice(looped.packets(), 130) if packet is not None]
    assert min(after.capture_ns - before.capture_ns for before, after in pairwise(again)) >= looped.info.min_gap_ns
    looped_times, _, _ = rows_of(looped.info, again)
    once = times[times < 2_000_000_000]
    wanted = np.concatenate([once + turn * 2_000_000_000 for turn in range(3)])
    np.testing.assert_array_equal(looped_times[: len(wanted)], wanted)


def test_bundle_feeds_the_streams_that_the_scenario_has() -> None:
    needs = {
        "camera": StreamNeeds(stream="camera", kind="camera"),
        "microphone.left": StreamNeeds(stream="microphone.left", kind="microphone"),
        "text": StreamNeeds(stream="text", kind="text"),
    }
    specs = gopro_specs("a.mp4", needs)
    assert {name: spec.scheme for name, spec in specs.items()} == {"camera": "video", "microphone.left": "audio"}
    assert {spec.target for spec in specs.values()} == {"a.mp4"}


@pytest.mark.parametrize(
    ("file", "blocks", "speeds", "accelerations", "speed_mps", "seconds"),
    [("karma.mp4", 241, 47, 2397, (1.0, 10.0), 12.0787), ("max-heromode.mp4", 210, 191, 2082, (0.5, 1.45), 10.5105)],
)
def test_real_recording_gives_its_measurements(
    file: str, blocks: int, speeds: int, accelerations: int, speed_mps: tuple[float, float], seconds: float
) -> None:
    path = SHARED / "data/driving/gopro_gpmf" / file
    if not path.exists():
        pytest.skip("needs ../shared with the GoPro recordings")
    info, packets, (times, values, valid) = read(path)
    assert (len(packets), int(valid[:, 0].sum()), int(valid[:, 3].sum())) == (blocks, speeds, accelerations)
    assert (np.diff(times) > 0).all()
    speed = values[valid[:, 0], 0]
    assert speed_mps[0] < speed.mean() < speed_mps[1]
    assert 8 < values[valid[:, 3], 3].mean() < 11  # gravity points down
    assert not valid[:, 5].any()
    assert min(after.capture_ns - before.capture_ns for before, after in pairwise(packets)) >= info.min_gap_ns
    assert abs(loop_period_ns(str(path)) / 1e9 - seconds) < 1e-3
