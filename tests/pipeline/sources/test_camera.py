from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.formats.decode import decoder_for
from pipeline.formats.media import loop_period_ns
from pipeline.sources.base import Packet, SourceError, SourceSpec, StreamInfo, StreamNeeds
from pipeline.sources.camera import ImageFolder, VideoFile
from pipeline.sources.looped import Looped

av = pytest.importorskip("av")

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared"
FRAMES, WIDTH, HEIGHT = 40, 64, 48


def camera(path: Path, scheme: str = "video", **options: str) -> SourceSpec:
    return SourceSpec(needs=StreamNeeds(stream="camera", kind="camera"), scheme=scheme, target=str(path), options=options)


def picture(index: int) -> np.ndarray:
    """A grey that tells the frame's number."""
    return np.full((HEIGHT, WIDTH, 3), 20 + 5 * index, dtype=np.uint8)


def write_video(path: Path, codec: str = "libx264", frames: int = FRAMES, rate: int = 25, **options: str) -> Path:
    if codec not in av.codec.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate, options=options)
        video.width, video.height = WIDTH, HEIGHT
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def read(path: Path) -> tuple[StreamInfo, list[Packet]]:
    with VideoFile(camera(path)) as source:
        return source.info, [packet for packet in source.packets() if packet is not None]


def decoded(info: StreamInfo, packets: list[Packet]) -> list[np.ndarray]:
    decoder = decoder_for(info)
    return [decoder.decode(packet.chunks) for packet in packets]


