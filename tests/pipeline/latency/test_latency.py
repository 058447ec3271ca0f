"""Where decisions' time goes: intervals without gaps, percentiles with intervals, blame, and what other waits would do."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.inline import InlineRun
from pipeline.cli.planning import plan_live
from pipeline.decision_json import decision_from_json, decision_to_json
from pipeline.digest import RunDigest
from pipeline.latency import LatencySummary
from pipeline.latency.analysis import Measured, measured, tail
from pipeline.latency.intervals import STAGES, intervals, until_published
from pipeline.latency.waits import StreamArrivals, WaitModel
from pipeline.logs.reader import LogReader
from pipeline.messages import Admitted, Announcement, Availability, Decision, Header, Receipt, Spans, Stamps, StreamStamps

MS = 1_000_000
SPANS = Spans(critical_stream="", total_ns=0, decode_ns=0, encode_ns=0, fuse_ns=0, wait_ns=0, runtime_ns=0)


def decision(reference_ms: float, publish_ms: float, *streams: StreamStamps, fuse_ms: float = 1.0, seq: int = 0) -> Decision:
    """Fused ``fuse_ms`` before it was published."""
    reference_ns, publish_ns = int(reference_ms * MS), int(publish_ms * MS)
    start_ns = publish_ns - int(fuse_ms * MS)
    stamps = Stamps(streams=streams, announced_ns=reference_ns, fuse_start_ns=start_ns, fused_ns=publish_ns)
    receipt = Receipt(admitted=(), spans=SPANS, engines={}, config_sha256="", state_sha256="", stamps=stamps)
    deadline_ns = reference_ns + 50 * MS
    return Decision(
        seq=seq, reference_ns=reference_ns, publish_ns=publish_ns, deadline_ns=deadline_ns, status="on_time", action="keep",
        receipt=receipt,
    )  # fmt: skip


def way(stream: str, capture_ms: float, receive_ms: float, arrived_ms: float, settled_ms: float = 0.0) -> StreamStamps:
    """A stream's tokens whose way is all encoding."""
    capture, receive, arrived, settled = (int(ms * MS) for ms in (capture_ms, receive_ms, arrived_ms, settled_ms))
    return StreamStamps(
        stream=stream, capture_ns=capture, receive_ns=receive, decode_start_ns=receive, decoded_ns=receive, taken_ns=receive,
        encode_start_ns=receive, encoded_ns=arrived, arrived_ns=arrived, settled_ns=settled,
    )  # fmt: skip


@pytest.fixture(scope="module")
def live(short_log: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Decision]:
    """Five seconds, run live, recorded and read back."""
    log = tmp_path_factory.mktemp("live") / "live.mcap"
    InlineRun(plan_live("driving", [], [], record=log, duration="5s").plan).run()
    return list(LogReader(log).decisions())


# Intervals -------------------------------------------------------------------------------------------------------------


def test_spans_of_a_live_run_sum_to_each_decisions_latency_within_a_percent(live: list[Decision]) -> None:
    measurable = [d for d in live if d.status != "skipped"]
    assert len(measurable) > 80
    for one in measurable:
        found = list(until_published(intervals(one)))
        assert sum(i.duration_ns for i in found) == pytest.approx(one.latency_ns, rel=0.01)
        assert {i.stage for i in found} <= set(STAGES)
        assert found[0].start_ns == one.reference_ns
        assert all(a.end_ns == b.start_ns for a, b in pairwise(found)), "gap or overlap"
    assert {"sensor", "decode", "encode", "fuse", "policy", "sink link"} <= {i.stage for d in live for i in intervals(d)}


