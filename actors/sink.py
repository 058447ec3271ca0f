"""The sink actor: the log, the network sinks, the digest and the summary."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

from msgspec.structs import replace

from actors.console import CONSOLE_EDGE
from actors.plan import RunPlan
from actors.recording import open_log
from actors.stage import StageActor, Start, as_actor
from actors.wiring import RunIdentity
from pipeline.messages import Decision, Progress, Recording
from pipeline.sinks.base import DecisionSink, open_sink
from pipeline.sources.base import StreamInfo
from pipeline.stages.sink import RunSummary, SinkStage, StageReport

GATHER_NS = 200_000_000
"""How long decisions gather before the console or ``--json`` gets them; the log and the network get each at once."""


class Sink(StageActor):
    """Takes decisions and recordings; closes the log."""

    def __init__(self, plan: RunPlan, stage: str, identity: RunIdentity) -> None:
        super().__init__(plan, stage, identity)
        self._sinks: list[DecisionSink] = []
        self._stage: SinkStage | None = None
        self._arrived = threading.Condition()
        self._shown_ns = 0

    def open_stage(self, resources: ExitStack) -> StreamInfo | None:
        """Open the network sinks."""
        self._sinks = [resources.enter_context(open_sink(uri)) for uri in self.plan.sinks]
        return None

    def start(self, start: Start) -> None:
        """Open the log, then begin."""
        writer = open_log(self.plan, start.infos, start.origin_ns)
        if writer is not None:
            self._resources.enter_context(writer)
        progress = self._progress if self.plan.is_replay else None
        self._stage = SinkStage(writer=writer, sinks=self._sinks, progress=progress, clock=self.clock)
        super().start(start)

    def loop(self, start: Start) -> None:
        """Take what comes until stopped."""
        assert self._stage is not None
        while not self.stopping.is_set():
            batch = self.inbox.receive(None)
            for _, message in batch:
                if isinstance(message, Decision | Recording):
                    self._stage.handle(message)
            self._show()
            with self._arrived:
                self._arrived.notify_all()

    def _show(self) -> None:
        """Over the link to the console, if there is one: what has gathered, once it has for long enough."""
        console, stage = self.outlets.get(CONSOLE_EDGE.name), self._stage
        now_ns = self.clock.now_ns()
        if console is None or stage is None or not stage.outbox or now_ns < self._shown_ns + GATHER_NS:
            return
        self._shown_ns = now_ns
        for decision in stage.take():
            console.send(replace(decision, memory=""), wake=False)  # memory is for the log, and large
        console.wake()

    def take(self, timeout_s: float) -> list[Decision]:
        """The decisions since the last call; waits for the first at most ``timeout_s``, then gathers what comes for
        `GATHER_NS`: a call for each decision would cost more than the decision.
        """
        stage = self._stage
        if stage is None:
            return []
        with self._arrived:
            if not stage.outbox:
                self._arrived.wait(timeout_s)
        if timeout_s:
            self.stopping.wait(GATHER_NS / 1e9)
        return stage.take()

    def recorded(self, stream: str) -> int:
        """How many recordings of a stream have come."""
        return self._stage.recordings[stream] if self._stage is not None else 0

    def finish(
        self, decisions: int | None, recordings: int | None, reports: Sequence[StageReport], timeout_s: float
    ) -> RunSummary:
        """Wait until all that was sent has arrived (or the time is up), close the log and sum up."""
        stage = self._stage
        assert stage is not None and self._thread is not None
        deadline = time.monotonic() + timeout_s
        self.interrupt()  # some may lie there that did not wake it
        with self._arrived:
            while not _complete(stage, decisions, recordings) and (left := deadline - time.monotonic()) > 0:
                self._arrived.wait(left)
        self.stop()
        self._thread.join()
        own = StageReport(stage=self.stage, drops=self.link_drops())
        return stage.finish([*reports, own])

    def _progress(self, progress: Progress) -> None:
        for stream in self.plan.sources:
            self.outlets[f"sink>{stream}"].send(progress)


def _complete(stage: SinkStage, decisions: int | None, recordings: int | None) -> bool:
    enough = decisions is None or stage.decisions >= decisions
    return enough and (recordings is None or stage.recordings.total() >= recordings)


SinkActor = as_actor(Sink)