VIDEOS = {
    "h264 in order": ("a.mp4", "libx264", {"bf": "0", "g": "10", "preset": "ultrafast"}),
    "h264 reordered": ("a.mp4", "libx264", {"bf": "3", "g": "15", "x264-params": "b-adapt=0:b-pyramid=normal"}),
    "hevc reordered": ("a.mp4", "libx265", {"x265-params": "bframes=3:b-adapt=0:keyint=15:log-level=none"}),
    "mpeg4 reordered": ("a.mkv", "mpeg4", {"bf": "2", "g": "12"}),
    "mjpeg": ("a.avi", "mjpeg", {}),
    "vp9": ("a.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_comes_out_once_in_order_at_its_time(tmp_path: Path, name: str) -> None:
    file, codec, options = VIDEOS[name]
    path = write_video(tmp_path / file, codec, **options)
    info, packets = read(path)
    assert [packet.capture_ns for packet in packets] == [index * 40_000_000 for index in range(FRAMES)]
    assert (info.period_ns, info.min_gap_ns) == (40_000_000, 40_000_000)
    images = decoded(info, packets)
    assert {image.shape for image in images} == {(HEIGHT, WIDTH, 3)}
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    np.testing.assert_allclose([image.mean() for image in images], shown, atol=1.5)
    np.testing.assert_allclose(shown, 20 + 5 * np.arange(FRAMES), atol=4.9)  # the pictures tell the frames apart


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_decoded_from_kept_chunks_are_bit_identical(tmp_path: Path, name: str) -> None:
    file, codec, options = VIDEOS[name]
    info, packets = read(write_video(tmp_path / file, codec, **options))
    # A log keeps only bytes and the description.
    kept = [replace(packet, chunks=tuple(bytes(bytearray(chunk)) for chunk in packet.chunks)) for packet in packets]
    for live, replayed in zip(decoded(info, packets), decoded(info, kept), strict=True):
        np.testing.assert_array_equal(live, replayed)


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_decoded_from_a_log_are_bit_identical(tmp_path: Path, name: str) -> None:
    from pipeline.logs.writer import LogWriter
    from pipeline.messages import Announcement, Header, Recording
    from pipeline.sources.log import LogSource

    file, codec, options = VIDEOS[name]
    info, packets = read(write_video(tmp_path / file, codec, **options))
    log_path = tmp_path / "a.mcap"
    with LogWriter(log_path, scenario="driving", origin_ns=0, streams=[info], metadata={}) as log:
        for seq, packet in enumerate(packets):
            header = Header(stream="camera", seq=seq, capture_ns=packet.capture_ns, receive_ns=packet.arrival_ns)
            log.announcement(Recording(announcement=Announcement(header=header), chunks=packet.chunks))
        log.finish({})
    with LogSource(camera(log_path, "log")) as source:
        kept = [packet for packet in source.packets() if packet is not None]
    assert [packet.chunks for packet in kept] == [packet.chunks for packet in packets]
    for live, replayed in zip(decoded(info, packets), decoded(source.info, kept), strict=True):
        np.testing.assert_array_equal(live, replayed)


def test_video_in_order_has_one_annexb_chunk_a_frame_and_keyframes_carry_parameter_sets(tmp_path: Path) -> None:
    info, packets = read(write_video(tmp_path / "a.mp4", bf="0", g="10"))
    assert info.encoding.extradata == b""
    assert {len(packet.chunks) for packet in packets} == {1}
    for index, packet in enumerate(packets):
        assert packet.chunks[0].startswith((b"\0\0\0\1", b"\0\0\1"))
        has_sps = any(unit[:1] and unit[0] & 31 == 7 for unit in packet.chunks[0].split(b"\0\0\1"))
        assert has_sps == (index % 10 == 0)


def test_reordered_video_has_its_delay_in_the_first_packet_and_one_flush_at_the_end(tmp_path: Path) -> None:
    _, packets = read(write_video(tmp_path / "a.mp4", bf="3", **{"x264-params": "b-adapt=0"}))
    chunks = [chunk for packet in packets for chunk in packet.chunks]
    assert len(packets[0].chunks) > 1
    assert chunks.count(b"") == 1
    assert len(chunks) == FRAMES + 1


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("bf", ["0", "3"])
def test_video_shorter_than_the_codec_delay_gives_all_its_frames(tmp_path: Path, frames: int, bf: str) -> None:
    info, packets = read(write_video(tmp_path / "a.mp4", frames=frames, bf=bf))
    assert len(decoded(info, packets)) == frames


def test_colour_survives_matrix_and_range(tmp_path: Path) -> None:
    import av as pyav

    path = tmp_path / "a.mp4"
    with pyav.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"qp": "0"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # BT.601, limited range: what pure red is by the standard's formula.
        planes = np.concatenate(
            [np.full(WIDTH * HEIGHT, 81), np.full(WIDTH * HEIGHT // 4, 90), np.full(WIDTH * HEIGHT // 4, 240)]
        ).astype(np.uint8)
        frame = pyav.VideoFrame.from_ndarray(planes.reshape(HEIGHT * 3 // 2, WIDTH), format="yuv420p")
        frame.pts = 0
        container.mux(video.encode(frame))
        container.mux(video.encode())
    info, packets = read(path)
    (image,) = decoded(info, packets)
    assert np.abs(image.reshape(-1, 3).mean(axis=0) - (255, 0, 0)).max() < 3


@pytest.mark.parametrize("bf", ["0", "3"])
def test_loop_gives_the_same_frames_again_one_period_later(tmp_path: Path, bf: str) -> None:
    path = write_video(tmp_path / "a.mp4", bf=bf, g="15")
    info, packets = read(path)
    once = decoded(info, packets)
    period_ns = loop_period_ns(str(path))
    assert period_ns == FRAMES * 40_000_000
    with Looped(VideoFile(camera(path)), period_ns) as looped:
        twice = [packet for packet in islice(looped.packets(), 2 * FRAMES + 5) if packet is not None]
    again = decoded(looped.info, twice)
    for index, image in enumerate(again):
        np.testing.assert_array_equal(image, once[index % FRAMES])
    assert {after.capture_ns - before.capture_ns for before, after in pairwise(twice)} == {40_000_000}


@pytest.mark.parametrize("bf", ["0", "3"])
def test_loop_shorter_than_the_video_leaves_out_its_tail_and_still_decodes_right(tmp_path: Path, bf: str) -> None:
    path = write_video(tmp_path / "a.mp4", bf=bf, g="15")
    once = decoded(*read(path))
    with Looped(VideoFile(camera(path)), 25 * 40_000_000) as looped:
        packets = [packet for packet in islice(looped.packets(), 60) if packet is not None]
    for index, image in enumerate(decoded(looped.info, packets)):
        np.testing.assert_array_equal(image, once[index % 25])


def test_stop_ends_a_loop(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", bf="0")
    with Looped(VideoFile(camera(path)), loop_period_ns(str(path))) as looped:
        packets = looped.packets()
        assert next(packets) is not None
        looped.stop()
        assert list(packets) == []


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"camera: no file '.*b\.mp4'"), VideoFile(camera(tmp_path / "b.mp4")):
        pass


@pytest.mark.parametrize("fast_start", [False, True], ids=["index at the end", "index at the beginning"])
def test_mp4_cut_short_is_refused_when_opened(tmp_path: Path, fast_start: bool) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"} if fast_start else {}) as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode())
    whole = path.read_bytes()
    for end in (len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:end])
        with pytest.raises(SourceError, match="cut short") as caught, VideoFile(camera(path)):
            pass
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_file_without_video_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), dtype=np.int16), format="s16", layout="mono")
        frame.rate = 16_000
        container.mux(sound.encode(frame))
    with pytest.raises(SourceError, match=r"has no video.*camera=none"), VideoFile(camera(path)):
        pass


@pytest.mark.parametrize("content", [b"", b"not a film", b"\0\0\0\x18ftypmp42" + bytes(200)])
def test_file_that_is_no_video_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="camera: ") as caught, VideoFile(camera(path)):
        pass
    assert "\n" not in str(caught.value)


def test_damaged_packet_costs_its_frame_and_decoding_goes_on_at_the_next_keyframe(tmp_path: Path) -> None:
    info, packets = read(write_video(tmp_path / "a.mp4", bf="0", g="10"))
    decoder = decoder_for(info)
    good = decoded(info, packets)
    for packet in packets[:5]:
        decoder.decode(packet.chunks)
    with pytest.raises(SourceError, match="camera: "):
        decoder.decode((b"\0\0\0\1\x67\xff\xff",))
    for index in range(10, 20):
        np.testing.assert_array_equal(decoder.decode(packets[index].chunks), good[index])


def write_images(folder: Path, suffix: str, count: int) -> None:
    import cv2

    for index in range(count):
        cv2.imwrite(str(folder / f"{index}{suffix}"), picture(index))


def test_images_come_in_natural_order_at_the_given_rate(tmp_path: Path) -> None:
    write_images(tmp_path, ".png", 12)
    (tmp_path / "notes.txt").write_text("no image")
    with ImageFolder(camera(tmp_path, "images", fps="30")) as source:
        packets = [packet for packet in source.packets() if packet is not None]
    assert [packet.capture_ns for packet in packets] == [index * 1_000_000_000 // 30 for index in range(12)]
    assert source.info.min_gap_ns <= min(b.capture_ns - a.capture_ns for a, b in pairwise(packets))
    for index, image in enumerate(decoded(source.info, packets)):
        np.testing.assert_array_equal(image, picture(index))


def test_folder_with_mixed_or_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds 0"), ImageFolder(camera(tmp_path, "images")):
        pass
    write_images(tmp_path, ".png", 1)
    write_images(tmp_path, ".jpg", 1)
    with pytest.raises(SourceError, match="mixes PNG and JPEG"), ImageFolder(camera(tmp_path, "images")):
        pass


def test_broken_image_is_refused_by_its_name(tmp_path: Path) -> None:
    write_images(tmp_path, ".png", 3)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:-20])
    with ImageFolder(camera(tmp_path, "images")) as source, pytest.raises(SourceError, match=r"1\.png"):
        list(source.packets())


