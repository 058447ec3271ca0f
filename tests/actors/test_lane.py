"""Ways into the links: who is woken for what."""

from __future__ import annotations

from actors.lane import LONGEST_UNHEARD_NS, MOST_UNHEARD, quiet_samples, unhurried
from pipeline.clock import ManualClock
from pipeline.messages import Announcement, AnnouncementKind, Header, Message, Recording


class Outlet:
    """Notes what is sent, and whether it woke."""

    edge = "camera>sink"

    def __init__(self) -> None:
        self.sent: list[tuple[Message, bool]] = []

    def send(self, message: Message, *, wake: bool = True) -> None:
        self.sent.append((message, wake))

    def close(self) -> None:
        pass

    @property
    def woke(self) -> list[bool]:
        return [wake for _, wake in self.sent]


def announcement(kind: AnnouncementKind = AnnouncementKind.SAMPLE) -> Announcement:
    return Announcement(header=Header(stream="camera", seq=0, capture_ns=0, receive_ns=0), kind=kind)


def test_recordings_wake_the_recorder_now_and_then_and_at_the_end() -> None:
    outlet, clock = Outlet(), ManualClock(0)
    record = unhurried(outlet, clock)
    for _ in range(2 * MOST_UNHEARD + 1):
        record(Recording(announcement=announcement(), chunks=(b"x",)))
    assert outlet.woke == 2 * [*[False] * (MOST_UNHEARD - 1), True] + [False]
    clock.sleep_until_ns(LONGEST_UNHEARD_NS)
    record(Recording(announcement=announcement()))
    record(Recording(announcement=announcement()))
    record(Recording(announcement=announcement(AnnouncementKind.END)))
    assert outlet.woke[-3:] == [True, False, True]


def test_quiet_samples_wake_nobody_and_all_else_does() -> None:
    outlet = Outlet()
    announce = quiet_samples(outlet)
    for kind in AnnouncementKind:
        announce(announcement(kind))
    assert [message.kind for message, wake in outlet.sent if not wake] == [AnnouncementKind.SAMPLE]  # type: ignore[union-attr]
