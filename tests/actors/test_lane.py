"""Ways into the links: who is woken for what."""

from __future__ import annotations

from actors.lane import LONGEST_UNHEARD_NS, MOST_UNHEARD, heard_after, quiet_samples, unhurried
from pipeline.clock import ManualClock
from pipeline.messages import Announcement, AnnouncementKind, Decision, Header, Message, Recording, TextLine


class Outlet:
    """Notes what is sent, and whether it woke."""

    edge = "camera>sink"

    def __init__(self) -> None:
        self.sent: list[tuple[Message, bool]] = []

    def send(self, message: Message, *, wake: bool = True) -> None:
        self.sent.append((message, wake))

    def wake(self) -> None:
        self.sent[-1] = (self.sent[-1][0], True)

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


def test_decisions_that_only_a_console_awaits_wake_the_sink_now_and_then() -> None:
    outlet, clock = Outlet(), ManualClock(0)
    decide = unhurried(outlet, clock)
    for _ in range(8):
        clock.advance_ns(50_000_000)
        decide(Decision(seq=0, reference_ns=0, publish_ns=0, deadline_ns=0, status="on_time", action="keep"))
    assert outlet.woke == [False, True] * 4


def test_fusion_is_woken_for_a_sample_once_the_encoder_has_it() -> None:
    fusion, encoder = Outlet(), Outlet()
    announce, send = heard_after(fusion, encoder)
    announce(announcement())
    assert (fusion.woke, encoder.woke) == ([False], [])
    send(TextLine(header=announcement().header, text="siren"))
    assert (fusion.woke, encoder.woke) == ([True], [True])
    announce(announcement(AnnouncementKind.VOID))
    assert fusion.woke == [True, True]