@pytest.mark.parametrize("fps", ["0", "-1", "x", "1/0", "nan", "1e9"])
def test_frame_rate_out_of_range_is_refused(tmp_path: Path, fps: str) -> None:
    with pytest.raises(SourceError, match="fps="):
        ImageFolder(camera(tmp_path, "images", fps=fps))


@pytest.mark.parametrize(
    ("file", "frames", "size", "period_ns"),
    [
        ("gopro_gpmf/karma.mp4", 362, (480, 854, 3), 33_366_666),
        ("gopro_gpmf/max-heromode.mp4", 315, (480, 848, 3), 33_366_666),
        ("udacity_lane_clip/solidWhiteRight.mp4", 221, (540, 960, 3), 40_000_000),
    ],
)
def test_real_video_gives_all_its_frames(file: str, frames: int, size: tuple[int, int, int], period_ns: int) -> None:
    path = SHARED / "data/driving" / file
    if not path.exists():
        pytest.skip("needs ../shared with the driving recordings")
    info, packets = read(path)
    assert (len(packets), info.period_ns) == (frames, period_ns)
    assert all(after.capture_ns - before.capture_ns >= info.min_gap_ns for before, after in pairwise(packets))
    images = decoded(info, packets[:60])
    assert {image.shape for image in images} == {size}
    assert all(image.flags.c_contiguous for image in images)
    with av.open(str(path)) as container:
        wanted = [frame.to_ndarray(format="gray") for frame in islice(container.decode(video=0), 60)]
    for image, luma in zip(images, wanted, strict=True):
        seen = image.mean(axis=2)
        assert np.corrcoef(seen[::8, ::8].ravel(), luma[::8, ::8].ravel())[0, 1] > 0.98


def test_metadata_that_is_no_utf8_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE"
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        container.mux(video.encode())
    content = path.read_bytes()
    assert b"TITLE" in content
    path.write_bytes(content.replace(b"TITLE", b"\xe8\xff\xfeLE"))
    assert len(read(path)[1]) == 1
