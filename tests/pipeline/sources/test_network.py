"""Live telemetry and text over UDP."""

import json
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.base import Channel, SourceError, SourceSpec, StreamNeeds
from pipeline.sources.network import UdpTelemetry, UdpText

CHANNELS = (Channel(name="speed_mps", unit="m/s", required=True), Channel(name="brake", unit="1"))
NOW_NS = 100_000_000_000


def telemetry(target: str = "127.0.0.1:0") -> UdpTelemetry:
    needs = StreamNeeds(stream="telemetry", kind="telemetry", channels=CHANNELS)
    return UdpTelemetry(SourceSpec(needs=needs, scheme="udp-telemetry", target=target))


def text() -> UdpText:
    needs = StreamNeeds(stream="text", kind="text")
    return UdpText(SourceSpec(needs=needs, scheme="udp-text", target="127.0.0.1:0"))


def first(source, *datagrams: bytes):
    """The first packet after sending, through a real socket."""
    with source, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        packets = source.packets()
        for datagram in datagrams:
            sender.sendto(datagram, source.address)
        return next(packet for packet in packets if packet is not None)


def test_a_datagram_over_a_real_socket_becomes_a_row_stamped_at_receipt():
    before_ns = time.monotonic_ns()
    packet = first(telemetry(), b'{"speed_mps": 13.25, "odd": 7}')
    assert json.loads(packet.chunks[0]) == {"offsets_ns": [0], "values": [[13.25, None]]}
    assert before_ns <= packet.capture_ns == packet.arrival_ns <= time.monotonic_ns()


def test_text_over_a_real_socket_arrives_after_rubbish_that_is_counted():
    source = text()
    packet = first(source, b"\xff\xfe", b'{"text": 5}', '{"text": " Martinshorn ähead "}'.encode())
    assert packet.chunks == ("Martinshorn ähead".encode(),)
    assert source.rejected == {"not JSON": 1, "no text": 1}


def test_silence_yields_none_and_stop_ends_it():
    with telemetry() as source:
        packets = source.packets()
        assert next(packets) is None
        stopper = threading.Timer(0.05, source.stop)
        stopper.start()
        began = time.monotonic()
        assert all(packet is None for packet in packets)
        assert time.monotonic() - began < 0.25
        stopper.join()


def test_a_port_in_use_is_a_source_error_with_the_fix():
    with telemetry() as source, pytest.raises(SourceError, match="choose another port"):
        telemetry(f"127.0.0.1:{source.address[1]}").__enter__()


def test_an_address_that_is_not_ours_is_a_source_error():
    with pytest.raises(SourceError, match="name an address of this host"):
        telemetry("192.0.2.1:5005").__enter__()


def test_lines_of_one_datagram_are_rows_and_time_s_is_their_capture():
    source = telemetry()
    lines = b'{"time_s": 99.5, "speed_mps": 1}\n{"time_s": 99.75, "brake": 0.5}\n'
    packets = list(source.packets_of_datagram(lines, NOW_NS))
    assert [(p.capture_ns, p.arrival_ns) for p in packets] == [(99_500_000_000, NOW_NS), (99_750_000_000, NOW_NS)]
    assert json.loads(packets[1].chunks[0])["values"] == [[None, 0.5]]
    assert source.rejected == {}


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"[1]", "not an object"),
        (b'{"speed_mps": NaN}', "not JSON"),
        (b'{"speed_mps": 1e39}', "number out of range"),
        (b'{"speed_mps": 1e999}', "number out of range"),
        (b'{"speed_mps": ' + b"9" * 4000 + b"}", "number out of range"),
        (b'{"speed_mps": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"speed_mps": true}', "not a number"),
        (b'{"speed_mps": "1"}', "not a number"),
        (b'{"speed_mps": null}', "no channel of the scenario"),
        (b'{"speed": 1}', "no channel of the scenario"),
        (b"[" * 60_000, "not JSON"),
        (b'{"speed_mps": 1, "time_s": 100.5}', "time_s is in the future or over 10 s old"),
        (b'{"speed_mps": 1, "time_s": 80}', "time_s is in the future or over 10 s old"),
        (b'{"speed_mps": 1, "time_s": "now"}', "time_s is no time"),
        (b" " * 65_537, "datagram too large"),
    ],
)
def test_hostile_telemetry_is_dropped_and_counted_by_reason(datagram, reason):
    source = telemetry()
    assert list(source.packets_of_datagram(datagram, NOW_NS)) == []
    assert source.rejected == {reason: 1}


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b'{"text": "\\ud800"}', "text is not Unicode"),
        (b'{"text": "a\\nb"}', "text of several lines"),
        (b'{"text": "  "}', "no text"),
        (json.dumps({"text": "x" * 4097}).encode(), "text too long"),
    ],
)
def test_hostile_text_is_dropped_and_counted_by_reason(datagram, reason):
    source = text()
    assert list(source.packets_of_datagram(datagram, NOW_NS)) == []
    assert source.rejected == {reason: 1}


def test_time_running_backwards_is_dropped():
    source = telemetry()
    assert len(list(source.packets_of_datagram(b'{"speed_mps": 1, "time_s": 99.9}', NOW_NS))) == 1
    assert list(source.packets_of_datagram(b'{"speed_mps": 1, "time_s": 99.8}', NOW_NS)) == []
    assert source.rejected == {"time runs backwards": 1}


def test_more_lines_than_allowed_are_counted():
    source = telemetry()
    assert len(list(source.packets_of_datagram(b'{"speed_mps": 1}\n' * 300, NOW_NS))) == 256
    assert source.rejected == {"too many lines": 44}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["speed_mps", "brake", "time_s", "text"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.lists(st.one_of(st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode())), max_size=5))
def test_no_datagram_crashes_or_gives_a_packet_that_breaks_the_contract(lines):
    for source in (telemetry(), text()):
        for packet in source.packets_of_datagram(b"\n".join(lines), NOW_NS):
            assert packet.capture_ns <= packet.arrival_ns == NOW_NS
            packet.chunks[0].decode("utf-8", errors="strict")
            if isinstance(source, UdpTelemetry):
                block = json.loads(packet.chunks[0])
                assert len(block["values"]) == len(block["offsets_ns"]) == 1
                assert len(block["values"][0]) == len(CHANNELS)
