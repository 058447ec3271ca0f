"""The link inside one process keeps the promises of the one between processes."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from samples import announcement, sleeps_through_a_quiet_message

from pipeline.links import EdgeSpec, Inbox, LinkError, Outlet
from pipeline.links.in_process import InProcessInbox
from pipeline.messages import Frame, Header

CAMERA = EdgeSpec(name="camera>fusion", capacity=3, max_bytes=10)
TEXT = EdgeSpec(name="text>fusion", capacity=3, max_bytes=10)


def test_messages_arrive_in_order_without_a_copy_and_read_only() -> None:
    inbox = InProcessInbox([CAMERA, TEXT])
    outlet: Outlet = inbox.outlet(CAMERA)
    image = np.zeros((2, 2, 3), np.uint8)
    frame = Frame(header=Header(stream="camera", seq=0, capture_ns=0, receive_ns=0), image_hwc=image)
    outlet.send(frame)
    outlet.send(announcement(1))
    receiver: Inbox = inbox
    (edge, first), (_, second) = receiver.receive(None)
    assert edge == "camera>fusion"
    assert first is frame
    assert second == announcement(1)
    assert not image.flags.writeable


def test_a_full_queue_overwrites_the_oldest_of_its_edge_and_counts_it() -> None:
    inbox = InProcessInbox([CAMERA, TEXT])
    camera, text = inbox.outlet("camera>fusion"), inbox.outlet("text>fusion")
    text.send(announcement(100))
    for seq in range(8):
        camera.send(announcement(seq))
    expected = [("camera>fusion", announcement(seq)) for seq in (5, 6, 7)] + [("text>fusion", announcement(100))]
    assert inbox.receive(0) == expected
    assert inbox.lost() == {"camera>fusion": 5, "text>fusion": 0}
    assert inbox.receive(0) == []


def test_a_wait_ends_with_a_message_a_wake_a_timeout_or_the_stop_event() -> None:
    inbox = InProcessInbox([CAMERA])
    outlet = inbox.outlet(CAMERA)
    for act, expected in ((lambda: outlet.send(announcement(1)), [("camera>fusion", announcement(1))]), (inbox.wake, [])):
        timer = threading.Timer(0.01, act)
        timer.start()
        assert inbox.receive(None) == expected
        timer.join()
    assert inbox.receive(1_000_000) == []
    assert not inbox.stopped
    timer = threading.Timer(0.01, inbox.stop)
    timer.start()
    assert inbox.receive(None) == []
    assert inbox.stopped
    timer.join()


def test_a_quiet_message_lets_the_receiver_sleep_and_is_there_when_it_wakes() -> None:
    inbox = InProcessInbox([CAMERA, TEXT])
    camera, text = inbox.outlet(CAMERA), inbox.outlet(TEXT)
    sleeps_through_a_quiet_message(inbox, camera, text)


def test_a_wake_before_the_wait_is_kept() -> None:
    inbox = InProcessInbox([CAMERA])
    inbox.wake()
    assert inbox.receive(None) == []


def test_sending_after_close_is_harmless_and_unknown_edges_are_refused() -> None:
    inbox = InProcessInbox([CAMERA])
    outlet = inbox.outlet(CAMERA)
    inbox.close()
    outlet.send(announcement(1))
    assert inbox.receive(None) == []
    with pytest.raises(LinkError, match="this stage receives"):
        inbox.outlet("text>fusion")
    with pytest.raises(LinkError, match="share a name"):
        InProcessInbox([CAMERA, CAMERA])
