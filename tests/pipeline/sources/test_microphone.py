from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.formats.decode import decoder_for
from pipeline.sources.base import Packet, SourceError, SourceSpec, StreamNeeds
from pipeline.sources.looped import Looped
from pipeline.sources.microphone import AudioFile, blocks_of

av = pytest.importorskip("av")

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared"
RATE_HZ = 16_000


def microphone(path: Path, **needs: int) -> SourceSpec:
    return SourceSpec(needs=StreamNeeds(stream="microphone", kind="microphone", **needs), scheme="audio", target=str(path))  # type: ignore[arg-type]


def write_sound(
    path: Path,
    pcm: np.ndarray,
    *,
    codec: str = "pcm_s16le",
    rate_hz: int = RATE_HZ,
    video_start: int | None = None,
    sound_start: int = 0,
) -> Path:
    """``pcm`` int16 [channels, samples]; starts in samples, a video of 25 Hz from ``video_start`` (in frames) unless None."""
    layout = "mono" if len(pcm) == 1 else "stereo"
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec, rate=rate_hz, layout=layout)
        if video_start is not None:
            video = container.add_stream("libx264", rate=25, options={"bf": "0"})
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for index in range(10):
                picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), dtype=np.uint8))
                picture.pts, picture.time_base = video_start + index, Fraction(1, 25)
                container.mux(video.encode(picture))
            container.mux(video.encode())
        resampler = av.AudioResampler(format=sound.format, layout=layout, rate=rate_hz)
        for at in range(0, pcm.shape[1], 1024):
            packed = np.ascontiguousarray(pcm[:, at : at + 1024].T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
            frame.rate, frame.pts, frame.time_base = rate_hz, sound_start + at, Fraction(1, rate_hz)
            for piece in resampler.resample(frame):
                container.mux(sound.encode(piece))
        container.mux(sound.encode())
    return path


def ramp(samples: int) -> np.ndarray:
    return np.arange(samples, dtype=np.int16).reshape(1, -1)


def read(path: Path, **needs: int) -> tuple[AudioFile, list[Packet], np.ndarray]:
    with AudioFile(microphone(path, **needs)) as source:
        packets = [packet for packet in source.packets() if packet is not None]
    decoder = decoder_for(source.info)
    return source, packets, np.concatenate([decoder.decode(packet.chunks) for packet in packets])


def test_sound_at_the_right_rate_comes_back_sample_for_sample(tmp_path: Path) -> None:
    source, packets, pcm = read(write_sound(tmp_path / "a.wav", ramp(16_300)))
    np.testing.assert_array_equal(pcm, ramp(16_300)[0])
    assert [len(packet.chunks[0]) // 2 for packet in packets] == [800] * 19 + [1100]
    assert [packet.capture_ns for packet in packets[:3]] == [49_937_500, 99_937_500, 149_937_500]
    assert packets[-1].capture_ns == 16_299 * 62_500
    assert packets[0].span_ns == 50_000_000
    assert packets[-1].span_ns == 1100 * 62_500
    assert source.info.min_gap_ns == 49_937_500


def test_blocks_join_without_gap_and_keep_the_least_gap(tmp_path: Path) -> None:
    source, packets, _ = read(write_sound(tmp_path / "a.wav", ramp(9_999)), block_ns=30_000_000)
    for before, after in pairwise(packets):
        assert after.capture_ns - after.span_ns == before.capture_ns
        assert after.capture_ns - before.capture_ns >= source.info.min_gap_ns


def test_sound_shorter_than_a_block_is_one_packet(tmp_path: Path) -> None:
    _, packets, pcm = read(write_sound(tmp_path / "a.wav", ramp(100)))
    assert len(packets) == 1
    assert (len(pcm), packets[0].capture_ns, packets[0].span_ns) == (100, 99 * 62_500, 100 * 62_500)


def test_stereo_of_another_rate_becomes_mono_of_the_scenarios(tmp_path: Path) -> None:
    t = np.arange(48_000) / 48_000
    tone = (8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)
    _, _, pcm = read(write_sound(tmp_path / "a.wav", np.stack([tone, tone]), rate_hz=48_000))
    assert abs(len(pcm) - 16_000) <= 32
    spectrum = np.abs(np.fft.rfft(pcm[:16_000].astype(float), 16_000))
    assert int(spectrum.argmax()) == 440
    assert 7800 < np.abs(pcm).max() < 8200


@pytest.mark.parametrize(("sound_start", "first_at"), [(0, 0), (4_800, 0.1), (12_000, 0.25)])
def test_sound_of_a_video_lies_where_it_was_heard(tmp_path: Path, sound_start: int, first_at: float) -> None:
    t = np.arange(48_000) / 48_000
    tone = (8000 * np.sin(2 * np.pi * 440 * t) * (t > 0.5)).astype(np.int16)
    sound = tone.reshape(1, -1)
    path = write_sound(tmp_path / "a.mp4", sound, codec="aac", rate_hz=48_000, video_start=0, sound_start=sound_start)
    _, packets, pcm = read(path)
    start_ns = packets[0].capture_ns - packets[0].span_ns
    onset = int(np.flatnonzero(np.abs(pcm) > 2000)[0])
    heard_s = start_ns / 1e9 + onset / RATE_HZ
    assert abs(heard_s - (first_at + 0.5)) < 0.02


def test_sound_before_the_first_frame_is_left_out(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mkv", ramp(16_000), video_start=5)  # the picture begins 0.2 s after the sound
    _, packets, pcm = read(path)
    assert packets[0].capture_ns == 799 * 62_500
    assert pcm[0] == 3200
    assert len(pcm) == 12_800


def test_loop_runs_on_in_whole_blocks_through_the_seam(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", ramp(2_500))
    period_ns = 2_000 * 62_500
    with Looped(AudioFile(microphone(path)), period_ns) as looped:
        packets = [packet for packet in islice(looped.packets(), 10) if packet is not None]
    decoder = decoder_for(looped.info)
    pcm = np.concatenate([decoder.decode(packet.chunks) for packet in packets])
    np.testing.assert_array_equal(pcm, np.tile(np.arange(2_000), 4))
    assert {after.capture_ns - before.capture_ns for before, after in pairwise(packets)} == {50_000_000}


def test_loop_longer_than_the_sound_is_silent_to_the_end_of_a_block_and_then_absent(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", ramp(1_000) + 1)
    with Looped(AudioFile(microphone(path)), 4_000 * 62_500) as looped:
        packets = [packet for packet in islice(looped.packets(), 4) if packet is not None]
    assert [(packet.capture_ns // 62_500 + 1) // 800 for packet in packets] == [1, 2, 6, 7]
    second = decoder_for(looped.info).decode(packets[1].chunks)
    assert second[:200].tolist() == list(range(801, 1001))
    assert not second[200:].any()


def test_hole_between_segments_fills_its_block_and_skips_whole_ones() -> None:
    ones = np.ones(10, dtype=np.int16)
    blocks = [(at, pcm.tolist()) for at, pcm in blocks_of([(5, ones), (38, ones)], 8)]
    assert blocks == [(5, [1] * 8), (13, [1, 1] + [0] * 6), (37, [0] + [1] * 10)]


def test_hole_inside_a_block_is_silence() -> None:
    ones = np.ones(3, dtype=np.int16)
    assert [(at, pcm.tolist()) for at, pcm in blocks_of([(0, ones), (5, ones)], 8)] == [(0, [1, 1, 1, 0, 0, 1, 1, 1])]


def test_video_without_sound_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), dtype=np.uint8))))
        container.mux(video.encode())
    with pytest.raises(SourceError, match=r"microphone: '.*a\.mp4' has no sound.*microphone=none"), AudioFile(microphone(path)):
        pass


def test_missing_and_meaningless_files_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_bytes(b"RIFF nothing")
    for name in ("a.wav", "b.wav"):
        with pytest.raises(SourceError, match="microphone: ") as caught, AudioFile(microphone(tmp_path / name)):
            pass
        assert "\n" not in str(caught.value)


def test_block_that_is_no_whole_number_of_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="block_ns 33000001"):
        AudioFile(microphone(tmp_path / "a.wav", block_ns=33_000_001))


@pytest.mark.parametrize(
    ("file", "seconds"),
    [
        ("driving/gopro_gpmf/karma.mp4", 12.07),
        ("driving/gopro_gpmf/max-heromode.mp4", 10.52),
        ("driving/udacity_lane_clip/solidWhiteRight.mp4", 8.85),
        ("driving/scaper_traffic_audio/background_street/150993__saphe__street-scene-1.wav", 45.0),
        ("audio_events/esc10/helicopter/2-37806-B.ogg", 5.0),
    ],
)
def test_real_sound_has_its_length(file: str, seconds: float) -> None:
    path = SHARED / "data" / file
    if not path.exists():
        pytest.skip("needs ../shared with the recordings")
    source, packets, pcm = read(path)
    assert abs(len(pcm) / RATE_HZ - seconds) < 0.02
    assert min(after.capture_ns - before.capture_ns for before, after in pairwise(packets)) >= source.info.min_gap_ns
