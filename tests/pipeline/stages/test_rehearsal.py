"""A rehearsal comes once a reference time, while its tokens are being made, and changes nothing that is decided."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from fuse_bench import MS, Bench, Network

from pipeline.admission import AdmissionMachine
from pipeline.decision_json import decision_to_json
from pipeline.messages import Decision
from pipeline.stages.fuse import Fused
from pipeline.stages.memory import MemorySpec


class Remembering(Network):
    """Half of what it is told, half of what it remembers."""

    memory = MemorySpec(entries=3, step_ns=50 * MS, channels=1)

    def fuse(self, inputs, present):
        self.asked.append((dict(inputs), present))
        token = inputs["camera_tokens"][0]
        p = np.float32(0.6 * token[0] + 0.4 * inputs["memory"].mean())
        return Fused(probabilities={"action": np.array([1 - p, p], np.float32)}, token=token)


def play(bench: Bench, frames: int, *, rehearses: bool) -> list[Decision]:
    """Frames 50 ms apart, give or take three, each announced 1 ms before its tokens come."""

    def until(ms: int) -> None:
        bench.clock.advance_ns(ms * MS - bench.clock.now_ns())
        bench.stage.poll()
        if rehearses:
            bench.stage.rehearse()

    for seq in range(frames):
        ms = 50 * (seq + 1) + (0, 2, -3, 1)[seq % 4]
        until(ms)
        bench.announce(ms, seq)
        until(ms)
        until(ms + 1)
        bench.encode(ms, 0.9 if seq % 10 >= 5 else 0.1 * (seq % 10), seq)
        until(ms + 1)
    return bench.decisions


def test_what_is_decided_does_not_depend_on_rehearsals() -> None:
    plain, rehearsed = (Bench(live=True, network=Remembering()) for _ in range(2))
    wanted = [decision_to_json(d) for d in play(plain, 60, rehearses=False)]
    assert [decision_to_json(d) for d in play(rehearsed, 60, rehearses=True)] == wanted
    assert len(wanted) == 60 and len({d.action for d in plain.decisions}) == 2
    assert sum(bool(d.memory) for d in rehearsed.decisions) > 1
    assert len(rehearsed.network.asked) == 60


def test_each_reference_time_but_the_first_is_rehearsed_once(monkeypatch) -> None:
    foreseen, gone_through = AdmissionMachine.foreseen, []

    def noting(machine, now_ns):
        admission = foreseen(machine, now_ns)
        gone_through.append(admission.reference_ns)
        return admission

    monkeypatch.setattr(AdmissionMachine, "foreseen", noting)
    decisions = play(Bench(live=True), 8, rehearses=True)
    assert len(decisions) == 8
    assert gone_through == [d.reference_ns for d in decisions[1:]]


def test_a_replay_rehearses_nothing(monkeypatch) -> None:
    monkeypatch.delattr(AdmissionMachine, "foreseen")
    bench = Bench()
    bench.frame(50, 0.5, 0)
    bench.frame(100, 0.5, 1)
    bench.stage.poll()
    bench.announce(150, 2)
    bench.stage.poll()
    assert bench.decisions and bench.stage.machine.pending_ns is not None
    bench.stage.rehearse()


def test_what_is_foreseen_changes_nothing() -> None:
    bench = Bench(live=True)
    machine = bench.stage.machine
    assert machine.foreseen(0) is None
    play(bench, 3, rehearses=False)
    assert machine.foreseen(bench.clock.now_ns()) is None
    bench.clock.advance_ns(200 * MS - bench.clock.now_ns())
    bench.announce(200, 3)
    before = machine.next_wake_ns(), machine.pending_ns, machine.progress_ns, dict(machine.counts)
    foreseen = machine.foreseen(200 * MS)
    assert foreseen is not None and foreseen.reference_ns == 200 * MS == machine.pending_ns
    assert (machine.next_wake_ns(), machine.pending_ns, machine.progress_ns, dict(machine.counts)) == before
