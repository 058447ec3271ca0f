"""Ingest: stamp, announce, record, decode; paced, with heartbeats; and the same from a log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from pipeline.clock import ManualClock
from pipeline.credit import CreditGate
from pipeline.formats.decode import decoder_for
from pipeline.messages import FOREVER_NS, Announcement, AnnouncementKind, Header, Progress, Recording, TextLine
from pipeline.sources.base import Encoding, Packet, SourceError, SourceLost, StreamInfo
from pipeline.stages.ingest import IngestPorts, LiveIngest, ReplayIngest, SampleReader
from pipeline.stages.read_ahead import MOST_BYTES, READ_AHEAD_NS, ReadAhead

MS = 1_000_000
ORIGIN = 1000 * MS
INFO = StreamInfo(stream="text", kind="text", encoding=Encoding(codec="text"), period_ns=0, min_gap_ns=0)
SAMPLE, HEARTBEAT, END, LOST, WATERMARK = (AnnouncementKind(k) for k in range(5))


class ListSource:
    """A source that plays a list; an exception in it is raised, a function in it is called."""

    def __init__(self, timing: str, items: list[Packet | Exception | Callable[[], None] | None]) -> None:
        self.info, self.timing, self._items = INFO, timing, items

    def packets(self) -> Iterator[Packet | None]:
        for item in self._items:
            if isinstance(item, Exception):
                raise item
            if callable(item):
                item()
            else:
                yield item


class Bench:
    """Notes what comes out and when."""

    def __init__(self, now_ns: int = 0) -> None:
        self.clock = ManualClock(now_ns)
        self.announced: list[Announcement] = []
        self.at_ns: list[int] = []
        self.samples: list[TextLine] = []
        self.recordings: list[Recording] = []
        self.ports = IngestPorts(announce=self._announce, sample=self.samples.append, record=self.recordings.append)
        self.reader = SampleReader(INFO, decoder_for(INFO), self.clock)

    def _announce(self, announcement: Announcement) -> None:
        self.announced.append(announcement)
        self.at_ns.append(self.clock.now_ns())

    @property
    def kinds(self) -> list[AnnouncementKind]:
        return [a.kind for a in self.announced]

    def live(self, timing: str, items: list, stop: threading.Event | None = None, **settings) -> LiveIngest:
        ingest = LiveIngest(
            source=ListSource(timing, items), reader=self.reader, ports=self.ports, clock=self.clock, origin_ns=ORIGIN, **settings
        )
        ingest.run(stop or threading.Event())
        return ingest


def packet(capture_ms: float, arrival_ms: float | None = None, text: bytes = b"hello") -> Packet:
    arrival_ms = capture_ms if arrival_ms is None else arrival_ms
    return Packet(capture_ns=round(capture_ms * MS), arrival_ns=round(arrival_ms * MS), chunks=(text,))


def test_recording_is_paced_from_the_origin_and_stamped_on_the_hosts_clock():
    bench = Bench()
    bench.live("media", [packet(0), packet(40, 55)])
    assert bench.kinds == [SAMPLE, SAMPLE, END]
    assert bench.at_ns[:2] == [ORIGIN, ORIGIN + 55 * MS]
    last = bench.announced[1].header
    assert (last.capture_ns, last.receive_ns, last.seq, last.delay_ns) == (ORIGIN + 40 * MS, ORIGIN + 55 * MS, 1, 15 * MS)
    assert bench.announced[-1].watermark_ns == FOREVER_NS


def test_every_announcement_is_recorded_with_its_bytes_before_the_sample_is_decoded():
    bench = Bench()
    bench.live("media", [packet(0, text=b"one")])
    assert [r.announcement for r in bench.recordings] == bench.announced
    assert [r.chunks for r in bench.recordings] == [(b"one",), ()]
    assert [s.text for s in bench.samples] == ["one"]


def test_sparse_recording_heartbeats_while_nothing_is_said():
    bench = Bench()
    bench.live("media", [packet(2500)], heartbeat_ns=1000 * MS)
    assert bench.kinds == [HEARTBEAT, HEARTBEAT, SAMPLE, END]
    assert bench.at_ns[:3] == [ORIGIN + 1000 * MS, ORIGIN + 2000 * MS, ORIGIN + 2500 * MS]


def test_live_source_heartbeats_when_it_yields_nothing():
    bench = Bench(ORIGIN)
    bench.live("live", [None, lambda: bench.clock.advance_ns(1001 * MS), None], heartbeat_ns=1000 * MS)
    assert bench.kinds == [HEARTBEAT, END]


def test_device_sample_taken_before_the_origin_is_discarded_without_a_count():
    bench = Bench(ORIGIN)
    ingest = bench.live("live", [packet(999), packet(1000), packet(1001)])
    assert [a.header.capture_ns for a in bench.announced[:-1]] == [1000 * MS, 1001 * MS]
    assert [a.header.seq for a in bench.announced[:-1]] == [0, 1]
    assert not ingest.counts


def test_out_of_order_packet_is_counted_and_not_announced():
    bench = Bench(ORIGIN)
    ingest = bench.live("live", [packet(1010), packet(1010), packet(1005), packet(1011)])
    assert [a.header.capture_ns // MS for a in bench.announced[:-1]] == [1010, 1011]
    assert dict(ingest.counts) == {"out_of_order": 2}


def test_undecodable_packet_is_counted_and_the_next_one_is_read():
    bench = Bench()
    ingest = bench.live("media", [packet(0, text=b"\xff"), packet(10, text=b"fine")])
    assert dict(ingest.counts) == {"undecodable": 1}
    assert [s.text for s in bench.samples] == ["fine"]


@pytest.mark.parametrize("error", [SourceLost("the camera is gone"), SourceError("file.csv: row 3 is broken")])
def test_failed_source_ends_as_lost_and_says_why(error: Exception):
    bench = Bench()
    ingest = bench.live("media", [packet(0), error])
    assert bench.kinds == [SAMPLE, LOST]
    assert bench.announced[-1].watermark_ns < FOREVER_NS
    assert ingest.failure == str(error)


def test_stop_ends_the_stream_in_order():
    bench, stop = Bench(), threading.Event()
    bench.ports = IngestPorts(announce=bench.ports.announce, sample=lambda _: stop.set())
    bench.live("media", [packet(0), packet(10), packet(20)], stop)
    assert bench.kinds == [SAMPLE, END]


def test_recordings_packets_are_read_several_at_a_time_before_one_is_due_and_not_while_it_is_worked_on():
    bench, read_at_ns = Bench(), []

    def note() -> None:
        read_at_ns.append(bench.clock.now_ns())

    bench.live("media", [step for k in range(40) for step in (packet(100 * k), note)])
    due_ns = bench.at_ns[:40]
    assert [s.header.seq for s in bench.samples] == list(range(40))
    assert all(s.header.receive_ns == at_ns for s, at_ns in zip(bench.samples, due_ns, strict=True)), "none came late for it"
    bursts = sorted(set(read_at_ns))
    assert len(bursts) == 3, "as many as may wait"
    assert all(at_ns + READ_AHEAD_NS in due_ns for at_ns in bursts)


def test_reading_ahead_ends_when_time_or_memory_does():
    bench = Bench()

    def take_long() -> None:
        bench.clock.sleep_until_ns(bench.clock.now_ns() + 12 * MS)

    bench.live("media", [step for k in range(6) for step in (packet(100 * k), take_long)])
    assert [s.header.receive_ns - s.header.capture_ns for s in bench.samples] == [2 * MS] * 6
    large = iter([packet(k, text=bytes(MOST_BYTES // 2)) for k in range(6)])
    ahead = ReadAhead(large)
    assert ahead.first() is not None
    ahead.fill(bench.clock, until_ns=2**62)
    assert len(list(large)) == 4


def test_restarted_source_speaks_under_its_new_epoch():
    bench = Bench()
    bench.live("media", [packet(0)], epoch=3, first_seq=5)
    assert (bench.announced[0].header.epoch, bench.announced[0].header.seq) == (3, 5)


# -- replay -------------------------------------------------------------------------------------------------------


def recording(kind: AnnouncementKind, ms: int, seq: int = 0, text: bytes = b"hello") -> Recording:
    header = Header(stream="text", seq=seq, capture_ns=ORIGIN + ms * MS, receive_ns=ORIGIN + (ms + 2) * MS)
    return Recording(announcement=Announcement(header=header, kind=kind), chunks=(text,) if kind is SAMPLE else ())


def gate(horizon_ms: int = 10**6, in_flight: int = 10**6) -> CreditGate:
    return CreditGate(origin_ns=ORIGIN, horizon_ns=horizon_ms * MS, in_flight=in_flight, stages=("fusion",), encoder="text")


def replay(
    bench: Bench, recordings: list[Recording], credit: CreditGate | None = None, speed: float | None = None
) -> ReplayIngest:
    return ReplayIngest(
        stream="text",
        recordings=recordings,
        reader=bench.reader,
        ports=bench.ports,
        gate=credit or gate(),
        clock=bench.clock,
        origin_ns=ORIGIN,
        start_ns=bench.clock.now_ns(),
        speed=speed,
    )


def test_replay_says_with_each_announcement_when_the_next_was_received():
    bench = Bench()
    replay(bench, [recording(SAMPLE, 10), recording(HEARTBEAT, 30), recording(END, 40, 1)]).run(threading.Event())
    assert bench.kinds == [WATERMARK, SAMPLE, HEARTBEAT, END]
    assert [a.watermark_ns for a in bench.announced] == [
        ORIGIN + 12 * MS - 1, ORIGIN + 32 * MS - 1, ORIGIN + 42 * MS - 1, FOREVER_NS
    ]  # fmt: skip
    assert WATERMARK not in [r.announcement.kind for r in bench.recordings]
    assert [s.header.receive_ns for s in bench.samples] == [ORIGIN + 12 * MS]


def test_replay_of_a_cut_log_ends_the_stream_itself():
    bench = Bench()
    replay(bench, [recording(SAMPLE, 10)]).run(threading.Event())
    assert bench.kinds == [WATERMARK, SAMPLE, END]
    assert bench.announced[-1].watermark_ns == FOREVER_NS


def test_replay_of_a_stream_that_was_lost_for_good_keeps_it_lost():
    bench = Bench()
    replay(bench, [recording(SAMPLE, 10), recording(LOST, 20)]).run(threading.Event())
    assert bench.kinds == [WATERMARK, SAMPLE, LOST, LOST]
    assert bench.announced[-1].watermark_ns == FOREVER_NS


def test_replay_of_a_stream_without_a_word_ends_it():
    bench = Bench()
    replay(bench, []).run(threading.Event())
    assert bench.kinds == [END]


def test_replay_at_double_speed_keeps_the_stamps_and_halves_the_time():
    bench = Bench(5000 * MS)
    replay(bench, [recording(SAMPLE, 8), recording(END, 98, 1)], speed=2.0).run(threading.Event())
    assert bench.at_ns[1:] == [5005 * MS, 5050 * MS]
    assert bench.announced[1].header.capture_ns == ORIGIN + 8 * MS


def test_replay_counts_an_undecodable_sample_and_goes_on():
    bench = Bench()
    ingest = replay(bench, [recording(SAMPLE, 10, 0, b"\xff"), recording(SAMPLE, 20, 1)])
    ingest.run(threading.Event())
    assert dict(ingest.counts) == {"undecodable": 1}
    assert len(bench.samples) == 1


@pytest.mark.parametrize("credit", [gate(horizon_ms=15), gate(in_flight=1)])
def test_replay_waits_for_credit_and_stops_when_told(credit: CreditGate):
    bench, stop = Bench(), threading.Event()
    ingest = replay(bench, [recording(SAMPLE, 10), recording(SAMPLE, 20, 1), recording(SAMPLE, 40, 2)], credit)
    thread = threading.Thread(target=ingest.run, args=(stop,), daemon=True)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive() and len(bench.samples) == 1
    credit.report(Progress(stage="fusion", event_ns=ORIGIN + 6 * MS))
    credit.report(Progress(stage="text", event_ns=0, count=1))
    thread.join(0.2)
    assert thread.is_alive() and len(bench.samples) == 2
    stop.set()
    credit.wake()
    thread.join(5)
    assert not thread.is_alive() and len(bench.samples) == 2


# -- credit -------------------------------------------------------------------------------------------------------


def test_credit_is_that_of_the_slowest_stage_and_of_the_encoder():
    credit = CreditGate(origin_ns=0, horizon_ns=100, in_flight=2, stages=("fusion", "recorder"), encoder="text")
    assert credit.may_send(100, 1) and not credit.may_send(101, 1) and not credit.may_send(0, 2)
    credit.report(Progress(stage="fusion", event_ns=50, count=1))
    assert not credit.may_send(101, 0)
    credit.report(Progress(stage="recorder", event_ns=20))
    assert credit.may_send(120, 0) and not credit.may_send(121, 0)
    credit.report(Progress(stage="text", event_ns=0, count=3))
    assert credit.may_send(0, 4) and not credit.may_send(0, 5)


def test_credit_never_shrinks_and_other_streams_encoders_do_not_count():
    credit = CreditGate(origin_ns=0, horizon_ns=10, in_flight=1, stages=("fusion",), encoder="text")
    credit.report(Progress(stage="fusion", event_ns=90))
    credit.report(Progress(stage="fusion", event_ns=5))
    credit.report(Progress(stage="camera", event_ns=500, count=500))
    assert credit.may_send(100, 0) and not credit.may_send(101, 0) and not credit.may_send(0, 1)


def test_waiting_for_credit_returns_at_once_when_stopped():
    credit, stop = gate(), threading.Event()
    assert credit.wait(ORIGIN, 0, stop)
    stop.set()
    assert not credit.wait(ORIGIN, 0, stop)
