"""A rehearsal comes once a reference time, while its tokens are being made, and changes nothing that is decided."""

from __future__ import annotations

import numpy as np

from pipeline.admission import AdmissionMachine
from pipeline.clock import ManualClock
from pipeline.contract import Contract, StreamContract
from pipeline.decision_json import decision_to_json
from pipeline.messages import Announcement, Decision, Header, Tokens
from pipeline.policy.hysteresis import HysteresisPolicy
from pipeline.stages.decide import DecideStage, Identity
from pipeline.stages.fuse import Fused, FuseStage
from pipeline.stages.memory import MemorySpec
from pipeline.windows import WindowSpec

MS = 1_000_000
PERIOD_NS = 50 * MS
JITTER_NS = (0, 2 * MS, -3 * MS, 1 * MS)


class Network:
    """The camera's token and what it remembers, as the probability of ``stop``."""

    streams = ("camera",)
    token_shapes = {"camera": (1, 1)}  # noqa: RUF012
    memory = MemorySpec(entries=3, step_ns=PERIOD_NS, channels=1)

    def fuse(self, inputs, present):
        token = inputs["camera_tokens"][0]
        p = np.float32(0.5 * token[0] + 0.5 * inputs["memory"].mean())
        return Fused(probabilities={"action": np.array([1 - p, p], np.float32)}, token=token)


class Run:
    """A live fuse stage whose clock stands still unless it is moved."""

    def __init__(self) -> None:
        self.clock, self.decisions = ManualClock(), []
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
            network=Network(),
            decide=decide,
            clock=self.clock,
            publish=self.decisions.append,
        )

    def play(self, frames: int, *, rehearses: bool) -> list[Decision]:
        """Frames that come more or less when they should, each a while before its tokens."""
        for seq in range(frames):
            at_ns = (seq + 1) * PERIOD_NS + JITTER_NS[seq % len(JITTER_NS)]
            header = Header(stream="camera", seq=seq, capture_ns=at_ns, receive_ns=at_ns)
            self._until(at_ns - 3 * MS, rehearses)
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


def test_what_is_decided_does_not_depend_on_rehearsals() -> None:
    plain, rehearsed = Run(), Run()
    wanted = [decision_to_json(d) for d in plain.play(60, rehearses=False)]
    assert [decision_to_json(d) for d in rehearsed.play(60, rehearses=True)] == wanted
    assert len(wanted) == 60 and len({d.action for d in plain.decisions}) == 2
    assert sum(bool(d.memory) for d in rehearsed.decisions) > 1


def test_each_reference_time_but_the_first_is_rehearsed_once(monkeypatch) -> None:
    run, gone_through = Run(), []
    rehearse = DecideStage.rehearse

    def noting(self, admission, *args) -> None:
        gone_through.append(admission.reference_ns)
        rehearse(self, admission, *args)

    monkeypatch.setattr(DecideStage, "rehearse", noting)
    decisions = run.play(8, rehearses=True)
    assert gone_through == [d.reference_ns for d in decisions[1:]]


def test_what_is_foreseen_changes_nothing() -> None:
    run = Run()
    machine = run.stage.machine
    assert machine.foreseen(0) is None
    run.play(3, rehearses=False)
    assert machine.foreseen(run.clock.now_ns()) is None
    at_ns = 4 * PERIOD_NS
    run.clock.advance_ns(at_ns - run.clock.now_ns())
    run.stage.handle(Announcement(header=Header(stream="camera", seq=3, capture_ns=at_ns, receive_ns=at_ns), watermark_ns=at_ns))
    before = machine.next_wake_ns(), machine.pending_ns, machine.progress_ns, dict(machine.counts)
    foreseen = machine.foreseen(at_ns)
    assert foreseen is not None and foreseen.reference_ns == at_ns == machine.pending_ns
    assert (machine.next_wake_ns(), machine.pending_ns, machine.progress_ns, dict(machine.counts)) == before
