"""The wire form: exact for every kind of message, and LinkError, nothing else, for all other bytes."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))

from samples import announcement, arrays_of, every_kind, identical

from pipeline.links import LinkError
from pipeline.links.packing import encode, to_bytes
from pipeline.links.unpacking import decode, from_bytes, from_bytes_with_envelope
from pipeline.links.wire import HEADER_BYTES, Envelope, WireHeader
from pipeline.messages import AudioBlock, Frame, Header, Message, Recording, TextLine

MESSAGES = every_kind()
BLOCKS = [to_bytes(message) for message in MESSAGES]
HEADER = Header(stream="camera", seq=1, capture_ns=1, receive_ns=1)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_kind_of_message_survives_bit_for_bit_with_read_only_arrays(message: Message) -> None:
    received = from_bytes(to_bytes(message))
    assert identical(received, message)
    assert not any(array.flags.writeable for array in arrays_of(received))


def test_the_header_is_the_structure_that_shared_memory_is_told_of() -> None:
    packed, _ = encode(announcement(3, "text"), Envelope(sender=2**64 - 1, sender_start_ns=5, number=9))
    header = WireHeader.from_buffer_copy(packed)
    assert (header.stream, header.seq, header.capture_ns, header.watermark_ns) == (b"text", 3, 1003, 2003)
    assert (header.sender, header.sender_start_ns, header.count) == (2**64 - 1, 5, 9)


def test_the_envelope_travels_with_the_message() -> None:
    envelope = Envelope(sender=7, sender_start_ns=8, number=9)
    assert from_bytes_with_envelope(to_bytes(announcement(1), envelope)) == (announcement(1), envelope)


def test_a_payload_in_whole_words_is_cut_to_its_size() -> None:
    block = AudioBlock(header=HEADER, pcm=np.arange(5, dtype=np.int16))
    packed, (pcm,) = encode(block)
    assert identical(decode(packed, memoryview(pcm.tobytes() + b"\xff" * 6)), block)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (replace(announcement(1), header=replace(HEADER, stream="x" * 33)), "at most 32 bytes"),
        (replace(announcement(1), header=replace(HEADER, stream="x\0")), "no NUL"),
        (replace(announcement(1), header=replace(HEADER, seq=2**63)), "does not fit"),
        (Frame(header=HEADER, image_hwc=np.zeros((2, 2, 3), np.float32)), "expected uint8 with 3 dimensions"),
        (Frame(header=HEADER, image_hwc=np.zeros((2, 2), np.uint8)), "expected uint8 with 3 dimensions"),
        (TextLine(header=HEADER, text="x" * 4097), "at most 4096"),
        (TextLine(header=HEADER, text="\udc80"), "not Unicode"),
        (Recording(announcement=announcement(1), chunks=(b"",) * 4097), "at most 4096"),
    ],
)
def test_a_message_that_cannot_travel_is_refused_by_the_sender(message: Message, complaint: str) -> None:
    with pytest.raises(LinkError, match=complaint):
        encode(message)


def test_an_object_that_is_no_message_is_refused() -> None:
    with pytest.raises(LinkError, match="a dict cannot travel"):
        encode({})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (b"", "expected 200 bytes"),
        (b"\0" * HEADER_BYTES, "magic 0x00000000"),
        (BLOCKS[0][:4] + struct.pack("=H", 99) + BLOCKS[0][6:], "kind 99"),
        (BLOCKS[0][:6] + struct.pack("=H", 77) + BLOCKS[0][8:], "announcement kind 77"),
        (BLOCKS[2][:-1], "the header says 9216 bytes, 9215 are there"),
        (BLOCKS[2][:184] + struct.pack("=I", 2**32 - 1) + BLOCKS[2][188:], "frame: its shape needs"),
        (BLOCKS[9][:200] + struct.pack("=Q", 2**64 - 1) + BLOCKS[9][208:], "recording: its shape needs"),
        (BLOCKS[6][:-1] + b"\x02", "validity: 2"),
        (to_bytes(TextLine(header=HEADER, text="ab"))[:-1] + b"\xff", "text: 'utf-8' codec"),
        (BLOCKS[13][:-1] + b"\xc1", "decision"),
    ],
)
def test_broken_bytes_are_refused_with_what_is_wrong(block: bytes, complaint: str) -> None:
    with pytest.raises(LinkError, match=complaint):
        from_bytes(block)


def test_a_decision_whose_fields_have_other_types_is_refused() -> None:
    block = BLOCKS[13].replace(b"\xa3seq\x05", b"\xa3seq\xa0")
    assert block != BLOCKS[13]
    with pytest.raises(LinkError, match=r"Expected `int`, got `str` - at `\$.seq`"):
        from_bytes(block)


@pytest.mark.parametrize("output", [[float("nan"), 0.5], [float("inf"), 0.5]])
def test_a_decision_with_outputs_that_are_no_numbers_is_refused_by_the_sender(output: list[float]) -> None:
    decision = replace(MESSAGES[13], outputs={"action": np.array(output, np.float32)})
    with pytest.raises(LinkError, match="decision 5: output 'action' is"):
        encode(decision)


def test_a_decision_whose_outputs_are_no_float32_is_refused() -> None:
    cut = replace(MESSAGES[13], outputs={"action": np.zeros(3, np.float32)})
    block = to_bytes(cut).replace(b"\xc4\x0c" + bytes(12), b"\xc4\x0b" + bytes(11) + b"\xc0")
    with pytest.raises(LinkError, match="wire decision"):
        from_bytes(block)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_only_link_errors(block: bytes) -> None:
    with pytest.raises(LinkError):
        from_bytes(block)


@settings(max_examples=400)
@given(
    st.sampled_from(BLOCKS),
    st.lists(st.tuples(st.integers(4, 700), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    st.integers(-16, 16),
)
def test_mutated_messages_are_messages_or_link_errors(block: bytes, edits: list[tuple[int, bytes]], cut: int) -> None:
    changed = bytearray(block)
    for position, replacement in edits:
        changed[position : position + len(replacement)] = replacement
    mutated = bytes(changed[:cut]) if cut < 0 else bytes(changed) + b"\0" * cut
    try:
        message = from_bytes(mutated)
    except LinkError:
        return
    assert type(message) in {type(known) for known in MESSAGES}
