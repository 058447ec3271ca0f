"""A log that is written from its own thread: nobody waits for it, nothing is lost or out of order, its failures are heard of."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.logs.reader import LogReader
from pipeline.logs.records import LogError
from pipeline.logs.threaded import MOST_WAITING, ThreadedLogWriter
from pipeline.logs.writer import LogWriter
from pipeline.messages import Announcement, AnnouncementKind, Decision, Header, Recording
from pipeline.sources.base import Encoding, StreamInfo

TELEMETRY = StreamInfo(
    stream="telemetry",
    kind="telemetry",
    encoding=Encoding(codec="telemetry-json", channels=("speed_mps",), units=("m/s",)),
    period_ns=1_000_000,
    min_gap_ns=1,
    origin="a test",
)


def recording(seq: int) -> Recording:
    at = seq * 1_000_000
    header = Header(stream="telemetry", epoch=1, seq=seq, capture_ns=at, receive_ns=at + 7, publish_ns=at + 9, span_ns=20)
    return Recording(
        announcement=Announcement(header=header, kind=AnnouncementKind.SAMPLE, watermark_ns=at + 3),
        chunks=(b'{"offsets_ns":[0],"values":[[1]]}',),
    )


def a_decision() -> Decision:
    return Decision(
        seq=1, reference_ns=1, publish_ns=10_000_000, deadline_ns=50_000_000, status="on_time", action="slow",
        outputs={"action": np.array([0.1, 0.9], np.float32)}, labels={"action": "slow"}, receipt=None,
    )  # fmt: skip


def opened(path: Path) -> LogWriter:
    return LogWriter(path, scenario="driving", origin_ns=0, streams=[TELEMETRY], metadata={})


class Held(LogWriter):
    """A log whose disk stands still until it is let go."""

    gate: threading.Event

    def announcement(self, recording: Recording) -> None:
        """Wait, then write."""
        assert self.gate.wait(20.0)
        super().announcement(recording)


class Told(LogWriter):
    """A log that tells what was written to it."""

    announced: int
    decided: threading.Event

    def __init__(self, path: Path, **more: Any) -> None:
        super().__init__(path, **more)
        self.announced, self.decided = 0, threading.Event()

    def announcement(self, recording: Recording) -> None:
        """Write and count."""
        super().announcement(recording)
        self.announced += 1

    def decision(self, decision: Decision) -> None:
        """Write and tell."""
        super().decision(decision)
        self.decided.set()


class Full(LogWriter):
    """A log whose disk is full from the third sample on."""

    def announcement(self, recording: Recording) -> None:
        """Write, or fail as `LogWriter` does."""
        if recording.announcement.header.seq >= 3:
            raise self._cannot_write(OSError(errno.ENOSPC, "No space left on device"))
        super().announcement(recording)


def test_file_is_that_of_a_plain_writer(tmp_path: Path) -> None:
    with opened(tmp_path / "plain.mcap") as plain, ThreadedLogWriter(opened(tmp_path / "threaded.mcap")) as threaded:
        for log in (plain, threaded):
            for seq in range(1, 3 * MOST_WAITING):
                log.announcement(recording(seq))
                log.snapshot(seq * 1_000_000, f"state {seq}")
            log.finish({"clean": "true"})
    assert (tmp_path / "threaded.mcap").read_bytes() == (tmp_path / "plain.mcap").read_bytes()


def test_what_waits_is_written_once_a_decision_has_fallen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.logs.threaded.LONGEST_WAIT_S", 60.0)
    told = Told(tmp_path / "a.mcap", scenario="driving", origin_ns=0, streams=[TELEMETRY], metadata={})
    with ThreadedLogWriter(told) as log:
        for seq in range(1, 4):
            log.announcement(recording(seq))
        assert not told.decided.wait(0.2) and told.announced == 0
        log.decision(a_decision())
        assert told.decided.wait(20.0) and told.announced == 3
        log.finish({"clean": "true"})


def test_a_disk_that_stands_still_holds_up_no_caller_and_finish_waits_for_it(tmp_path: Path) -> None:
    held = Held(tmp_path / "a.mcap", scenario="driving", origin_ns=0, streams=[TELEMETRY], metadata={})
    held.gate = threading.Event()
    with ThreadedLogWriter(held) as log:
        for seq in range(1, MOST_WAITING + 1):
            log.announcement(recording(seq))  # with a writer that waits this would never come back: the gate opens below
        threading.Timer(0.2, held.gate.set).start()
        log.finish({"clean": "true"})
    written = LogReader(tmp_path / "a.mcap")
    assert [r.announcement.header.seq for r in written.recordings()] == list(range(1, MOST_WAITING + 1))


def test_one_more_call_than_may_wait_waits_and_is_not_lost(tmp_path: Path) -> None:
    held = Held(tmp_path / "a.mcap", scenario="driving", origin_ns=0, streams=[TELEMETRY], metadata={})
    held.gate = threading.Event()
    count = MOST_WAITING + 20
    with ThreadedLogWriter(held) as log:
        feeding = threading.Thread(target=lambda: [log.announcement(recording(seq)) for seq in range(1, count + 1)])
        feeding.start()
        feeding.join(0.3)
        assert feeding.is_alive()
        held.gate.set()
        feeding.join(20.0)
        log.finish({"clean": "true"})
    written = LogReader(tmp_path / "a.mcap")
    assert len(list(written.recordings())) == count


def test_failure_to_write_is_told_at_once_and_raised_by_finish(tmp_path: Path) -> None:
    told = threading.Event()
    full = Full(tmp_path / "a.mcap", scenario="driving", origin_ns=0, streams=[TELEMETRY], metadata={})
    with ThreadedLogWriter(full, on_failure=told.set) as log:
        for seq in range(1, 2 * MOST_WAITING):
            log.announcement(recording(seq))  # does not raise, nor block for ever
        assert told.wait(20.0)
        with pytest.raises(LogError, match=r"a\.mcap: cannot write the log: No space left on device"):
            log.finish({"clean": "true"})
    written = LogReader(tmp_path / "a.mcap")
    assert [r.announcement.header.seq for r in written.recordings()] == [1, 2]


def test_leaving_without_finish_closes_the_file_as_one_that_was_cut_off(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a run that broke"), ThreadedLogWriter(opened(tmp_path / "a.mcap")) as log:
        log.announcement(recording(1))
        raise RuntimeError("a run that broke")
    written = LogReader(tmp_path / "a.mcap")
    assert [r.announcement.header.seq for r in written.recordings()] == [1] and not written.end
