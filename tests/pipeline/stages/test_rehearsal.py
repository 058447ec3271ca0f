"""A rehearsal comes when there is time for it, and changes nothing that is decided."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.admission import AdmissionMachine
from pipeline.clock import ManualClock
from pipeline.contract import Contract, StreamContract
from pipeline.decision_json import decision_to_json
from pipeline.messages import Announcement, Decision, Header, Tokens
from pipeline.policy.hysteresis import HysteresisPolicy
from pipeline.stages.decide import DecideStage, Identity
from pipeline.stages.fuse import Fused, FuseStage
from pipeline.stages.memory import MemorySpec
from pipeline.stages.rehearsal import AHEAD_NS, LONGEST_NETWORK_NS, Rehearsal, Rehearsing
from pipeline.windows import WindowSpec

MS = 1_000_000
PERIOD_NS = 50 * MS
JITTER_NS = (0, 2 * MS, -3 * MS, 1 * MS)


class Network:
    """The camera's token and what it remembers, as the probability of ``stop``."""

    streams = ("camera",)
    token_shapes = {"camera": (1, 1)}  # noqa: RUF012
    memory = MemorySpec(entries=3, step_ns=PERIOD_NS, channels=1)

    def __init__(self) -> None:
        self.calls = 0

    def fuse(self, inputs, present):
        self.calls += 1
        token = inputs["camera_tokens"][0]
        p = np.float32(0.5 * token[0] + 0.5 * inputs["memory"].mean())
        return Fused(probabilities={"action": np.array([1 - p, p], np.float32)}, token=token)


class Run:
    """A live fuse stage whose clock stands still unless it is moved."""

    def __init__(self, moment: Rehearsing | None) -> None:
        self.clock, self.network, self.decisions = ManualClock(), Network(), []
        camera = StreamContract(
            stream="camera", window=WindowSpec(kind="sample"), max_age_ns=60 * MS, wait_ns=5 * MS, liveness_ns=90 * MS
        )
        contract = Contract(
            streams=(camera,),
            reference_stream="camera",
            period_ns=PERIOD_NS,
            deadline_ns=PERIOD_NS,
            reserve_ns=8 * MS,
            origin_ns=0,
        )
        decide = DecideStage(
            policy=HysteresisPolicy(labels=("go", "stop"), enter={"stop": 2}, threshold=0.5, memory=4, blind_action="stop"),
            action_head="action",
            labels={"action": ("go", "stop")},
            identity=Identity(engines={"fusion": "f00d"}, config_sha256="c0"),
            deadline_ns=PERIOD_NS,
            clock=self.clock,
            live=True,
        )
        self.stage = FuseStage(
            machine=AdmissionMachine(contract),
            network=self.network,
            decide=decide,
            clock=self.clock,
            publish=self.decisions.append,
            rehearsal=Rehearsal(moment, PERIOD_NS) if moment is not None else None,
        )

    def play(self, frames: int, *, rehearses: bool) -> list[Decision]:
        """Frames that come more or less when they should, each a while before its tokens."""
        for seq in range(frames):
            at_ns = (seq + 1) * PERIOD_NS + JITTER_NS[seq % len(JITTER_NS)]
            header = Header(stream="camera", seq=seq, capture_ns=at_ns, receive_ns=at_ns)
            for before_ms in range(10, -1, -1):
                self._until(at_ns - before_ms * MS, rehearses)
            self.stage.handle(Announcement(header=header, watermark_ns=at_ns))
            self._until(at_ns, rehearses)
            self._until(at_ns + MS, rehearses)
            value = np.array([[(seq * 7 % 10) / 10]], np.float32)
            self.stage.handle(Tokens(header=header, window_end_ns=at_ns, values=value))
            self._until(at_ns + MS, rehearses)
        return self.decisions

    def _until(self, now_ns: int, rehearses: bool) -> None:
        self.clock.advance_ns(max(0, now_ns - self.clock.now_ns()))
        self.stage.poll()
        if rehearses:
            self.stage.rehearse()


@pytest.mark.parametrize("moment", list(Rehearsing))
def test_what_is_decided_does_not_depend_on_rehearsals(moment: Rehearsing) -> None:
    plain, rehearsed = Run(None), Run(moment)
    wanted = [decision_to_json(d) for d in plain.play(60, rehearses=False)]
    assert [decision_to_json(d) for d in rehearsed.play(60, rehearses=True)] == wanted
    assert len(wanted) == 60 and len({d.action for d in plain.decisions}) == 2
    assert any(d.memory for d in rehearsed.decisions)
    assert plain.network.calls == 60
    # One frame in four comes 5 ms before it is expected, when there is nothing to rehearse for any more.
    assert rehearsed.network.calls == (104 if moment is Rehearsing.EXPECTED else 60)


def test_without_a_rehearsal_nothing_is_rehearsed() -> None:
    run = Run(None)
    run.play(5, rehearses=True)
    assert run.network.calls == 5


def test_an_announced_reference_time_is_rehearsed_once() -> None:
    rehearsal = Rehearsal(Rehearsing.ANNOUNCED, PERIOD_NS)
    assert [rehearsal.is_time(pending, 0) for pending in (None, 7, 7, None, 8, 9, 9)] == [
        False, True, False, False, True, True, False,
    ]  # fmt: skip
    assert rehearsal.wake_ns is None
    assert not rehearsal.takes_network(0)


def test_an_expected_reference_time_is_rehearsed_once_and_early_enough() -> None:
    rehearsal = Rehearsal(Rehearsing.EXPECTED, PERIOD_NS)
    assert not rehearsal.is_time(None, 0)
    rehearsal.decided(100 * MS)
    soon_ns = 150 * MS - AHEAD_NS
    assert rehearsal.wake_ns == soon_ns
    assert not rehearsal.is_time(None, soon_ns - 1)
    assert rehearsal.is_time(None, soon_ns)
    assert not rehearsal.is_time(None, soon_ns + 1) and rehearsal.wake_ns is None
    rehearsal.decided(100 * MS)
    assert not rehearsal.is_time(None, 150 * MS - MS), "it would be in the way"
    assert rehearsal.wake_ns is None
    rehearsal.decided(100 * MS)
    assert not rehearsal.is_time(145 * MS, soon_ns), "one is pending"


def test_a_long_network_is_not_rehearsed() -> None:
    rehearsal = Rehearsal(Rehearsing.EXPECTED, PERIOD_NS)
    assert rehearsal.takes_network(LONGEST_NETWORK_NS) and not rehearsal.takes_network(LONGEST_NETWORK_NS + 1)


def test_what_is_foreseen_changes_nothing() -> None:
    run = Run(None)
    assert run.stage.machine.foreseen(0) is None
    run.play(3, rehearses=False)
    machine = run.stage.machine
    before = machine.next_wake_ns(), machine.pending_ns, machine.progress_ns, dict(machine.counts)
    foreseen = machine.foreseen(run.clock.now_ns())
    assert foreseen is not None and foreseen.reference_ns == run.decisions[-1].reference_ns + PERIOD_NS
    assert (machine.next_wake_ns(), machine.pending_ns, machine.progress_ns, dict(machine.counts)) == before
