"""The camera's and the microphone's own logic; test_microphone_device.py has the microphone on a real sound server."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

cv2 = pytest.importorskip("cv2")

from pipeline.sources.base import Packet, SourceError, SourceLost, SourceSpec, StreamNeeds  # noqa: E402
from pipeline.sources.devices import AudioStamper, CameraDevice, Handover  # noqa: E402

FRAMES = 6


def camera(path, *, recording: bool = False, options: dict[str, str] | None = None) -> CameraDevice:
    """A camera on OpenCV's real VideoCapture, opened on a file that ends as an unplugged camera does: grab() fails."""
    needs = StreamNeeds(stream="camera", kind="camera", recording=recording)
    spec = SourceSpec(needs=needs, scheme="camera-device", target=str(path), options=options or {})
    return CameraDevice(spec, open_capture=cv2.VideoCapture)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (64, 48))
    assert writer.isOpened()
    for _ in range(FRAMES):
        image = np.zeros((48, 64, 3), np.uint8)
        image[:, :, 0] = 200  # blue, in OpenCV's BGR
        writer.write(image)
    writer.release()
    return path


def until_lost(source) -> tuple[list[Packet], SourceLost]:
    packets: list[Packet] = []
    with pytest.raises(SourceLost) as caught:
        packets.extend(packet for packet in source.packets() if packet is not None)
    return packets, caught.value


def collected(source: CameraDevice) -> list[Packet]:
    packets: list[Packet] = []
    with source:
        try:
            for packet in source.packets():
                if packet is not None:
                    packets.append(packet)
        except SourceLost:
            pass
    return packets


def test_a_camera_whose_grab_fails_is_lost_and_says_so(film):
    with camera(film) as source:
        began = time.monotonic()
        _, error = until_lost(source)
    assert "camera" in str(error)
    assert "unplugged" in str(error)
    assert time.monotonic() - began < 2.0


def test_frames_are_rgb_and_stamped_at_grab_less_the_declared_latency(film):
    packets = collected(camera(film, options={"latency_ns": "30000000"}))
    assert packets
    for packet in packets:
        image = np.frombuffer(packet.chunks[0], np.uint8).reshape(48, 64, 3)
        assert image[24, 32, 2] > 180
        assert image[24, 32, 0] < 60
        assert packet.arrival_ns - packet.capture_ns == 30_000_000
        assert packet.arrival_ns <= time.monotonic_ns()
    captures = [packet.capture_ns for packet in packets]
    assert captures == sorted(captures)


def test_a_recorded_camera_compresses_and_says_its_size(film):
    source = camera(film, recording=True)
    packets = collected(source)
    assert (source.info.encoding.codec, source.info.encoding.width, source.info.encoding.height) == ("jpeg", 64, 48)
    assert source.info.period_ns == 40_000_000
    assert cv2.imdecode(np.frombuffer(packets[0].chunks[0], np.uint8), cv2.IMREAD_COLOR).shape == (48, 64, 3)


def test_an_absent_camera_is_a_source_error_with_the_fix(tmp_path):
    with pytest.raises(SourceError, match=r"cannot be opened; plug it in.*camera=none"):
        camera(tmp_path / "no.avi").__enter__()


def test_a_camera_without_a_frame_is_a_source_error():
    class Dark:
        released = False

        def isOpened(self):
            return True

        def grab(self):
            return False

        def release(self):
            self.released = True

    dark = Dark()
    spec = SourceSpec(needs=StreamNeeds(stream="camera", kind="camera"), scheme="camera-device", target="0")
    with pytest.raises(SourceError, match="gives no frame"):
        CameraDevice(spec, open_capture=lambda target: dark).__enter__()
    assert dark.released


def test_stop_ends_a_camera_that_blocks_in_grab():
    unblock = threading.Event()

    class Stuck:
        frames = 0

        def isOpened(self):
            return True

        def grab(self):
            self.frames += 1
            return self.frames == 1 or unblock.wait(10)

        def retrieve(self):
            return True, np.zeros((2, 2, 3), np.uint8)

        def get(self, prop):
            return 0.0

        def release(self):
            pass

    spec = SourceSpec(needs=StreamNeeds(stream="camera", kind="camera"), scheme="camera-device", target="0")
    with CameraDevice(spec, open_capture=lambda target: Stuck()) as source:
        packets = source.packets()
        assert next(packets) is None
        source.stop()
        began = time.monotonic()
        assert list(packets) == []
        assert time.monotonic() - began < 0.2
        unblock.set()


def test_a_full_handover_drops_the_oldest_and_counts_it():
    handover = Handover(2)
    for n in range(5):
        handover.put(Packet(capture_ns=n, arrival_ns=n, chunks=(b"",)))
    handover.put(SourceLost("gone"))
    packets, error = until_lost(_Lasting(handover))
    assert [packet.capture_ns for packet in packets] == [4]
    assert handover.overflows == 4
    assert str(error) == "gone"


