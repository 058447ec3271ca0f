"""What the ingest actors of all streams share; each stream's own is in its file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

from actors.lane import Lane, credit_gate, heard_after, ingest_report, open_lane, stop_when_set, unhurried
from actors.plan import RunPlan
from actors.stage import StageActor, Start
from actors.wiring import RunIdentity, encoder_stage
from pipeline.credit import CreditGate
from pipeline.messages import Announcement, Progress, Recording, Sample
from pipeline.sources.base import StreamInfo
from pipeline.stages.ingest import IngestPorts, LiveIngest, ReplayIngest
from pipeline.stages.sink import StageReport


class IngestActor(StageActor):
    """Plays one stream's source, or its part of a log."""

    def __init__(self, plan: RunPlan, stage: str, identity: RunIdentity) -> None:
        super().__init__(plan, stage, identity)
        self._lane: Lane | None = None
        self._gate: CreditGate | None = None
        self._ingest: LiveIngest | ReplayIngest | None = None

    def open_stage(self, resources: ExitStack) -> StreamInfo | None:
        """Open the source and the decoder."""
        self._lane = resources.enter_context(open_lane(self.plan, self.stage, self.clock))
        return self._lane.info

    def loop(self, start: Start) -> None:
        """Play it; a replay listens for its credit beside."""
        assert self._lane is not None
        stream = self.stage
        self._gate = credit_gate(self.plan, stream, start.origin_ns)
        if self._gate is not None:
            threading.Thread(target=self._listen_for_credit, name=f"{stream} credit", daemon=True).start()
        announce, sample = self._to_deciders() if self.plan.decides else (_ignore, _ignore)
        record = self._recorder() if self.plan.record is not None else None
        ports = IngestPorts(announce=announce, sample=sample, record=record)
        self._ingest = self._lane.ingest(ports, self._gate, self.clock, start.origin_ns, start.epoch)
        self._ingest.run(self.stopping)

    def _to_deciders(self) -> tuple[Callable[[Announcement], None], Callable[[Sample], None]]:
        stream = self.stage
        return heard_after(self.outlets[f"{stream}>fusion"], self.outlets[f"{stream}>{encoder_stage(self.plan, stream)}"])

    def _recorder(self) -> Callable[[Recording], None]:
        """To the log. The recorder is woken at once where a replay's credit waits for it, or no decision would wake it."""
        outlet = self.outlets[f"{self.stage}>sink"]
        return outlet.send if self.plan.is_replay or not self.plan.decides else unhurried(outlet, self.clock)

    def interrupt(self) -> None:
        """Wake the source, the credit gate and the credit listener."""
        if self._lane is not None:
            stop_when_set(self._lane, self._gate, self.stopping)
        super().interrupt()

    def report(self) -> StageReport:
        """What was dropped here."""
        if self._ingest is None:
            return super().report()
        own = ingest_report(self.stage, self._ingest)
        return StageReport(stage=self.stage, drops={**own.drops, **self.link_drops()}, failures=own.failures, sent=own.sent)

    def _listen_for_credit(self) -> None:
        assert self._gate is not None
        while not self.stopping.is_set():
            for _, message in self.inbox.receive(None):
                if isinstance(message, Progress):
                    self._gate.report(message)


def _ignore(_message: Sample | object) -> None:
    """Ingest only: nothing is announced or encoded."""
