from types import SimpleNamespace

from msgspec.structs import replace

from benchmarks.live import Played
from pipeline.messages import Decision, Receipt, Spans

ORIGIN_NS, FRAME_NS = 10**12, 33_000_000
RUN = SimpleNamespace(dropped=0, drops={}, overruns=0, synthetic=0, clean=False, failures=())


def decision(reference_ns: int, latency_ms: int, status: str = "on_time") -> Decision:
    total_ns = latency_ms * 1_000_000
    spans = Spans(
        critical_stream="camera", total_ns=total_ns, decode_ns=0, encode_ns=0, fuse_ns=0, wait_ns=0, runtime_ns=total_ns
    )
    return Decision(
        seq=0,
        reference_ns=reference_ns,
        publish_ns=reference_ns + total_ns,
        deadline_ns=reference_ns + 50_000_000,
        status=status,
        action="keep",
        receipt=Receipt(admitted=(), spans=spans, engines={}, config_sha256="", state_sha256=""),
    )


def test_frames_skipped_or_never_decided_are_lost_and_late():
    frames = [ORIGIN_NS + 2_000_000_000 + k * FRAME_NS for k in range(4)]
    decisions = [decision(frames[0], 5), decision(frames[1], 30), decision(frames[2], 5, "skipped")]
    summary = Played(frames, decisions, ORIGIN_NS, RUN, 3).summary()
    assert (summary["frames"], summary["decided"], summary["frames_lost"]) == (4, 2, 2)
    assert (summary["skipped"], summary["never_decided"]) == (1, 1)
    assert (summary["share_within_25_ms"], summary["share_within_50_ms"]) == (0.25, 0.5)


def test_first_two_seconds_and_times_that_no_frame_had_are_left_out():
    frames = [ORIGIN_NS, ORIGIN_NS + 2_000_000_000]
    decisions = [decision(frames[0], 500), decision(frames[1], 5), decision(frames[1] + FRAME_NS, 500)]
    played = Played(frames, decisions, ORIGIN_NS, RUN, 3)
    summary = played.summary()
    assert (summary["frames"], summary["decided"], summary["share_within_25_ms"]) == (1, 1, 1.0)
    assert summary["latency_ms"]["max"] == 5.0
    assert played.samples()["decisions"]["latency_ns"] == [500_000_000, 5_000_000, 500_000_000]


def test_decision_at_a_synthetic_time_beside_the_frame_is_the_frames_and_is_counted():
    frame_ns = ORIGIN_NS + 2_000_000_000
    beside = decision(frame_ns - 1, 5)
    assert beside.receipt is not None
    synthetic = replace(beside, receipt=replace(beside.receipt, synthetic=True))
    summary = Played([frame_ns], [synthetic], ORIGIN_NS, RUN, 3).summary()
    assert (summary["frames_lost"], summary["decided_at_a_synthetic_time"]) == (0, 1)
