import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.gpmf import MAX_DEPTH, GpmfError, numbers_of, parse, streams_of

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared"


def klv(key: str, kind: str, size: int, repeat: int, content: bytes) -> bytes:
    return key.encode() + struct.pack(">BBH", ord(kind), size, repeat) + content + bytes(-len(content) % 4)


def nest(key: str, *children: bytes) -> bytes:
    content = b"".join(children)
    return klv(key, "\0", 1, len(content), content)


def accl(scale: int = 10) -> bytes:
    return nest(
        "DEVC",
        klv("DVNM", "c", 1, 6, b"Camera"),
        nest(
            "STRM",
            klv("STNM", "c", 1, 13, b"Accelerometer"),
            klv("SIUN", "c", 5, 1, b"m/s\xb2\0"),
            klv("TSMP", "L", 4, 1, struct.pack(">L", 2)),
            klv("SCAL", "s", 2, 1, struct.pack(">h", scale)),
            klv("ACCL", "s", 6, 2, struct.pack(">6h", 98, -1, 2, 97, 0, 3)),
        ),
    )


def test_stream_is_scaled_named_and_counted() -> None:
    (stream,) = streams_of(parse(accl()))
    assert (stream.key, stream.name, stream.units, stream.total) == ("ACCL", "Accelerometer", ("m/s²",), 2)
    np.testing.assert_allclose(stream.values, [[9.8, -0.1, 0.2], [9.7, 0.0, 0.3]])


@pytest.mark.parametrize(
    ("kind", "size", "content", "expected"),
    [
        ("b", 1, b"\xff", -1),
        ("B", 1, b"\xff", 255),
        ("s", 2, b"\xff\xfe", -2),
        ("S", 2, b"\xff\xfe", 65534),
        ("l", 4, b"\xff\xff\xff\xfd", -3),
        ("L", 4, b"\0\0\0\7", 7),
        ("f", 4, struct.pack(">f", 1.5), 1.5),
        ("d", 8, struct.pack(">d", -2.25), -2.25),
        ("j", 8, struct.pack(">q", -5), -5),
        ("J", 8, struct.pack(">Q", 5), 5),
        ("q", 4, struct.pack(">i", 3 << 15), 1.5),
        ("Q", 8, struct.pack(">q", -(3 << 31)), -1.5),
    ],
)
def test_every_numeric_type_reads_back(kind: str, size: int, content: bytes, expected: float) -> None:
    (node,) = parse(klv("DATA", kind, size, 1, content))
    assert numbers_of(node).tolist() == [[expected]]


def test_complex_structure_is_laid_out_by_its_type() -> None:
    content = struct.pack(">fffBc", 1.0, 2.0, 3.0, 4, b"x")
    (node,) = parse(klv("DATA", "?", 14, 1, content))
    values = numbers_of(node, "f[3]Bc")
    assert values[0, :4].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert np.isnan(values[0, 4])


@pytest.mark.parametrize("complex_type", ["", "f", "f[", "f[x]", "z[2]", "f[999]"])
def test_complex_type_that_does_not_fit_is_refused(complex_type: str) -> None:
    (node,) = parse(klv("DATA", "?", 14, 1, bytes(14)))
    with pytest.raises(GpmfError, match="byte 0"):
        numbers_of(node, complex_type)


def test_length_beyond_the_parent_is_refused_with_its_byte() -> None:
    payload = bytearray(accl())
    at = payload.index(b"ACCL")
    payload[at + 6 : at + 8] = struct.pack(">H", 200)
    with pytest.raises(GpmfError, match=rf"byte {at}: ACCL claims 1200 bytes, but its parent has 12 left"):
        parse(bytes(payload))


def test_payload_cut_anywhere_is_refused_or_empty() -> None:
    whole = accl()
    for end in range(1, len(whole)):
        with pytest.raises(GpmfError, match="byte 0"):
            parse(whole[:end])


def test_zero_scale_is_refused() -> None:
    with pytest.raises(GpmfError, match="SCAL"):
        list(streams_of(parse(accl(scale=0))))


def test_scale_of_another_width_than_the_data_is_refused() -> None:
    payload = nest("DEVC", nest("STRM", klv("SCAL", "s", 2, 2, struct.pack(">2h", 1, 1)), klv("ACCL", "s", 6, 1, bytes(6))))
    with pytest.raises(GpmfError, match="SCAL holds 2 divisors"):
        list(streams_of(parse(payload)))


def test_nesting_beyond_the_limit_is_refused() -> None:
    payload = klv("DATA", "B", 1, 1, b"\1")
    for _ in range(MAX_DEPTH + 1):
        payload = nest("NEST", payload)
    with pytest.raises(GpmfError, match="nested more than"):
        parse(payload)


@given(st.binary(max_size=600))
def test_arbitrary_bytes_raise_nothing_but_gpmf_error(payload: bytes) -> None:
    read_all(payload)


@given(st.integers(0, 255), st.integers(0, len(accl()) - 1))
def test_one_byte_changed_raises_nothing_but_gpmf_error(byte: int, at: int) -> None:
    payload = bytearray(accl())
    payload[at] = byte
    read_all(bytes(payload))


KLV = st.builds(
    klv,
    st.sampled_from(["ACCL", "SCAL", "TYPE", "TSMP", "SIUN", "GPSF", "ORIN"]),
    st.sampled_from("bBsSlLfdjJqQcFUG?"),
    st.integers(0, 24),
    st.integers(0, 6),
    st.binary(max_size=48),
)


@given(st.lists(KLV, max_size=6), st.data())
def test_streams_of_any_entries_raise_nothing_but_gpmf_error(entries: list[bytes], data: st.DataObject) -> None:
    read_all(nest("DEVC", nest("STRM", *entries)))
    fitting = []
    for _ in range(data.draw(st.integers(0, 5))):
        size, repeat = data.draw(st.integers(0, 24)), data.draw(st.integers(0, 4))
        key = data.draw(st.sampled_from(["ACCL", "SCAL", "TYPE", "TSMP", "SIUN", "GPSF"]))
        kind = data.draw(st.sampled_from("bBsSlLfdjJqQcFUG?"))
        fitting.append(klv(key, kind, size, repeat, data.draw(st.binary(min_size=size * repeat, max_size=size * repeat))))
    read_all(nest("DEVC", nest("STRM", *fitting)))


def read_all(payload: bytes) -> None:
    try:
        for stream in streams_of(parse(payload)):
            assert stream.values.ndim == 2
    except GpmfError as error:
        assert "\n" not in str(error)


def test_raw_drone_payload_holds_its_streams() -> None:
    path = SHARED / "data/driving/gopro_gpmf/karma.raw"
    if not path.exists():
        pytest.skip("needs ../shared with the GoPro recordings")
    streams = {stream.key: stream for stream in streams_of(parse(path.read_bytes()))}
    assert {"ACCL", "GYRO", "VFRH", "GLPI"} <= streams.keys()
    assert streams["ACCL"].name.startswith("Accelerometer")
    assert 8 < np.abs(streams["ACCL"].values[:, 0]).mean() < 12