class _Lasting:
    def __init__(self, handover: Handover) -> None:
        self._handover = handover

    def packets(self):
        return self._handover.packets(threading.Event(), "x")


RATE_HZ = 16_000
BLOCK = 800
BLOCK_NS = 50_000_000
LAST_NS = (BLOCK - 1) * 1_000_000_000 // RATE_HZ


def stamps(ages_ms, *, lost_at: int = -1, jitter_ms=None) -> list[tuple[int, int]]:
    """(capture, now) of blocks that come every 50 ms, whose first sample is said to be so old (None: nothing is said)."""
    stamper = AudioStamper(RATE_HZ)
    found = []
    for n, age_ms in enumerate(ages_ms):
        now_ns = 10**12 + n * BLOCK_NS + (round(jitter_ms[n] * 1e6) if jitter_ms else 0)
        adc_s = 0.0 if age_ms is None else 5.0 + n - age_ms / 1e3
        capture_ns = stamper.capture_ns(now_ns=now_ns, current_s=5.0 + n, adc_s=adc_s, samples=BLOCK, lost=n == lost_at)
        found.append((capture_ns, now_ns))
    return found


def test_a_block_is_stamped_at_its_last_sample():
    assert stamps([60.0])[0][0] == 10**12 - 60_000_000 + LAST_NS


def test_without_portaudios_time_samples_are_counted():
    captures = [capture for capture, _ in stamps([60.0, None, None, None])]
    assert np.diff(captures).tolist() == pytest.approx([BLOCK_NS] * 3, abs=2)


def test_without_any_time_the_first_block_ends_when_it_arrives():
    capture, now = stamps([None])[0]
    assert 0 <= now - capture <= 1_000_000_000 // RATE_HZ


def test_jitter_of_the_scheduler_is_smoothed():
    jitter = [0.0, 5.0, 0.5, 8.0, 0.0, 3.0, 0.0, 9.0]
    captures = [capture for capture, _ in stamps([100.0] * 8, jitter_ms=jitter)]
    assert np.abs(np.diff(captures) - BLOCK_NS).max() < 1_000_000


def test_a_jump_that_passes_is_ignored():
    captures = [capture for capture, _ in stamps([60.0] * 3 + [400.0] * 2 + [60.0] * 3)]
    assert np.diff(captures).tolist() == pytest.approx([BLOCK_NS] * 7, abs=10)


def test_a_jump_that_stays_is_followed_in_steps_that_break_no_window():
    captures = np.array([capture for capture, _ in stamps([250.0] * 8 + [60.0] * 60)])
    assert np.diff(captures).max() <= BLOCK_NS + 10_000_000
    expected_ns = 10**12 + 67 * BLOCK_NS - 60_000_000 + LAST_NS
    assert captures[-1] == pytest.approx(expected_ns, abs=5_000_000)


def test_lost_samples_step_at_once():
    captures = [capture for capture, _ in stamps([260.0, 260.0, 60.0], lost_at=2)]
    assert captures[2] - captures[1] == pytest.approx(BLOCK_NS + 200_000_000, abs=10)


def test_a_stamp_is_never_after_the_block_arrived():
    assert all(capture <= now for capture, now in stamps([45.0] * 40 + [10.0] * 40))


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.floats(-20_000, 20_000)), st.floats(0.001, 500), st.booleans()), max_size=30),
    st.sampled_from([1, 16, 160, 800, 16_000]),
)
def test_stamps_rise_and_never_pass_the_arrival_whatever_portaudio_says(blocks, samples):
    stamper = AudioStamper(RATE_HZ)
    now_ns = last_ns = 10**12
    for age_ms, passed_ms, lost in blocks:
        now_ns += round(passed_ms * 1e6)
        adc_s = 0.0 if age_ms is None else 100.0 - age_ms / 1e3
        capture_ns = stamper.capture_ns(now_ns=now_ns, current_s=100.0, adc_s=adc_s, samples=samples, lost=lost)
        assert capture_ns <= now_ns
        assert capture_ns > last_ns or last_ns == 10**12
        last_ns = capture_ns


def test_blocks_said_to_be_old_at_the_start_wait_until_they_settle():
    stamper = AudioStamper(RATE_HZ)
    ages_ms = [250.0] * 8 + [200.0, 150.0, 100.0, 50.0, 51.0, 400.0]
    settled = [stamper.settles(current_s=5.0, adc_s=5.0 - age / 1e3, samples=BLOCK) for age in ages_ms]
    assert settled == [False] * 12 + [True] * 2


def test_a_device_that_is_truly_slow_is_believed_after_2_s_and_one_without_times_at_once():
    stamper = AudioStamper(RATE_HZ)
    settled = [stamper.settles(current_s=5.0, adc_s=4.7, samples=BLOCK) for _ in range(40)]
    assert settled == [False] * 39 + [True]
    assert AudioStamper(RATE_HZ).settles(current_s=0.0, adc_s=0.0, samples=BLOCK)
