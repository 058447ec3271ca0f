"""The temporal contract as properties: event time admits the same in every order of arrival, and as a clean live run did."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from dataclasses import replace as with_changes
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.admission import Admission, AdmissionMachine
from pipeline.contract import Contract, StreamContract
from pipeline.messages import FOREVER_NS, Announcement, AnnouncementKind, Availability, Header, Tokens
from pipeline.windows import WindowGrid, WindowSpec

MS = 1_000_000
SAMPLE = WindowSpec(kind="sample")
SOUND = WindowSpec(kind="audio", window_ns=40 * MS, hop_ns=20 * MS, gap_ns=5 * MS, sample_rate_hz=16_000, slack_ns=62_500)
ROWS = WindowSpec(kind="telemetry", window_ns=10 * MS, hop_ns=40 * MS, gap_ns=30 * MS, slack_ns=5 * MS, step_ns=5 * MS)
STREAMS = (
    StreamContract(stream="camera", window=SAMPLE, max_age_ns=60 * MS, wait_ns=20 * MS, liveness_ns=90 * MS),
    StreamContract(stream="microphone", window=SOUND, max_age_ns=70 * MS, wait_ns=12 * MS, liveness_ns=90 * MS),
    StreamContract(stream="telemetry", window=ROWS, max_age_ns=70 * MS, wait_ns=8 * MS, liveness_ns=35 * MS),
    StreamContract(stream="text", window=SAMPLE, max_age_ns=120 * MS, wait_ns=5 * MS, liveness_ns=80 * MS, sparse=True),
)


@dataclass(frozen=True)
class History:
    """What the sources of one run said, by stream, in order; and the contract it was said under."""

    contract: Contract
    lanes: dict[str, list[Announcement]]


def contract(reference: str | None, stop_after_ns: int | None = None) -> Contract:
    return Contract(
        streams=STREAMS,
        reference_stream=reference,
        period_ns=30 * MS,
        deadline_ns=50 * MS,
        reserve_ns=8 * MS,
        origin_ns=0,
        stop_after_ns=stop_after_ns,
    )


@st.composite
def histories(draw: st.DrawFn) -> History:
    reference = draw(st.sampled_from(["camera", "camera", None]))
    lanes = {}
    for stream in STREAMS:
        said: list[Announcement] = []
        capture_ms, receive_ms, seq, epoch = draw(st.integers(0, 40)), 0, 0, 0
        spans = st.sampled_from([20, 20, 20, 15, 90])  # some reach back over what came before them
        step_ms = {"camera": 30, "microphone": 20, "telemetry": 15, "text": 50}[stream.stream]
        for _ in range(draw(st.integers(0, 10))):
            choices = ["sample"] * 7 + ["drop", "lost"] + ["heartbeat"] * (4 if stream.sparse else 0)
            what = draw(st.sampled_from(choices))
            capture_ms += step_ms + draw(st.sampled_from([0, 0, 0, -7, 6, 70]))
            if what == "drop":
                seq += 1
                continue
            # Some text is older than the heartbeat before it; a few samples come very late.
            captured_ms = max(0, capture_ms - (60 if stream.sparse and what == "sample" and draw(st.booleans()) else 0))
            receive_ms = max(receive_ms, captured_ms + draw(st.sampled_from([0, 0, 3, 11, 12, 13, 21, 90])))
            kind = {"sample": AnnouncementKind.SAMPLE, "lost": AnnouncementKind.LOST}.get(what, AnnouncementKind.HEARTBEAT)
            if (
                what == "sample"
                and said
                and captured_ms * MS <= max((a.header.capture_ns for a in said if a.kind is AnnouncementKind.SAMPLE), default=-1)
            ):
                continue
            header = Header(
                stream=stream.stream,
                epoch=epoch,
                seq=seq,
                capture_ns=captured_ms * MS,
                receive_ns=receive_ms * MS,
                span_ns=draw(spans) * MS if stream.window.hop_ns else 0,
            )
            said.append(Announcement(header=header, kind=kind))
            if what == "sample":
                seq += 1
            elif what == "lost":
                seq, epoch = 0, epoch + 1
        ends_ms = max(receive_ms, capture_ms) + draw(st.sampled_from([0, 1, 40, 150]))
        over = Header(stream=stream.stream, epoch=epoch, seq=seq, capture_ns=ends_ms * MS, receive_ns=ends_ms * MS)
        kind = draw(st.sampled_from([AnnouncementKind.END] * 4 + [AnnouncementKind.LOST]))
        if not (said and said[-1].kind is AnnouncementKind.LOST):
            said.append(Announcement(header=over, kind=kind))
        lanes[stream.stream] = said
    return History(contract(reference), lanes)


def tokens_of(history: History) -> dict[str, list[Tokens]]:
    """What the encoders make of a history, in order."""
    made: dict[str, list[Tokens]] = {}
    for stream in STREAMS:
        grid = WindowGrid(stream.window, history.contract.origin_ns)
        for said in history.lanes[stream.stream]:
            if said.kind is AnnouncementKind.SAMPLE:
                for end_ns in grid.push(said.header):
                    tokens = Tokens(header=said.header, window_end_ns=end_ns, values=np.zeros((1, 1), dtype=np.float32))
                    made.setdefault(stream.stream, []).append(tokens)
    return made


def with_watermarks(said: list[Announcement]) -> list[Announcement]:
    """As `ReplayIngest` sends them: each knows when the next one was received, the last that none follows."""
    if not said:
        return []
    out = [replace(said[0], kind=AnnouncementKind.WATERMARK, watermark_ns=said[0].header.receive_ns - 1)]
    for current, following in itertools.pairwise(said):
        out.append(replace(current, watermark_ns=following.header.receive_ns - 1))
    out.append(replace(said[-1], watermark_ns=FOREVER_NS))
    if said[-1].kind is not AnnouncementKind.END:
        out.append(Announcement(header=said[-1].header, kind=AnnouncementKind.LOST, watermark_ns=FOREVER_NS))
    return out


def replay(history: History, order: Random | None) -> tuple[list[Admission], AdmissionMachine]:
    """Event-time mode. Without ``order`` one lane after the other."""
    machine = AdmissionMachine(history.contract, clocked=False)
    lanes: list[list[Announcement] | list[Tokens]] = [with_watermarks(said) for said in history.lanes.values()]
    lanes += list(tokens_of(history).values())
    queues = [list(reversed(lane)) for lane in lanes if lane]
    found: list[Admission] = []
    while queues:
        queue = queues[0] if order is None else order.choice(queues)
        message = queue.pop()
        if not queue:
            queues.remove(queue)
        if isinstance(message, Tokens):
            machine.tokens(message)
        else:
            machine.announce(message)
        while (order is None or order.random() < 0.7) and (admission := machine.due(None)) is not None:
            found.append(admission)
    while (admission := machine.due(None)) is not None:
        found.append(admission)
    return found, machine


def verdicts(admissions: list[Admission]) -> list[tuple[object, ...]]:
    """What must not depend on the order of arrival or on the clock."""
    return [(a.reference_ns, a.synthetic, a.overrun, *(w.admitted for w in a.windows)) for a in admissions]


@settings(max_examples=100, deadline=None)
@given(histories(), st.integers(0, 2**32))
def test_event_time_admits_the_same_in_every_order_of_arrival_and_comes_to_its_end(history: History, seed: int):
    straight, machine = replay(history, None)
    assert machine.finished and not machine.counts
    for shuffle in range(3):
        shuffled, machine = replay(history, Random(seed + shuffle))
        assert machine.finished and not machine.counts
        assert verdicts(shuffled) == verdicts(straight)


@settings(max_examples=50, deadline=None)
@given(histories(), st.integers(0, 2**32))
def test_admission_uses_nothing_late_future_or_old_and_runs_forward(history: History, seed: int):
    admissions, _ = replay(history, Random(seed))
    previous_ns = -1
    for admission in admissions:
        assert admission.reference_ns > previous_ns
        if admission.synthetic is False and history.contract.reference_stream is not None:
            captured = [a.header.capture_ns for a in history.lanes["camera"]]
            assert admission.reference_ns in captured
        previous_ns = admission.reference_ns
        assert not admission.overrun
        for stream, window in zip(STREAMS, admission.windows, strict=True):
            assert (window.tokens is not None) == (window.admitted.availability is Availability.PRESENT)
            if window.tokens is not None:
                header = window.tokens.header
                assert header.receive_ns <= admission.reference_ns + stream.wait_ns
                assert header.capture_ns <= admission.reference_ns
                assert window.admitted.age_ns == admission.reference_ns - window.tokens.window_end_ns
                assert 0 <= window.admitted.age_ns <= stream.max_age_ns


@settings(max_examples=50, deadline=None)
@given(histories())
def test_camera_is_admitted_exactly_as_the_rule_reads(history: History):
    """The newest sample with capture <= t, receive <= t + wait, age <= max_age: written down anew, by brute force."""
    rule = STREAMS[0]
    admissions, _ = replay(history, None)
    samples = [a.header for a in history.lanes["camera"] if a.kind is AnnouncementKind.SAMPLE]
    for admission in admissions:
        t = admission.reference_ns
        served = [h for h in samples if t - rule.max_age_ns <= h.capture_ns <= t and h.receive_ns <= t + rule.wait_ns]
        admitted = admission.windows[0].admitted
        if served:
            newest = max(served, key=lambda h: (h.capture_ns, h.seq))
            assert (admitted.epoch, admitted.seq) == (newest.epoch, newest.seq)
        else:
            assert admitted.availability is not Availability.PRESENT


@settings(max_examples=50, deadline=None)
@given(histories())
def test_a_synthetic_time_never_lies_within_half_a_period_of_another_decision(history: History):
    admissions, _ = replay(history, None)
    for earlier, later in itertools.pairwise(admissions):
        if earlier.synthetic or later.synthetic:
            assert later.reference_ns - earlier.reference_ns >= history.contract.period_ns // 2


def live(history: History, delays: Random) -> tuple[list[Admission], AdmissionMachine]:
    """A clocked run: announcements arrive within ``in_flight`` of their receipt, tokens 2 ms later, loops wake on time."""
    machine = AdmissionMachine(history.contract, clocked=True)
    made = tokens_of(history)
    events: list[tuple[int, int, Announcement | Tokens]] = []
    for stream, said in history.lanes.items():
        arrives_ns = -1
        for announcement in said:
            received_ns = announcement.header.receive_ns
            arrives_ns = max(arrives_ns, received_ns + delays.randrange(history.contract.in_flight_ns))
            watermark_ns = {AnnouncementKind.END: FOREVER_NS, AnnouncementKind.LOST: received_ns}.get(announcement.kind, 0)
            heapq.heappush(events, (arrives_ns, len(events), replace(announcement, watermark_ns=watermark_ns)))
            if announcement.kind is AnnouncementKind.SAMPLE:
                for tokens in made.get(stream, []):
                    if (tokens.header.epoch, tokens.header.seq) == (announcement.header.epoch, announcement.header.seq):
                        heapq.heappush(events, (arrives_ns + 2 * MS, len(events), tokens))
    found: list[Admission] = []
    now_ns = 0
    for _ in range(5000):
        wakes = [w for w in (machine.next_wake_ns(),) if w is not None]
        if events and (not wakes or events[0][0] <= wakes[0]):
            at_ns, _n, message = heapq.heappop(events)
            now_ns = max(now_ns, at_ns)
            if isinstance(message, Tokens):
                machine.tokens(message, now_ns)
            else:
                machine.announce(message, now_ns)
        elif wakes:
            now_ns = max(now_ns, wakes[0])
        while (admission := machine.due(now_ns)) is not None:
            found.append(admission)
        if machine.finished and not events:
            return found, machine
    raise AssertionError("the live run never finished")


@settings(max_examples=100, deadline=None)
@given(histories(), st.integers(0, 2**32))
def test_clean_live_run_admits_what_event_time_replay_of_its_log_admits(history: History, seed: int):
    admitted_live, machine = live(history, Random(seed))
    if machine.counts or any(a.overrun or a.skipped for a in admitted_live):
        return  # not clean: its log says so, and as-it-happened replay is for it
    stop_ns = admitted_live[-1].reference_ns if admitted_live else 0
    logged = with_changes(history, contract=contract(history.contract.reference_stream, stop_ns))
    replayed, _ = replay(logged, Random(seed))
    assert verdicts(replayed) == verdicts(admitted_live)
