"""From admission to a decision, its receipt, the run's digest and its summary."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))

from fuse_bench import MS, Bench, policy

from pipeline.admission import Admission, AdmittedWindow
from pipeline.digest import RunDigest
from pipeline.latency import LatencySummary, attribute, compute_only
from pipeline.messages import (
    Admitted,
    Announcement,
    Availability,
    Decision,
    Header,
    Progress,
    Recording,
    Spans,
    Tokens,
)
from pipeline.policy.hysteresis import HysteresisPolicy, PolicyState
from pipeline.stages.sink import SinkStage, StageReport


def test_every_admission_becomes_one_decision_with_its_receipt():
    bench = Bench()
    for seq, ms in enumerate((50, 100, 150)):
        bench.frame(ms, 0.25, seq)
    bench.stage.poll()
    assert [d.reference_ns // MS for d in bench.decisions] == [50, 100, 150]
    assert [d.seq for d in bench.decisions] == [0, 1, 2]
    receipt = bench.decisions[0].receipt
    assert [a.stream for a in receipt.admitted] == ["camera", "text"]
    assert receipt.admitted[1].availability is Availability.MISSING
    assert (receipt.engines, receipt.config_sha256) == ({"fusion": "f00d"}, "c0")
    assert bench.progress[-1].event_ns >= 150 * MS


def test_network_gets_tokens_ages_mask_and_zeros_for_an_absent_stream():
    bench = Bench()
    bench.frame(50, 0.25, 0)
    bench.stage.poll()
    inputs, present = bench.network.asked[0]
    assert present == (True, False)
    np.testing.assert_array_equal(inputs["mask"], np.array([[1, 0, 0], [0, 0, 1]], dtype=np.float32))
    np.testing.assert_array_equal(inputs["text_tokens"], np.zeros((2, 3), dtype=np.float32))
    assert inputs["age_s"].tolist() == [0, 0] and inputs["age_s"].dtype == np.float32


def test_fusion_copies_tokens_that_a_link_only_lent():
    bench = Bench()
    lent = bench.frame(50, 0.25, 0)
    lent[:] = 0.75
    bench.stage.poll()
    assert bench.decisions[0].outputs["action"].tolist() == [0.75, 0.25]


def test_live_decision_is_on_time_late_or_skipped():
    bench = Bench(live=True)
    bench.clock.sleep_until_ns(50 * MS)
    bench.frame(50, 0.25, 0)
    bench.stage.poll()
    bench.clock.sleep_until_ns(100 * MS)
    bench.frame(100, 0.25, 1)
    bench.frame(150, 0.25, 2)
    bench.clock.sleep_until_ns(250 * MS)
    bench.frame(250, 0.25, 3)
    bench.end(250)
    bench.clock.sleep_until_ns(301 * MS)
    bench.stage.poll()
    assert [(d.reference_ns // MS, d.status) for d in bench.decisions] == [
        (50, "on_time"), (100, "skipped"), (150, "skipped"), (200, "skipped"), (250, "late")
    ]  # fmt: skip
    assert bench.decisions[1].outputs == {}
    assert bench.decisions[1].action == bench.decisions[0].action


def test_fusion_refuses_other_messages():
    with pytest.raises(TypeError, match="Progress"):
        Bench().stage.handle(Progress(stage="x", event_ns=0))


# -- policy -------------------------------------------------------------------------------------------------------


def run_policy(rule: HysteresisPolicy, probabilities: list[float], blind: bool = False) -> list[str]:
    state, actions = PolicyState(), []
    for index, p in enumerate(probabilities):
        state = rule.step(state, index, np.array([1 - p, p], dtype=np.float32), blind=blind)
        assert len(state.recent) <= rule.memory
        actions.append(rule.label(state))
    return actions


def test_class_takes_over_only_after_its_count_in_a_row():
    assert run_policy(policy(), [0.9, 0.1, 0.9, 0.9]) == ["keep", "keep", "keep", "stop"]


def test_class_below_the_threshold_neither_takes_over_nor_ends_one():
    assert run_policy(policy(), [0.9, 0.55, 0.9, 0.9, 0.45, 0.45]) == ["keep", "keep", "keep", "stop", "stop", "stop"]


def test_class_without_a_count_takes_over_at_once():
    assert run_policy(policy(), [0.9, 0.9, 0.1]) == ["keep", "stop", "keep"]


def test_blind_action_comes_at_once():
    assert run_policy(policy(), [0.1], blind=True) == ["stop"]


def test_policy_state_has_one_canonical_form():
    assert PolicyState(action=1, recent=((0, -1), (5, 1))).to_json() == '{"action":1,"recent":[[0,-1],[5,1]]}'


# -- digest -------------------------------------------------------------------------------------------------------


def decision(ms: int = 50, seq: int = 0) -> Decision:
    bench = Bench()
    bench.frame(ms, 0.25, seq)
    bench.stage.poll()
    return bench.decisions[0]


def digest(*decisions: Decision) -> str:
    run = RunDigest()
    for one in decisions:
        run.add(one)
    return run.hexdigest()


def with_admitted(base: Decision, **changes) -> Decision:
    admitted = base.receipt.admitted
    return replace(base, receipt=replace(base.receipt, admitted=(replace(admitted[0], **changes), *admitted[1:])))


def one_bit(base: Decision) -> Decision:
    values = base.outputs["action"].copy()
    values.view(np.uint32)[0] ^= 1
    return replace(base, outputs={"action": values})


@pytest.mark.parametrize(
    "change",
    [
        one_bit,
        lambda d: with_admitted(d, seq=1),
        lambda d: with_admitted(d, age_ns=1),
        lambda d: with_admitted(d, availability=Availability.STALE),
        lambda d: replace(d, state=d.state + " "),
        lambda d: replace(d, receipt=replace(d.receipt, config_sha256="c1")),
        lambda d: replace(d, receipt=replace(d.receipt, engines={"fusion": "beef"})),
    ],
)
def test_digest_changes_with_what_was_decided_and_on_what(change):
    assert digest(change(decision())) != digest(decision())


@pytest.mark.parametrize(
    "change",
    [
        lambda d: replace(d, publish_ns=d.publish_ns + 5),
        lambda d: replace(d, receipt=replace(d.receipt, spans=replace(d.receipt.spans, fuse_ns=9))),
        lambda d: replace(d, status="late"),
        lambda d: replace(d, reference_ns=d.reference_ns + 7),
    ],
)
def test_digest_ignores_when_and_how_fast_a_run_was(change):
    assert digest(change(decision())) == digest(decision())


def test_digest_depends_on_the_time_between_decisions():
    first = decision()
    assert digest(first, replace(first, reference_ns=first.reference_ns + 1)) != digest(
        first, replace(first, reference_ns=first.reference_ns + 2)
    )


# -- latency ------------------------------------------------------------------------------------------------------


def admission(*, settled_ns: int, announced_ns: int, arrived_ns: tuple[int, ...], delay_ns: int = 0) -> Admission:
    windows = []
    for index, at_ns in enumerate(arrived_ns):
        header = Header(stream=f"s{index}", seq=0, capture_ns=100 * MS, receive_ns=100 * MS, delay_ns=delay_ns)
        tokens = Tokens(
            header=header,
            window_end_ns=100 * MS,
            values=np.zeros((1, 1), np.float32),
            decode_ns=(index + 1) * MS,
            encode_ns=3 * MS,
        )
        admitted = Admitted(stream=f"s{index}", availability=Availability.PRESENT)
        windows.append(AdmittedWindow(admitted=admitted, tokens=tokens, arrived_ns=at_ns))
    return Admission(
        reference_ns=100 * MS,
        synthetic=False,
        windows=tuple(windows),
        settled_ns=settled_ns,
        complete_ns=max(arrived_ns, default=0),
        announced_ns=announced_ns,
        overrun=False,
    )


@pytest.mark.parametrize(
    "found",
    [
        admission(settled_ns=112 * MS, announced_ns=101 * MS, arrived_ns=(106 * MS, 109 * MS)),
        admission(settled_ns=102 * MS, announced_ns=101 * MS, arrived_ns=(106 * MS, 109 * MS)),
        admission(settled_ns=112 * MS, announced_ns=101 * MS, arrived_ns=()),
        admission(settled_ns=0, announced_ns=101 * MS, arrived_ns=(106 * MS,), delay_ns=1 * MS),
    ],
)
def test_spans_sum_exactly_to_the_total(found: Admission):
    spans = attribute(found, fuse_ns=2 * MS, publish_ns=119 * MS)
    assert spans.total_ns == spans.decode_ns + spans.encode_ns + spans.fuse_ns + spans.wait_ns + spans.runtime_ns
    assert spans.total_ns == 19 * MS
    assert spans.runtime_ns >= 0


def test_critical_path_is_that_of_the_tokens_that_came_last_and_waiting_is_apart():
    found = admission(settled_ns=112 * MS, announced_ns=101 * MS, arrived_ns=(106 * MS, 109 * MS))
    spans = attribute(found, fuse_ns=2 * MS, publish_ns=119 * MS)
    assert (spans.critical_stream, spans.decode_ns, spans.encode_ns, spans.wait_ns) == ("s1", 2 * MS, 3 * MS, 3 * MS)
    assert spans.runtime_ns == (19 - 2 - 3 - 2 - 3) * MS


def test_at_a_synthetic_time_waiting_for_the_lost_reference_stream_is_not_the_runtimes_share():
    found = replace(admission(settled_ns=112 * MS, announced_ns=110 * MS, arrived_ns=()), synthetic=True)
    spans = attribute(found, fuse_ns=2 * MS, publish_ns=119 * MS)
    assert (spans.total_ns, spans.wait_ns, spans.runtime_ns) == (19 * MS, 12 * MS, 5 * MS)


def test_spans_of_a_replay_are_compute_alone():
    spans = compute_only(admission(settled_ns=0, announced_ns=0, arrived_ns=(0,)), fuse_ns=2 * MS)
    assert (spans.total_ns, spans.wait_ns, spans.runtime_ns) == (6 * MS, 0, 0)


def test_percentile_without_enough_values_is_none():
    summary = LatencySummary()
    for value in range(1, 101):
        summary.add("latency", value * MS)
    assert summary.percentile_ns("latency", 50) == pytest.approx(50 * MS, rel=0.01)
    assert summary.percentile_ns("latency", 99.9) is None
    assert summary.percentile_ns("decode", 50) is None


# -- sink ---------------------------------------------------------------------------------------------------------


class Writer:
    def __init__(self) -> None:
        self.decisions, self.recordings, self.snapshots, self.ends = [], [], [], []

    def announcement(self, recording):
        self.recordings.append(recording)

    def decision(self, one):
        self.decisions.append(one)

    def snapshot(self, time_ns, state, memory):
        self.snapshots.append((time_ns, state))

    def finish(self, end):
        self.ends.append(end)


class Udp:
    uri, dropped = "udp:here", 2

    def __init__(self) -> None:
        self.sent: list[Decision] = []

    def send(self, one: Decision) -> None:
        self.sent.append(one)


def run_of(count: int) -> list[Decision]:
    base = replace(decision(), status="on_time")
    made = [
        replace(base, seq=i, reference_ns=(50 + 50 * i) * MS, publish_ns=(50 + 50 * i + (40 if i % 2 else 10)) * MS)
        for i in range(count)
    ]
    made[3] = replace(made[3], status="late")
    made[4] = replace(made[4], status="skipped", outputs={})
    return made


def test_sink_counts_hashes_sends_and_writes_what_it_takes():
    writer, udp, progress = Writer(), Udp(), []
    sink = SinkStage(writer=writer, sinks=[udp], progress=progress.append)
    made = run_of(100)
    for one in made:
        sink.handle(one)
    heard = Announcement(header=Header(stream="text", seq=0, capture_ns=0, receive_ns=0))
    sink.handle(Recording(announcement=heard))
    summary = sink.finish([StageReport(stage="camera", drops={("camera", "out_of_order"): 3, ("camera", "x"): 0})])
    assert (summary.decisions, summary.on_time, summary.late, summary.skipped, summary.missed) == (100, 98, 1, 1, 2)
    assert summary.sha256 == digest(*made)
    assert summary.drops == {("camera", "out_of_order"): 3, ("decisions", "sink udp:here"): 2}
    assert (summary.dropped, summary.clean) == (5, False)
    assert summary.closing_line() == f"decisions=100 missed=2 dropped=5 sha256={summary.sha256}"
    assert len(writer.decisions) == len(udp.sent) == 100 and len(writer.recordings) == 1
    assert [t for t, _ in writer.snapshots] == [made[i].reference_ns for i in (0, 20, 40, 60, 80)]
    assert writer.ends[0]["last_reference_ns"] == str(made[-1].reference_ns) and writer.ends[0]["clean"] == "false"
    assert progress[-1] == Progress(stage="recorder", event_ns=made[-1].reference_ns, count=100)
    assert summary.within_25_ms == pytest.approx(0.5)
    assert summary.timeline.classes["action"][:6].tolist() == [0, 0, 0, 0, -1, 0]
    assert sum(summary.availability["camera"].values()) == 100


def test_outbox_gives_each_decision_once_and_may_be_left_out():
    sink = SinkStage(writer=None)
    for one in run_of(6):
        sink.handle(one)
    assert len(sink.take()) == 6 and sink.take() == []
    silent = SinkStage(writer=None, keep_outbox=False)
    silent.handle(decision())
    assert silent.take() == []


def test_run_without_a_decision_has_a_summary():
    summary = SinkStage(writer=None).finish([StageReport(stage="camera", failures=("camera: gone",))])
    assert (summary.decisions, summary.clean, summary.failures) == (0, True, ("camera: gone",))


def test_sink_refuses_other_messages():
    with pytest.raises(TypeError, match="Progress"):
        SinkStage(writer=None).handle(Progress(stage="x", event_ns=0))


def test_spans_name_every_part():
    assert set(Spans.__struct_fields__) == {
        "critical_stream", "total_ns", "decode_ns", "encode_ns", "fuse_ns", "wait_ns", "runtime_ns"
    }  # fmt: skip


@pytest.mark.parametrize("largest_ns", [38_021_111, 38_006_001, 999_999, 1_000_001])
def test_no_percentile_lies_above_the_maximum(largest_ns: int):
    summary = LatencySummary()
    for _ in range(1000):
        summary.add("latency", largest_ns)
    found_ns = summary.percentile_ns("latency", 99.9)
    assert found_ns is not None and found_ns <= largest_ns == summary.maximum_ns("latency")
    assert found_ns == pytest.approx(largest_ns, rel=0.001)


def test_a_receipt_names_the_engine_that_served_until_another_does():
    bench = Bench()
    for seq, (ms, engine) in enumerate(((50, ""), (100, "ort-int8:beef"), (150, "ort-int8:beef"), (200, ""))):
        header = Header(stream="camera", seq=seq, capture_ns=ms * MS, receive_ns=ms * MS)
        bench.stage.handle(Announcement(header=header, watermark_ns=ms * MS))
        values = np.array([[0.25]], dtype=np.float32)
        bench.stage.handle(Tokens(header=header, window_end_ns=ms * MS, values=values, engine=engine))
        bench.stage.poll()
    own = {"fusion": "f00d"}
    fast = {**own, "camera": "ort-int8:beef"}
    assert [d.receipt.engines for d in bench.decisions] == [own, fast, fast, own]
    sink = SinkStage(writer=None)
    for decision in bench.decisions:
        sink.handle(decision)
    summary = sink.finish([StageReport(stage="encoder", notices=("camera: ort-int8 took over",))])
    assert (summary.swaps, summary.clean, summary.notices) == (2, False, ("camera: ort-int8 took over",))


def test_the_hash_changes_with_the_engine_that_serves_from_the_middle_on():
    digests = []
    for engine in ("", "ort-int8:beef"):
        bench, digest = Bench(), RunDigest()
        for seq, ms in enumerate((50, 100)):
            header = Header(stream="camera", seq=seq, capture_ns=ms * MS, receive_ns=ms * MS)
            bench.stage.handle(Announcement(header=header, watermark_ns=ms * MS))
            values = np.array([[0.25]], dtype=np.float32)
            bench.stage.handle(Tokens(header=header, window_end_ns=ms * MS, values=values, engine=engine if seq else ""))
            bench.stage.poll()
        for decision in bench.decisions:
            digest.add(decision)
        digests.append(digest.hexdigest())
    assert digests[0] != digests[1]
