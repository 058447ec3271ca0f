"""Admission by receipts: what a run read, also where it was not what its stamps call for."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.contract import Contract, StreamContract
from pipeline.messages import (
    FOREVER_NS,
    Admitted,
    Announcement,
    AnnouncementKind,
    Availability,
    Decision,
    Header,
    Receipt,
    Spans,
    Tokens,
)
from pipeline.recorded_admission import NotReproducible, RecordedAdmission
from pipeline.windows import WindowSpec

MS = 1_000_000
SPANS = Spans(critical_stream="camera", total_ns=0, decode_ns=0, encode_ns=0, fuse_ns=0, wait_ns=0, runtime_ns=0)


def contract(*streams: str) -> Contract:
    return Contract(
        streams=tuple(
            StreamContract(
                stream=s, window=WindowSpec(kind="sample"), max_age_ns=150 * MS, wait_ns=10 * MS, liveness_ns=1000 * MS
            )
            for s in streams
        ),
        reference_stream="camera",
        period_ns=50 * MS,
        deadline_ns=50 * MS,
        reserve_ns=8 * MS,
        origin_ns=0,
    )


def read(seq: int, end_ms: int, at_ms: int, stream: str = "camera") -> Admitted:
    return Admitted(
        stream=stream,
        availability=Availability.PRESENT,
        seq=seq,
        window_end_ns=end_ms * MS,
        age_ns=(at_ms - end_ms) * MS,
        overrun=end_ms != at_ms,
    )


def decided(seq: int, at_ms: int, *admitted: Admitted, status: str = "on_time", engine: str = "a") -> Decision:
    receipt = Receipt(
        admitted=admitted,
        spans=SPANS,
        engines={"camera": engine},
        config_sha256="",
        state_sha256="",
        overrun=any(a.overrun for a in admitted),
    )
    return Decision(seq=seq, reference_ns=at_ms * MS, publish_ns=0, deadline_ns=0, status=status, action="keep", receipt=receipt)


def machine(*decisions: Decision, streams: tuple[str, ...] = ("camera",)) -> RecordedAdmission:
    return RecordedAdmission(decisions, contract(*streams), "a.mcap")


def header(seq: int, at_ms: int, stream: str = "camera") -> Header:
    return Header(stream=stream, seq=seq, capture_ns=at_ms * MS, receive_ns=at_ms * MS)


def announce(to: RecordedAdmission, seq: int, at_ms: int, kind=AnnouncementKind.SAMPLE, watermark_ns: int = 0) -> None:
    to.announce(Announcement(header=header(seq, at_ms), kind=kind, watermark_ns=watermark_ns))


def encode(to: RecordedAdmission, seq: int, at_ms: int) -> None:
    to.tokens(Tokens(header=header(seq, at_ms), window_end_ns=at_ms * MS, values=np.full((1, 1), seq, np.float32)))


def sample(to: RecordedAdmission, seq: int, at_ms: int) -> None:
    announce(to, seq, at_ms)
    encode(to, seq, at_ms)


def test_an_overrun_reads_the_older_tokens_again_although_the_newer_ones_are_there() -> None:
    admission = machine(decided(0, 50, read(0, 50, 50)), decided(1, 100, read(0, 50, 100)), decided(2, 150, read(2, 150, 150)))
    for seq, at_ms in enumerate((50, 100, 150)):
        sample(admission, seq, at_ms)
    found = [admission.due(None) for _ in range(3)]
    assert [float(f.windows[0].tokens.values[0, 0]) for f in found if f is not None] == [0.0, 0.0, 2.0]
    assert [f.overrun for f in found if f is not None] == [False, True, False]
    assert admission.finished and admission.due(None) is None


def test_it_waits_for_what_the_receipt_names_and_lets_the_sources_go_on_to_it() -> None:
    admission = machine(decided(0, 5000, read(1, 5000, 5000)))
    sample(admission, 0, 50)
    assert admission.due(None) is None and not admission.finished
    assert admission.progress_ns == 50 * MS - 1  # as far as the camera has spoken
    announce(admission, 1, 5000)
    assert admission.due(None) is None
    assert admission.progress_ns == 5000 * MS - 1
    encode(admission, 1, 5000)
    assert admission.due(None) is not None


def test_tokens_that_overtake_their_announcement_are_kept() -> None:
    admission = machine(decided(0, 50, read(0, 50, 50)))
    encode(admission, 0, 50)
    assert admission.due(None) is None
    announce(admission, 0, 50)
    assert admission.due(None) is not None


def test_a_skipped_decision_is_skipped_again() -> None:
    admission = machine(decided(0, 50, read(0, 50, 50), status="skipped"))
    sample(admission, 0, 50)
    found = admission.due(None)
    assert found is not None and found.skipped


def test_a_stream_that_was_absent_stays_absent_although_the_log_has_it() -> None:
    late = Admitted(stream="camera", availability=Availability.MISSING)
    admission = machine(decided(0, 50, late))
    sample(admission, 0, 50)
    found = admission.due(None)
    assert found is not None and found.windows[0].tokens is None and found.windows[0].admitted == late


@pytest.mark.parametrize("how", ["void", "passed", "over"])
def test_a_sample_that_cannot_come_any_more_is_named(how: str) -> None:
    admission = machine(decided(0, 50, read(1, 50, 50)))
    if how == "void":
        announce(admission, 1, 50)
        announce(admission, 1, 50, AnnouncementKind.VOID)
    elif how == "passed":
        announce(admission, 2, 60)
    else:
        announce(admission, 0, 40, AnnouncementKind.END, FOREVER_NS)
    with pytest.raises(NotReproducible, match=r"a\.mcap: decision 0 rests on sample 1 of 'camera', which .*leave out"):
        admission.due(None)


def test_decisions_that_the_log_lost_are_named() -> None:
    admission = machine(decided(0, 50, read(0, 50, 50)), decided(2, 150, read(0, 50, 150)))
    sample(admission, 0, 50)
    with pytest.raises(NotReproducible, match="after decision 0 comes 2"):
        admission.due(None)


def test_a_run_that_changed_engines_is_refused() -> None:
    admission = machine(decided(0, 50, read(0, 50, 50)), decided(1, 100, read(0, 50, 100), engine="b"))
    sample(admission, 0, 50)
    with pytest.raises(NotReproducible, match=r"from decision 1 on, other engines served \(camera\)"):
        admission.due(None)


def test_a_decision_without_receipt_or_on_a_stream_that_is_not_there_is_refused() -> None:
    with pytest.raises(NotReproducible, match="no receipt"):
        machine(replace(decided(0, 50), receipt=None))
    with pytest.raises(NotReproducible, match="stream 'radar', which the log lacks"):
        machine(decided(0, 50, read(0, 50, 50, "radar"))).due(None)


def test_what_no_later_decision_can_name_is_forgotten() -> None:
    decisions = [decided(n, 50 * (n + 1), read(n, 50 * (n + 1), 50 * (n + 1))) for n in range(400)]
    admission = machine(*decisions)
    for seq in range(400):
        sample(admission, seq, 50 * (seq + 1))
        assert admission.due(None) is not None
    assert len(admission._lanes["camera"].windows) <= 2
