"""Text files and their lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.base import SourceError, SourceSpec, StreamNeeds
from pipeline.sources.text import TextFile, packets_of_lines


def test_lines_become_sparse_packets_at_their_times(tmp_path):
    (tmp_path / "t.txt").write_text("# a comment\n0.5 siren ahead\n\n12.25\tähem\r\n", encoding="utf-8")
    spec = SourceSpec(needs=StreamNeeds(stream="text", kind="text"), scheme="text", target=str(tmp_path / "t.txt"))
    with TextFile(spec) as source:
        packets = list(source.packets())
        assert source.info.period_ns == 0
    assert [(p.capture_ns, p.chunks[0].decode()) for p in packets] == [
        (500_000_000, "siren ahead"),
        (12_250_000_000, "ähem"),
    ]


def test_a_stopped_file_ends(tmp_path):
    (tmp_path / "t.txt").write_text("0 a\n1 b\n2 c\n")
    spec = SourceSpec(needs=StreamNeeds(stream="text", kind="text"), scheme="text", target=str(tmp_path / "t.txt"))
    with TextFile(spec) as source:
        packets = source.packets()
        next(packets)
        source.stop()
        assert list(packets) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no line"),
        (b"1 a\n0.5 b\n", "line 2: time runs backwards"),
        (b"hello\n", "line 1 is not SECONDS TEXT"),
        (b"1\n", "line 1 is not SECONDS TEXT"),
        (b"-1 a\n", "line 1 is not SECONDS TEXT"),
        (b"nan a\n", "line 1 is not SECONDS TEXT"),
        (b"0 a\n1 \xff\n", "line 2 is not UTF-8"),
        (b"0 " + b"x" * 4097, "4097 bytes"),
        (b"99999999 a\n", "more than a day"),
    ],
)
def test_a_broken_file_names_its_line(content, message):
    with pytest.raises(SourceError, match=message):
        packets_of_lines(content, "t.txt")


def test_a_missing_file_is_a_source_error(tmp_path):
    spec = SourceSpec(needs=StreamNeeds(stream="text", kind="text"), scheme="text", target=str(tmp_path / "no.txt"))
    with pytest.raises(SourceError, match="check the path"):
        TextFile(spec).__enter__()


@given(st.binary(max_size=200))
def test_any_bytes_give_ordered_utf8_packets_or_one_line(content):
    try:
        packets = packets_of_lines(content, "t")
    except SourceError as error:
        assert "\n" not in str(error)
        return
    captures = [p.capture_ns for p in packets]
    assert captures == sorted(captures)
    for packet in packets:
        assert 0 < len(packet.chunks[0].decode("utf-8").encode()) <= 4096