@given(st.data())
def test_any_stamps_give_intervals_without_gaps_that_sum_to_the_latency(data: st.DataObject) -> None:
    instants = st.integers(min_value=0, max_value=10**9)
    names = [n for n in StreamStamps.__struct_fields__ if n != "stream"]
    streams = [
        StreamStamps(stream=stream, **{name: data.draw(st.one_of(st.just(0), instants)) for name in names})
        for stream in ("camera", "microphone")
    ]
    reference_ns = data.draw(instants)
    publish_ns = reference_ns + data.draw(instants) + 1
    fuse = sorted(data.draw(st.integers(reference_ns, publish_ns)) for _ in range(2))
    # fusion began after the last tokens that it read
    streams = [replace(s, arrived_ns=min(s.arrived_ns, fuse[0]), encoded_ns=min(s.encoded_ns, fuse[0])) for s in streams]
    streams = [replace(s, **{n: min(getattr(s, n), fuse[0]) for n in names}) for s in streams]
    stamps = Stamps(
        streams=tuple(streams), announced_ns=min(data.draw(instants), fuse[0]), fuse_start_ns=fuse[0], fused_ns=fuse[1]
    )
    whole = replace(decision(0, 1), reference_ns=reference_ns, publish_ns=publish_ns)
    assert whole.receipt is not None
    found = intervals(replace(whole, receipt=replace(whole.receipt, stamps=stamps)))
    assert sum(i.duration_ns for i in found) == publish_ns - reference_ns
    assert all(a.end_ns == b.start_ns for a, b in pairwise(found))


def test_waiting_is_split_among_the_streams_that_were_waited_for() -> None:
    camera = way("camera", 0, 2, 4, settled_ms=2)
    one = decision(
        0, 20, camera, StreamStamps(stream="microphone", settled_ns=9 * MS), StreamStamps(stream="text", settled_ns=15 * MS)
    )
    waits = {i.stream: i.duration_ns / MS for i in intervals(one) if i.stage == "wait"}
    assert waits == {"microphone": 5.0, "text": 6.0}


def test_what_came_before_the_reference_time_costs_nothing() -> None:
    found = intervals(decision(10, 14, way("telemetry", 3, 9, 12)))
    assert [(i.stage, i.duration_ns / MS) for i in found] == [("encode", 2.0), ("fusion queue", 1.0), ("fuse", 1.0)]


def test_a_replayed_or_old_decision_has_none(live: list[Decision]) -> None:
    assert live[50].receipt is not None
    assert intervals(replace(live[50], receipt=replace(live[50].receipt, stamps=None))) == ()
    assert intervals(replace(live[50], receipt=None)) == ()


def test_stamps_survive_json_and_are_no_part_of_the_hash(live: list[Decision]) -> None:
    with_stamps, without = RunDigest(), RunDigest()
    for one in live:
        assert one.receipt is not None
        back = decision_from_json(decision_to_json(one))
        assert back.receipt == one.receipt
        assert back.sink_ns == one.sink_ns > one.publish_ns
        with_stamps.add(one)
        without.add(replace(one, sink_ns=0, receipt=replace(one.receipt, stamps=None)))
    assert with_stamps.hexdigest() == without.hexdigest()


# Percentiles -----------------------------------------------------------------------------------------------------------


def test_a_confidence_interval_holds_the_true_percentile_about_as_often_as_it_says() -> None:
    rng = random.Random(3)
    true_p90 = 1_000_000 * 2.302585  # of an exponential distribution with a mean of 1 ms
    held = 0
    for _ in range(200):
        summary = LatencySummary()
        for _ in range(400):
            summary.add("x", int(rng.expovariate(1e-6)))
        interval = summary.interval_ns("x", 90)
        assert interval is not None
        held += interval[0] <= true_p90 <= interval[1]
    assert 180 <= held <= 200


@pytest.mark.parametrize(
    ("count", "percent", "carried"), [(99, 99.0, False), (100, 99.0, True), (999, 99.9, False), (1000, 99.9, True)]
)
def test_no_percentile_and_no_interval_that_the_count_cannot_carry(count: int, percent: float, carried: bool) -> None:
    summary = LatencySummary()
    for value in range(count):
        summary.add("x", 1_000_000 + value)
    assert (summary.percentile_ns("x", percent) is not None) == carried
    if not carried:
        assert summary.interval_ns("x", percent) is None
    assert summary.interval_ns("nothing", 50) is None


# Blame and waits -------------------------------------------------------------------------------------------------------


