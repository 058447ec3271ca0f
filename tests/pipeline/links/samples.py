"""One message of every kind, and a strict comparison. Imported by the tests here and, as a path, by their second process."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import numpy as np

from pipeline.links import Inbox, Outlet
from pipeline.messages import (
    Admitted,
    Announcement,
    AnnouncementKind,
    AudioBlock,
    Availability,
    Decision,
    Frame,
    Header,
    Message,
    Progress,
    Receipt,
    Recording,
    Spans,
    TelemetryBlock,
    TextLine,
    Tokens,
)


def sleeps_through_a_quiet_message(inbox: Inbox, camera: Outlet, text: Outlet) -> None:
    """``camera`` sends without waking, ``text`` wakes 0.2 s later: both come then, in the order of their edges."""
    timers = [
        threading.Timer(0.02, lambda: camera.send(announcement(1), wake=False)),
        threading.Timer(0.2, lambda: text.send(announcement(2))),
    ]
    for timer in timers:
        timer.start()
    began = time.monotonic()
    assert inbox.receive(None) == [(camera.edge, announcement(1)), (text.edge, announcement(2))]
    assert time.monotonic() - began > 0.15
    camera.send(announcement(3), wake=False)
    assert inbox.receive(1_000_000) == [(camera.edge, announcement(3))], "without a wait it is found at once"
    late = threading.Timer(0.1, camera.wake)
    threading.Timer(0.02, lambda: (camera.send(announcement(4), wake=False), late.start())).start()
    began = time.monotonic()
    assert inbox.receive(None) == [(camera.edge, announcement(4))], "woken afterwards, it finds what came without"
    assert time.monotonic() - began > 0.1


def announcement(seq: int, stream: str = "camera") -> Announcement:
    header = Header(stream=stream, seq=seq, capture_ns=1000 + seq, receive_ns=2000 + seq)
    return Announcement(header=header, watermark_ns=2000 + seq)


def every_kind() -> list[Message]:
    rng = np.random.default_rng(7)
    header = Header(stream="caméra.left", epoch=3, seq=41, capture_ns=2**62 - 1, receive_ns=-5, publish_ns=12, span_ns=50_000_000)
    word = Announcement(header=header, kind=AnnouncementKind.LOST, watermark_ns=2**62)
    valid = rng.random((5, 3)) > 0.5
    receipt = Receipt(
        admitted=(Admitted(stream="camera", availability=Availability.STALE, seq=7, epoch=1, age_ns=9, overrun=True),),
        spans=Spans(critical_stream="camera", total_ns=9, decode_ns=1, encode_ns=2, fuse_ns=3, wait_ns=1, runtime_ns=2),
        engines={"fusion": "ab" * 32},
        config_sha256="cd" * 32,
        state_sha256="ef" * 32,
        synthetic=True,
    )
    decision = Decision(
        seq=5, reference_ns=10, publish_ns=20, deadline_ns=60, status="on_time", action="slow",
        outputs={"action": rng.random(4).astype(np.float32)}, labels={"action": "slow"}, state='{"a":1}', receipt=receipt,
    )  # fmt: skip
    return [
        Announcement(header=header),
        word,
        Frame(header=header, image_hwc=rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), decode_ns=9),
        Frame(header=header, image_hwc=rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)[::-1, ::2], decode_ns=9),
        AudioBlock(header=header, pcm=rng.integers(-32768, 32767, 801, dtype=np.int16), decode_ns=4),
        AudioBlock(header=header, pcm=np.zeros(0, np.int16)),
        TelemetryBlock(
            header=header, times_ns=np.arange(5, dtype=np.int64) * 10**15,
            values=np.where(valid, rng.standard_normal((5, 3)), 0).astype(np.float32), valid=valid, decode_ns=2,
        ),
        TextLine(header=header, text="Sirène derrière vous \U0001f692", decode_ns=1),
        TextLine(header=header, text=""),
        Recording(announcement=word, chunks=(b"", b"\x00\xff" * 33, b"x")),
        Recording(announcement=word),
        Tokens(
            header=header, window_end_ns=77, values=rng.standard_normal((8, 64)).astype(np.float32), decode_ns=1,
            decoded_ns=2**60, taken_ns=2**60 + 5, encode_start_ns=2**61, encode_ns=3,
        ),
        Progress(stage="recorder", event_ns=2**62, count=12),
        decision,
        Decision(seq=6, reference_ns=1, publish_ns=2, deadline_ns=3, status="skipped", action="keep"),
        Tokens(header=header, window_end_ns=77, values=np.ones((1, 4), np.float32), engine="openvino:" + "ab" * 32),
    ]  # fmt: skip


def identical(a: Any, b: Any) -> bool:
    """Same types and values all the way down, arrays bit for bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, msgspec.Struct):
        return all(identical(getattr(a, name), getattr(b, name)) for name in a.__struct_fields__)
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return bool(a == b)


def arrays_of(message: Message) -> list[np.ndarray[Any, Any]]:
    found = []
    for name in message.__struct_fields__:
        value = getattr(message, name)
        found += [value] if isinstance(value, np.ndarray) else list(value.values()) if name == "outputs" else []
    return found
