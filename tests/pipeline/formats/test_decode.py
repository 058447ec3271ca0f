import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.decode import MAX_ROWS, decoder_for
from pipeline.sources.base import Encoding, SourceError, StreamInfo, StreamKind


def info(codec: str, kind: StreamKind = "camera", **encoding: object) -> StreamInfo:
    return StreamInfo(
        stream=kind,
        kind=kind,
        encoding=Encoding(codec=codec, **encoding),
        period_ns=0,
        min_gap_ns=0,
        origin="here",  # type: ignore[arg-type]
    )


def encoded(suffix: str, image: np.ndarray) -> bytes:
    import cv2

    return bytes(cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]))[1])


IMAGE = np.zeros((24, 32, 3), dtype=np.uint8)
IMAGE[:, :16] = (200, 30, 10)


def test_png_comes_back_exactly_as_rgb() -> None:
    decoded = decoder_for(info("png", width=32, height=24)).decode((encoded(".png", IMAGE),))
    np.testing.assert_array_equal(decoded, IMAGE)


def test_jpeg_comes_back_as_rgb() -> None:
    decoded = decoder_for(info("jpeg")).decode((encoded(".jpg", IMAGE),))
    assert np.abs(decoded[:, :12].astype(int) - (200, 30, 10)).max() < 12


@pytest.mark.parametrize(("codec", "suffix"), [("png", ".png"), ("jpeg", ".jpg")])
def test_image_cut_short_is_refused_by_stream(codec: str, suffix: str) -> None:
    content = encoded(suffix, IMAGE)
    for end in (0, 10, len(content) // 2, len(content) - 4):
        with pytest.raises(SourceError, match=r"camera: .*here"):
            decoder_for(info(codec)).decode((content[:end],))


def test_image_of_another_size_than_the_stream_is_refused() -> None:
    with pytest.raises(SourceError, match="is 32x24 in a stream of 64x48"):
        decoder_for(info("png", width=64, height=48)).decode((encoded(".png", IMAGE),))


def test_image_that_claims_too_many_pixels_is_refused_before_decoding() -> None:
    content = bytearray(encoded(".png", IMAGE))
    content[16:24] = (16_000).to_bytes(4, "big") * 2
    with pytest.raises(SourceError, match="is 16000x16000"):
        decoder_for(info("png")).decode((bytes(content),))


def test_raw_image_has_the_declared_shape() -> None:
    decoder = decoder_for(info("rgb8", width=32, height=24))
    np.testing.assert_array_equal(decoder.decode((IMAGE.tobytes(),)), IMAGE)
    with pytest.raises(SourceError, match="not 24 x 32 x 3"):
        decoder.decode((IMAGE.tobytes()[:-1],))


def test_pcm_is_little_endian_int16() -> None:
    decoder = decoder_for(info("pcm-s16", "microphone"))
    decoded = decoder.decode((b"\1\0\xff\xff",))
    assert decoded.dtype == np.int16
    assert decoded.tolist() == [1, -1]
    with pytest.raises(SourceError, match="microphone"):
        decoder.decode((b"\1\0\2",))


def test_text_is_utf8_of_bounded_length() -> None:
    decoder = decoder_for(info("text", "text"))
    assert decoder.decode(("Grüße".encode(),)) == "Grüße"
    for bad in (b"\xff", b"x" * 4097):
        with pytest.raises(SourceError, match="text: "):
            decoder.decode((bad,))


CHANNELS = ("speed_mps", "yaw_rate_radps")


def telemetry(block: object) -> bytes:
    return json.dumps(block).encode()


def test_telemetry_null_is_invalid_and_zero() -> None:
    decoder = decoder_for(info("telemetry-json", "telemetry", channels=CHANNELS))
    offsets_ns, values, valid = decoder.decode((telemetry({"offsets_ns": [5, 0], "values": [[1.5, None], [2, -0.0]]}),))
    assert (offsets_ns.dtype, values.dtype, valid.dtype) == (np.int64, np.float32, np.bool_)
    assert offsets_ns.tolist() == [5, 0]
    assert values.tolist() == [[1.5, 0.0], [2.0, 0.0]]
    assert not np.signbit(values).any()
    assert valid.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"offsets_ns":[0],"values":[[NaN,1]]}',
        b'{"offsets_ns":[0],"values":[[1e999,1]]}',
        b'{"offsets_ns":[0],"values":[[1e39,1]]}',
        b'{"offsets_ns":[0],"values":[[1' + b"0" * 400 + b",1]]}",
        telemetry({"offsets_ns": [], "values": []}),
        telemetry({"offsets_ns": [0], "values": [[1]]}),
        telemetry({"offsets_ns": [0], "values": [[1, "2"]]}),
        telemetry({"offsets_ns": [0], "values": [[1, True]]}),
        telemetry({"offsets_ns": [0], "values": [1]}),
        telemetry({"offsets_ns": [1], "values": [[1, 1]]}),
        telemetry({"offsets_ns": [0, 5, 0], "values": [[1, 1]] * 3}),
        telemetry({"offsets_ns": [-1, 0], "values": [[1, 1]] * 2}),
        telemetry({"offsets_ns": [2**63, 0], "values": [[1, 1]] * 2}),
        telemetry({"offsets_ns": [0] * (MAX_ROWS + 1), "values": [[1, 1]] * (MAX_ROWS + 1)}),
        b" " * (2**20 + 1),
    ],
    ids=range(19),
)
def test_broken_telemetry_is_refused_by_stream(content: bytes) -> None:
    decoder = decoder_for(info("telemetry-json", "telemetry", channels=CHANNELS))
    with pytest.raises(SourceError, match="telemetry: ") as caught:
        decoder.decode((content,))
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300), st.sampled_from(["jpeg", "png", "pcm-s16", "telemetry-json", "text"]))
def test_arbitrary_bytes_raise_nothing_but_source_error(content: bytes, codec: str) -> None:
    decoder = decoder_for(info(codec, channels=CHANNELS))
    for prefix in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"):
        try:
            decoder.decode((prefix + content,))
        except SourceError as error:
            assert "\n" not in str(error)


def test_unknown_codecs_are_refused() -> None:
    with pytest.raises(SourceError, match="no decoder for 'mp3'"):
        decoder_for(info("mp3"))
    pytest.importorskip("av")
    for codec in ("av:nothing", "av:aac"):
        with pytest.raises(SourceError, match="camera: "):
            decoder_for(info(codec)).decode((b"x",))


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_video_decoder_on_arbitrary_chunks_raises_nothing_but_source_error(chunks: list[bytes]) -> None:
    pytest.importorskip("av")
    decoder = decoder_for(info("av:h264"))
    for chunk in chunks:
        with pytest.raises(SourceError):
            decoder.decode((b"\0\0\0\1\x67" + chunk,))