def test_the_tail_is_blamed_on_the_stream_it_waited_for() -> None:
    quick = [decision(100 * i, 100 * i + 6, way("camera", 100 * i, 100 * i + 1, 100 * i + 4), seq=i) for i in range(198)]
    slow = [
        decision(100 * i, 100 * i + 30, way("camera", 100 * i, 100 * i + 1, 100 * i + 4, 100 * i + 1),
                 StreamStamps(stream="microphone", settled_ns=(100 * i + 28) * MS), seq=i)
        for i in (198, 199)
    ]  # fmt: skip
    found = tail([Measured(decision=d, intervals=intervals(d)) for d in quick + slow])
    assert found is not None
    assert found.decisions == 2
    assert (found.blames[0].stage, found.blames[0].stream) == ("wait", "microphone")
    assert found.blames[0].tail_ns == pytest.approx(24 * MS)
    assert found.waiting_by_stream() == pytest.approx({"microphone": 24 / 30, "camera": 1 / 30})


def words(stream: str, delays_ms: list[float], period_ms: int) -> list[Announcement]:
    return [
        Announcement(header=Header(stream=stream, seq=i, capture_ns=i * period_ms * MS, receive_ns=int((i * period_ms + d) * MS)))
        for i, d in enumerate(delays_ms)
    ]


@pytest.fixture(scope="module")
def model() -> WaitModel:
    """A camera that comes at once, and a microphone that in 1 of 10 comes 15 ms late; waits of 5 and 20 ms."""
    late = [15.0 if i % 10 == 0 else 1.0 for i in range(1000)]
    arrivals = {
        "camera": StreamArrivals(words("camera", [1.0] * 1000, 50), 0),
        "microphone": StreamArrivals(words("microphone", late, 50), 0),
    }
    decisions = []
    for i in range(1000):
        t = i * 50
        ways = way("camera", t, t + 1, t + 3, t + 1), way("microphone", t, t + late[i], t + late[i] + 2, t + late[i])
        decisions.append(decision(t, t + max(3, late[i] + 2) + 1, *ways, seq=i))
    found = measured(decisions)
    assert len(found) == 960  # less the warm-up
    return WaitModel(found, arrivals, {"camera": 5, "microphone": 20})


def test_the_present_waits_give_the_present_latency(model: WaitModel) -> None:
    now = model.outcome(model.waits_ms)
    assert now.completeness == {"camera": 1.0, "microphone": 1.0}
    assert now.p50_ns == pytest.approx(4 * MS, rel=0.01)
    assert now.p99_ns == pytest.approx(18 * MS, rel=0.01)


def test_a_stream_that_owed_nothing_is_not_thought_to_have_been_waited_for() -> None:
    arrivals = {
        "camera": StreamArrivals(words("camera", [1.0] * 1000, 50), 0),
        "microphone": StreamArrivals(words("microphone", [11.0] * 2000, 25), 0),
    }
    admitted = (Admitted(stream="microphone", availability=Availability.PRESENT),)
    decisions = []
    for t in range(0, 50_000, 50):  # no window ends there, and fusion knew it before the block that was captured then came
        heard = StreamStamps(stream="microphone", settled_ns=(t + 1) * MS)
        made = decision(t, t + 4, way("camera", t, t + 1, t + 3, t + 1), heard, seq=t // 50)
        assert made.receipt is not None
        decisions.append(replace(made, receipt=replace(made.receipt, admitted=admitted)))
    now = WaitModel(measured(decisions), arrivals, {"camera": 5, "microphone": 20}).outcome({"camera": 5, "microphone": 20})
    assert now.p50_ns == pytest.approx(4 * MS, rel=0.01)


def test_a_shorter_wait_trades_completeness_for_latency(model: WaitModel) -> None:
    short = model.outcome({"camera": 5, "microphone": 8})
    assert short.completeness["microphone"] == pytest.approx(0.9, abs=0.002)
    assert short.p99_ns == pytest.approx(11 * MS, rel=0.01)  # 8 ms, 2 ms for words under way, 1 ms of fusion
    completeness = [o.completeness["microphone"] for o in model.along("microphone", 30)]
    assert completeness == sorted(completeness)
    assert completeness[0] == 0.0
    assert completeness[-1] == 1.0


def test_waits_for_a_target_are_as_complete_as_it_allows_or_there_are_none(model: WaitModel) -> None:
    easy, hard = model.reaching(20 * MS, 30), model.reaching(12 * MS, 30)
    assert easy is not None
    assert easy.completeness["microphone"] == 1.0
    assert hard is not None
    assert hard.waits_ms["microphone"] == 8
    assert (hard.p99_ns or 0) <= 12 * MS
    assert hard.completeness["camera"] == 1.0
    assert model.reaching(MS // 2, 30) is None
