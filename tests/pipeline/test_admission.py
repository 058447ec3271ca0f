"""The temporal contract, case by case, with the manual clock."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.admission import Admission, AdmissionMachine
from pipeline.clock import ManualClock
from pipeline.contract import Contract, StreamContract
from pipeline.messages import FOREVER_NS, Admitted, Announcement, AnnouncementKind, Availability, Header, Tokens
from pipeline.windows import WindowSpec

MS = 1_000_000
PERIOD = 50 * MS
SAMPLE = WindowSpec(kind="sample")
SOUND = WindowSpec(kind="audio", window_ns=100 * MS, hop_ns=50 * MS, sample_rate_hz=16_000, slack_ns=62_500)


def stream(name: str, **changes) -> StreamContract:
    settings = {"window": SAMPLE, "max_age_ns": 150 * MS, "wait_ns": 10 * MS, "liveness_ns": 1000 * MS}
    return StreamContract(stream=name, **(settings | changes))


class Desk:
    """A machine with a manual clock, spoken to in milliseconds. Samples carry seq 0, 1, 2 … unless told otherwise."""

    def __init__(self, *streams: StreamContract, reference: str | None = "camera", clocked: bool = True, **changes) -> None:
        settings = {
            "reference_stream": reference,
            "period_ns": PERIOD,
            "deadline_ns": 50 * MS,
            "reserve_ns": 8 * MS,
            "origin_ns": 0,
        }
        self.machine = AdmissionMachine(Contract(streams=streams, **(settings | changes)), clocked=clocked)
        self.clock = ManualClock()
        self._next: dict[str, int] = {}

    def at(self, ms: float) -> Desk:
        self.clock.sleep_until_ns(round(ms * MS))
        assert self.clock.now_ns() == round(ms * MS), "the test's own times run backwards"
        return self

    def header(self, name: str, capture_ms: float, receive_ms: float | None = None, *, seq=None, epoch=0, span_ms=0.0) -> Header:
        if seq is None:
            seq = self._next.get(name, 0)
        self._next[name] = seq + 1
        receive_ms = capture_ms if receive_ms is None else receive_ms
        capture_ns, receive_ns = round(capture_ms * MS), round(receive_ms * MS)
        return Header(
            stream=name, epoch=epoch, seq=seq, capture_ns=capture_ns, receive_ns=receive_ns, span_ns=round(span_ms * MS)
        )

    def announce(self, name: str, capture_ms: float, receive_ms: float | None = None, **how) -> Header:
        watermark_ns = how.pop("watermark_ns", 0)
        header = self.header(name, capture_ms, receive_ms, **how)
        self.machine.announce(Announcement(header=header, watermark_ns=watermark_ns), self.clock.now_ns())
        return header

    def say(self, name: str, kind: AnnouncementKind, ms: float, watermark_ns: int = 0) -> None:
        header = Header(stream=name, seq=self._next.get(name, 0), capture_ns=round(ms * MS), receive_ns=round(ms * MS))
        self.machine.announce(Announcement(header=header, kind=kind, watermark_ns=watermark_ns), self.clock.now_ns())

    def end(self, name: str, ms: float) -> None:
        self.say(name, AnnouncementKind.END, ms, FOREVER_NS)

    def tokens(self, header: Header, end_ms: float | None = None) -> None:
        end_ns = header.capture_ns if end_ms is None else round(end_ms * MS)
        tokens = Tokens(header=header, window_end_ns=end_ns, values=np.full((1, 1), header.seq, dtype=np.float32))
        self.machine.tokens(tokens, self.clock.now_ns())

    def sample(self, name: str, capture_ms: float, receive_ms: float | None = None, **how) -> Header:
        header = self.announce(name, capture_ms, receive_ms, **how)
        self.tokens(header)
        return header

    def due(self) -> Admission | None:
        return self.machine.due(self.clock.now_ns() if self.machine.clocked else None)

    def all_due(self) -> list[Admission]:
        found = []
        while (admission := self.due()) is not None:
            found.append(admission)
        return found

    def run_to(self, ms: float) -> list[Admission]:
        """Let time pass as a live loop does: from wake to wake."""
        found = self.all_due()
        while (wake_ns := self.machine.next_wake_ns()) is not None and wake_ns <= ms * MS:
            self.clock.sleep_until_ns(max(wake_ns, self.clock.now_ns() + 1))
            found += self.all_due()
        self.at(ms)
        return found + self.all_due()


def of(admission: Admission | None, name: str) -> Admitted:
    assert admission is not None
    return next(w.admitted for w in admission.windows if w.admitted.stream == name)


def times_ms(admissions: list[Admission]) -> list[float]:
    return [a.reference_ns / MS for a in admissions]


def test_contract_refuses_a_wait_that_leaves_no_time_to_decide():
    with pytest.raises(ValueError, match=r"'camera'.*wait.*lower wait_ms"):
        Desk(stream("camera", wait_ns=42 * MS))
    with pytest.raises(ValueError, match="reserve"):
        Desk(stream("camera"), reserve_ns=50 * MS)


def test_sample_in_time_is_admitted_as_soon_as_every_stream_has_spoken_past_the_reference():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.sample("telemetry", 95)
    desk.at(100).sample("camera", 100)
    assert desk.due() is None  # telemetry may still say something about 95..100
    desk.at(101).sample("telemetry", 101)
    admission = desk.due()
    assert (of(admission, "telemetry").seq, of(admission, "telemetry").age_ns) == (0, 5 * MS)
    assert (of(admission, "camera").seq, of(admission, "camera").age_ns) == (0, 0)
    assert not admission.overrun and not admission.synthetic and not admission.skipped


def test_early_sample_captured_after_the_reference_is_not_admitted_for_it():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(100).sample("telemetry", 99)
    desk.sample("telemetry", 101, 101)
    desk.sample("camera", 100)
    assert of(desk.due(), "telemetry").seq == 0


def test_late_sample_is_waited_for_and_admitted_at_the_end_of_wait():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(100).sample("camera", 100)
    desk.at(110).sample("telemetry", 100, 110)
    assert of(desk.due(), "telemetry").seq == 0


def test_sample_received_after_wait_is_never_admitted_for_that_time_but_for_the_next():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(100).sample("camera", 100)
    desk.at(110.5).sample("telemetry", 99, 110.5)
    assert of(desk.run_to(112)[0], "telemetry").availability is Availability.MISSING
    desk.at(150).sample("camera", 150)
    assert of(desk.run_to(162)[0], "telemetry").seq == 0


def test_live_run_stops_waiting_early_when_the_minimum_gap_says_nothing_can_come():
    desk = Desk(stream("camera"), stream("telemetry", min_gap_ns=8 * MS))
    desk.at(100).sample("telemetry", 93)
    desk.sample("camera", 100)
    assert desk.due() is not None


def test_live_run_settles_after_wait_and_the_announcements_flight_time():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(100).sample("camera", 100)
    assert desk.machine.next_wake_ns() == 112 * MS
    assert desk.at(111.9).due() is None
    assert desk.at(112).due() is not None


def test_time_that_passes_between_polling_and_going_to_sleep_still_wakes():
    desk = Desk(stream("camera"), stream("text", sparse=True, wait_ns=0))
    desk.sample("text", 40)
    desk.at(101.9).sample("camera", 100)
    assert desk.due() is None  # text may be under way until 102
    desk.at(102.1)
    assert desk.machine.next_wake_ns() == 102 * MS
    assert desk.due() is not None
    desk.at(103).announce("camera", 150, 151)
    assert desk.due() is None
    desk.at(153)
    assert desk.due() is None  # settled by now, but not encoded yet
    assert desk.machine.next_wake_ns() == 192 * MS, "what is settled must not wake again"


def sound(**changes) -> StreamContract:
    return stream("microphone", window=SOUND, **changes)


def test_stream_is_not_waited_for_where_none_of_its_windows_can_end():
    desk = Desk(stream("camera"), sound())
    for k in range(1, 6):
        desk.at(20 * k).announce("microphone", 20 * k, span_ms=20)
    desk.tokens(desk.header("microphone", 100, seq=4, span_ms=20), end_ms=100)
    desk.at(119).sample("camera", 119)  # the next window ends at 150
    admission = desk.due()
    assert (of(admission, "microphone").window_end_ns, of(admission, "microphone").age_ns) == (100 * MS, 19 * MS)
    desk.at(120).announce("microphone", 120, span_ms=20)
    desk.at(140).announce("microphone", 140, span_ms=20)
    desk.at(151).sample("camera", 151)
    assert desk.due() is None, "the block that completes the window to 150 is owed"
    desk.tokens(desk.announce("microphone", 160, 161, span_ms=20), end_ms=150)
    assert of(desk.due(), "microphone").window_end_ns == 100 * MS, "what was captured after the reference time does not serve"
    assert not desk.machine.counts


def test_block_that_comes_after_a_time_that_did_not_need_it_is_not_late():
    desk = Desk(stream("camera"), sound())
    for k in range(1, 6):
        desk.at(20 * k).announce("microphone", 20 * k, span_ms=20)
    desk.tokens(desk.header("microphone", 100, seq=4, span_ms=20), end_ms=100)
    desk.at(125).sample("camera", 125)
    assert desk.due() is not None
    desk.at(126).announce("microphone", 120, span_ms=20)
    assert not desk.machine.counts


def test_silent_stream_is_waited_for_once_it_may_no_longer_count_as_alive():
    desk = Desk(stream("camera"), sound(liveness_ns=10 * MS))
    for k in range(1, 6):
        desk.at(20 * k).announce("microphone", 20 * k, span_ms=20)
    desk.at(119).sample("camera", 119)  # no window ends before 150, but whether the microphone lives is open
    assert desk.due() is None


def test_sound_that_begins_anew_with_what_lies_before_is_not_admitted_where_nobody_waited_for_it():
    desk = Desk(stream("camera"), sound())
    for k in range(1, 6):
        desk.at(20 * k).announce("microphone", 20 * k, span_ms=20)
    desk.tokens(desk.header("microphone", 100, seq=4, span_ms=20), end_ms=100)
    again = desk.at(130).announce("microphone", 125, epoch=1, seq=0, span_ms=125)  # reaches back to 0: a window ends at 100
    desk.tokens(again, end_ms=100)
    desk.at(130).sample("camera", 130, seq=0)
    admitted = of(desk.due(), "microphone")
    assert (admitted.epoch, admitted.seq) == (0, 4)


def test_old_tokens_are_stale_and_not_used():
    desk = Desk(stream("camera"), stream("telemetry", max_age_ns=60 * MS))
    desk.sample("telemetry", 30)
    desk.at(90).sample("camera", 90)
    assert of(desk.run_to(102)[0], "telemetry").availability is Availability.PRESENT  # exactly as old as allowed
    desk.at(140).sample("camera", 140)
    admission = desk.run_to(152)[0]
    assert of(admission, "telemetry").availability is Availability.STALE
    assert next(w for w in admission.windows if w.admitted.stream == "telemetry").tokens is None


def test_sparse_stream_that_heartbeats_is_quiet_and_without_heartbeats_missing():
    desk = Desk(stream("camera"), stream("text", sparse=True, wait_ns=0, liveness_ns=300 * MS))
    desk.at(100).say("text", AnnouncementKind.HEARTBEAT, 100)
    desk.at(150).sample("camera", 150)
    assert of(desk.run_to(152)[0], "text").availability is Availability.QUIET
    desk.at(450).sample("camera", 450)
    decided = desk.run_to(452)
    assert decided[-1].reference_ns == 450 * MS
    assert of(decided[-1], "text").availability is Availability.MISSING


def test_stream_that_never_spoke_is_missing():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(100).sample("camera", 100)
    assert of(desk.run_to(112)[0], "telemetry").availability is Availability.MISSING


def test_stream_before_its_first_full_window_is_starting():
    desk = Desk(stream("camera"), stream("microphone", window=SOUND))
    desk.at(50).announce("microphone", 50, span_ms=49.9375)
    desk.sample("camera", 50)
    assert of(desk.due(), "microphone").availability is Availability.STARTING


def test_sound_window_that_ends_at_the_reference_time_is_admitted_with_age_zero():
    desk = Desk(stream("camera"), stream("microphone", window=SOUND))
    for at in (49.9375, 99.9375):
        header = desk.at(at).announce("microphone", at, span_ms=49.9375)
    desk.tokens(header, 100)
    desk.at(100).sample("camera", 100)
    admitted = of(desk.run_to(112)[0], "microphone")
    assert (admitted.availability, admitted.age_ns, admitted.window_end_ns) == (Availability.PRESENT, 0, 100 * MS)


def test_newest_by_capture_and_then_seq_wins():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(100).sample("telemetry", 98, 100)
    desk.sample("telemetry", 99, 100)
    desk.sample("telemetry", 99, 100)  # the same instant again, with a higher seq: out of order, dropped
    desk.sample("camera", 100)
    assert of(desk.run_to(112)[0], "telemetry").seq == 1
    assert desk.machine.counts["telemetry", "out_of_order"] == 1


def test_hole_in_the_sound_breaks_windows_instead_of_padding_them():
    desk = Desk(stream("camera"), stream("microphone", window=SOUND, max_age_ns=60 * MS))
    for at in (49.9375, 99.9375):
        header = desk.at(at).announce("microphone", at, span_ms=49.9375)
    desk.tokens(header, 100)
    for at in (199.9375, 249.9375):  # the block that ends at 150 never came
        desk.at(at).announce("microphone", at, span_ms=49.9375, seq=round(at / 50) - 1)
    desk.at(250)
    desk.sample("camera", 200, 250)
    desk.sample("camera", 250)
    at_200, at_250 = desk.run_to(292)
    assert of(at_200, "microphone").availability is Availability.STALE
    assert not of(at_200, "microphone").overrun  # nothing was owed
    assert of(at_250, "microphone").overrun  # 150..250 is whole again, and owed


def test_first_of_duplicates_wins_and_the_others_are_counted():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(100).sample("telemetry", 98, 99, seq=4)
    desk.announce("telemetry", 99, 100, seq=4)
    desk.sample("camera", 100)
    admitted = of(desk.run_to(112)[0], "telemetry")
    assert (admitted.seq, admitted.age_ns) == (4, 2 * MS)
    assert dict(desk.machine.counts) == {("telemetry", "duplicate"): 1}


def test_out_of_order_sample_is_dropped_and_counted():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(100).sample("telemetry", 98, 99)
    desk.announce("telemetry", 97, 100)
    desk.sample("camera", 100)
    assert of(desk.run_to(112)[0], "telemetry").age_ns == 2 * MS
    assert dict(desk.machine.counts) == {("telemetry", "out_of_order"): 1}


def test_overrun_lets_older_tokens_serve_and_is_flagged():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.sample("telemetry", 60)
    newest = desk.at(99).announce("telemetry", 99)
    desk.at(100).sample("camera", 100)
    desk.announce("telemetry", 100.5)
    assert desk.run_to(141.9) == []
    (admission,) = desk.run_to(142)  # deadline - reserve
    admitted = of(admission, "telemetry")
    assert admission.overrun and admitted.overrun and not of(admission, "camera").overrun
    assert (admitted.seq, admitted.age_ns) == (0, 40 * MS)
    desk.tokens(newest)
    assert of(desk.at(150).announce("camera", 150) and desk.run_to(192)[0], "telemetry").seq == newest.seq


def test_overrun_without_older_tokens_has_no_tokens_and_is_flagged():
    desk = Desk(stream("camera"))
    desk.at(100).announce("camera", 100)
    (admission,) = desk.run_to(142)
    assert admission.overrun and of(admission, "camera").availability is not Availability.PRESENT


def test_announcement_that_comes_after_the_decision_though_received_in_time_is_counted():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(100).sample("camera", 100)
    assert of(desk.run_to(112)[0], "telemetry").availability is Availability.MISSING
    desk.at(113).sample("telemetry", 99, 101)
    assert dict(desk.machine.counts) == {("telemetry", "late_announcement"): 1}


def test_heartbeat_that_comes_after_the_decision_though_received_in_time_is_counted():
    desk = Desk(stream("camera"), stream("text", sparse=True))
    desk.at(100).sample("camera", 100)
    assert of(desk.run_to(112)[0], "text").availability is Availability.MISSING
    desk.at(113).say("text", AnnouncementKind.HEARTBEAT, 90)
    assert dict(desk.machine.counts) == {("text", "late_announcement"): 1}


def test_sample_behind_a_heartbeat_serves_only_times_past_that_heartbeat():
    """A heartbeat settles what lies before it, so what is said later must not depend on who was faster."""
    for polled_between in (False, True):
        desk = Desk(stream("camera"), stream("text", sparse=True, max_age_ns=1000 * MS), clocked=False)
        desk.sample("camera", 100, watermark_ns=149 * MS)
        desk.say("text", AnnouncementKind.HEARTBEAT, 105, 106 * MS)
        found = desk.all_due() if polled_between else []
        desk.sample("text", 95, 107, watermark_ns=FOREVER_NS)
        desk.sample("camera", 150, watermark_ns=199 * MS)
        at_100, at_150 = found + desk.all_due()
        assert of(at_100, "text").availability is Availability.MISSING
        assert of(at_150, "text").availability is Availability.PRESENT


def test_silent_reference_stream_is_replaced_by_synthetic_times_until_it_returns():
    desk = Desk(stream("camera"), stream("telemetry", max_age_ns=1000 * MS))
    desk.sample("telemetry", 0)
    for at in (50, 100):
        desk.at(at).sample("camera", at)
    decided = desk.run_to(260)
    assert times_ms(decided) == [50, 100, 150, 200]
    assert [a.synthetic for a in decided] == [False, False, True, True]
    desk.at(270).sample("camera", 270)  # at least half a period after the last synthetic one
    desk.at(320).sample("camera", 320)
    back = desk.run_to(335)
    assert times_ms(back) == [270, 320] and not any(a.synthetic for a in back)
    assert not desk.machine.counts


def test_reference_sample_less_than_half_a_period_after_a_synthetic_time_makes_no_decision():
    desk = Desk(stream("camera"))
    desk.at(50).sample("camera", 50)
    desk.run_to(130)  # synthetic: 100
    desk.at(130).sample("camera", 120, 130)
    desk.at(170).sample("camera", 170)
    decided = desk.run_to(185)
    assert times_ms(decided) == [170]
    assert not desk.machine.counts


def test_reference_sample_announced_too_late_to_stop_a_synthetic_time_is_counted():
    desk = Desk(stream("camera"))
    desk.at(50).sample("camera", 50)
    desk.run_to(130)
    desk.at(131).sample("camera", 100, 101)
    assert desk.machine.counts["camera", "late_announcement"] >= 1


def test_first_reference_time_is_the_first_reference_sample():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(10).sample("telemetry", 10)
    assert desk.run_to(400) == []
    desk.at(400).sample("camera", 400)
    assert times_ms(desk.run_to(412)) == [400]


def test_lost_stream_costs_only_that_stream_and_returns_under_a_new_epoch():
    desk = Desk(stream("camera"), stream("telemetry", max_age_ns=60 * MS, liveness_ns=100 * MS))
    desk.at(100).sample("telemetry", 100, seq=7)
    desk.say("telemetry", AnnouncementKind.LOST, 100, 100 * MS)
    desk.at(150).sample("camera", 150)
    assert of(desk.due(), "telemetry").availability is Availability.PRESENT  # at once: nobody is left to wait for
    desk.at(200).sample("camera", 200)
    assert of(desk.due(), "telemetry").availability is Availability.STALE
    desk.at(250).sample("camera", 250)
    assert of(desk.due(), "telemetry").availability is Availability.MISSING
    desk.at(299).sample("telemetry", 299, seq=0, epoch=1)
    desk.at(300).sample("camera", 300)
    admitted = of(desk.run_to(312)[0], "telemetry")
    assert (admitted.availability, admitted.epoch, admitted.seq) == (Availability.PRESENT, 1, 0)
    assert not desk.machine.counts


def test_lost_reference_stream_costs_its_tokens_and_not_the_decisions():
    desk = Desk(stream("camera", max_age_ns=60 * MS), stream("telemetry", max_age_ns=1000 * MS))
    desk.sample("telemetry", 0)
    desk.at(50).sample("camera", 50)
    desk.say("camera", AnnouncementKind.LOST, 60, 60 * MS)
    decided = desk.run_to(230)
    assert times_ms(decided) == [50, 100, 150, 200]
    assert of(decided[-1], "camera").availability is Availability.STALE
    assert of(decided[-1], "telemetry").availability is Availability.PRESENT


def test_without_a_reference_stream_decisions_come_at_a_fixed_rate_from_the_origin():
    desk = Desk(stream("telemetry", max_age_ns=1000 * MS), reference=None)
    desk.at(1).sample("telemetry", 1)
    decided = desk.run_to(215)
    assert times_ms(decided) == [50, 100, 150, 200] and not any(a.synthetic for a in decided)


def test_fixed_rate_time_called_for_by_stamps_knows_when_it_was_announced():
    """Latency subtracts it; 0 would make a wait as long as the machine has been up."""
    desk = Desk(stream("telemetry", max_age_ns=1000 * MS), reference=None)
    desk.at(51).sample("telemetry", 51, 51)
    (admission,) = desk.all_due()
    assert admission.reference_ns == 50 * MS
    assert admission.announced_ns == 51 * MS


def test_absent_reference_stream_gives_synthetic_times_at_the_nominal_period():
    desk = Desk(stream("telemetry", max_age_ns=1000 * MS), reference="camera")
    desk.at(1).sample("telemetry", 1)
    decided = desk.run_to(115)
    assert times_ms(decided) == [50, 100] and all(a.synthetic for a in decided)


def test_time_overtaken_past_its_deadline_is_skipped():
    desk = Desk(stream("camera"))
    for at in (50, 100):
        desk.at(at).sample("camera", at)
    desk.at(101)  # fusion was busy all the while: 50 is past its deadline, 100 is ready
    assert [(a.reference_ns // MS, a.skipped) for a in desk.all_due()] == [(50, True), (100, False)]


def test_late_time_that_nothing_overtook_is_not_skipped():
    desk = Desk(stream("camera"))
    desk.at(50).sample("camera", 50)
    assert [a.skipped for a in desk.at(110).all_due()] == [False]


def test_end_of_the_reference_stream_finishes_the_run_once_all_is_decided():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(50).sample("camera", 50)
    desk.end("camera", 51)
    assert not desk.machine.finished
    assert times_ms(desk.run_to(62)) == [50]
    assert desk.machine.finished
    assert desk.machine.next_wake_ns() is None


def test_ended_stream_is_not_waited_for():
    desk = Desk(stream("camera"), stream("telemetry"))
    desk.at(90).sample("telemetry", 90)
    desk.end("telemetry", 91)
    desk.at(100).sample("camera", 100)
    assert of(desk.due(), "telemetry").seq == 0


def test_tokens_that_come_before_their_announcement_serve():
    desk = Desk(stream("camera"), clocked=False)
    header = desk.header("camera", 50)
    desk.tokens(header)
    assert desk.due() is None
    desk.machine.announce(Announcement(header=header, watermark_ns=FOREVER_NS))
    assert of(desk.due(), "camera").seq == 0


def test_tokens_that_come_long_before_the_announcement_of_an_old_sample_are_not_called_lost():
    desk = Desk(stream("camera"), stream("telemetry", max_age_ns=60 * MS), clocked=False)
    desk.sample("camera", 300, watermark_ns=FOREVER_NS)
    desk.say("telemetry", AnnouncementKind.WATERMARK, 500, 499 * MS)
    assert desk.due() is not None
    first, second = desk.header("telemetry", 200, 500), desk.header("telemetry", 210, 500)
    desk.tokens(first)
    desk.machine.announce(Announcement(header=first))
    desk.machine.announce(Announcement(header=second, watermark_ns=FOREVER_NS))
    desk.tokens(second)
    assert not desk.machine.counts


def test_window_lost_on_the_way_to_its_encoder_is_counted_and_not_waited_for():
    desk = Desk(stream("camera"), stream("telemetry"), clocked=False)
    desk.sample("camera", 100, watermark_ns=FOREVER_NS)
    desk.sample("telemetry", 80)
    desk.announce("telemetry", 95)
    after = desk.announce("telemetry", 110, watermark_ns=FOREVER_NS)
    assert desk.due() is None
    desk.tokens(after)
    admission = desk.due()
    assert (of(admission, "telemetry").seq, admission.overrun) == (0, True)
    assert dict(desk.machine.counts) == {("telemetry", "lost_window"): 1}


def test_replay_waits_for_a_watermark_and_not_for_the_clock():
    desk = Desk(stream("camera"), stream("telemetry"), clocked=False)
    desk.at(100).sample("camera", 100, watermark_ns=FOREVER_NS)
    assert desk.at(10_000).due() is None
    desk.say("telemetry", AnnouncementKind.WATERMARK, 500, 109 * MS)
    assert desk.due() is None  # it may still announce something received at exactly t + wait
    desk.say("telemetry", AnnouncementKind.WATERMARK, 500, 110 * MS)
    assert desk.due() is not None


def test_replay_keeps_waiting_for_a_lost_source_that_returns_in_the_log():
    desk = Desk(stream("camera"), stream("telemetry"), clocked=False)
    desk.sample("camera", 100, watermark_ns=FOREVER_NS)
    desk.say("telemetry", AnnouncementKind.LOST, 20, 104 * MS)
    assert desk.due() is None
    desk.sample("telemetry", 99, 105, epoch=1, seq=0, watermark_ns=FOREVER_NS)
    assert of(desk.due(), "telemetry").epoch == 1


def test_replay_stops_after_the_last_reference_time_of_the_log():
    desk = Desk(stream("telemetry"), reference=None, clocked=False, stop_after_ns=120 * MS)
    desk.say("telemetry", AnnouncementKind.END, 5000, FOREVER_NS)
    assert times_ms(desk.all_due()) == [50, 100]
    assert desk.machine.finished
