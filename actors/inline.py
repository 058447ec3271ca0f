"""The same graph in one process, without Ray: one thread a source, one for encoders, fusion and sinks.

Sources decode in their own threads (codecs release the GIL), so decoding runs ahead of encoding; a log is written from one more,
which samples reach straight from their sources. Everything else is synchronous calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

from actors.engines import Opening, encoder_engine, fusion_engine
from actors.host import settle_process, sharpen_timers
from actors.lane import Lane, credit_gate, ingest_report, open_lane, quiet_samples, stop_when_set
from actors.plan import RunPlan, contract_of, encode_stage, fuse_stage
from actors.recording import open_log
from actors.serving import opening_of
from pipeline.clock import Clock, SystemClock
from pipeline.credit import CreditGate
from pipeline.links.base import EdgeSpec, Outlet
from pipeline.links.in_process import InProcessInbox
from pipeline.logs.threaded import ThreadedLogWriter
from pipeline.messages import Announcement, AnnouncementKind, Decision, Message, Progress
from pipeline.sinks.base import open_sink
from pipeline.sources.base import StreamInfo
from pipeline.stages.encode import EncodeStage
from pipeline.stages.fuse import FuseStage
from pipeline.stages.ingest import IngestPorts, LiveIngest, ReplayIngest
from pipeline.stages.sink import RunSummary, SinkStage, StageReport

ORIGIN_DELAY_NS = 50_000_000
ANNOUNCEMENTS, SAMPLES = 4096, 256


class InlineRun:
    """One run. ``stop`` ends it in order; ``run`` returns its summary. ``opening``: where its engines come from, if
    not from where the plan says.
    """

    def __init__(
        self,
        plan: RunPlan,
        *,
        on_decisions: Callable[[list[Decision]], None] | None = None,
        on_start: Callable[[int, dict[str, StreamInfo]], None] | None = None,
        clock: Clock | None = None,
        opening: Opening | None = None,
    ) -> None:
        self._plan, self._clock = plan, clock or SystemClock()
        self._on_decisions, self._on_start = on_decisions, on_start
        self._opening = opening or opening_of(plan)
        self._stop = threading.Event()
        self._lanes: dict[str, Lane] = {}
        self._gates: dict[str, CreditGate] = {}
        self._ingests: dict[str, LiveIngest | ReplayIngest] = {}
        self._threads: list[threading.Thread] = []
        self._over: set[str] = set()
        self._inbox: InProcessInbox | None = None
        self._notices: list[list[str]] = []

    def stop(self) -> None:
        """End the run soon: sources end, what they announced is still decided, the log is closed. Thread- and signal-safe."""
        self._stop.set()
        for lane in self._lanes.values():
            stop_when_set(lane, self._gates.get(lane.info.stream), self._stop)
        if self._inbox is not None:
            self._inbox.wake()

    def run(self) -> RunSummary:
        """Play the whole run."""
        plan, clock = self._plan, self._clock
        with ExitStack() as stack:
            for stream in plan.sources:
                self._lanes[stream] = stack.enter_context(open_lane(plan, stream, clock))
            infos = {stream: lane.info for stream, lane in self._lanes.items()}
            engines = {s: stack.enter_context(encoder_engine(plan, s, self._opening)) for s in infos} if plan.decides else {}
            fusion = stack.enter_context(fusion_engine(plan, self._opening)) if plan.decides else None
            self._notices = [engine.notices for _, engine in engines.values()] + ([fusion[0].notices] if fusion else [])
            sinks = [stack.enter_context(open_sink(uri)) for uri in plan.sinks]
            settle_process()  # before the origin is set: it takes longer than the first sample
            first_ns = self._lanes[next(iter(self._lanes))].log
            origin_ns = first_ns.origin_ns if first_ns is not None else clock.now_ns() + ORIGIN_DELAY_NS
            contract = contract_of(plan, infos, origin_ns) if fusion is not None else None
            log = open_log(plan, infos, origin_ns)
            writer = stack.enter_context(ThreadedLogWriter(log, on_failure=self.stop)) if log is not None else None
            self._gates = {s: g for s in infos if (g := credit_gate(plan, s, origin_ns)) is not None}
            report = self._report if plan.is_replay else None
            has_outbox = self._on_decisions is not None
            sink = SinkStage(writer=writer, sinks=sinks, progress=report, keep_outbox=has_outbox, clock=clock)
            fuse = None
            encoders: dict[str, EncodeStage] = {}
            if fusion is not None and contract is not None:
                fuse = fuse_stage(plan, fusion, contract, clock, sink.handle, report)
                encoders = {s: encode_stage(engine, clock, origin_ns, fuse.handle, report) for s, engine in engines.items()}
            self._start(origin_ns, writer)
            if self._on_start is not None:
                self._on_start(origin_ns, infos)
            try:
                self._loop(fuse, encoders, sink, origin_ns)
            finally:
                self.stop()
                for thread in self._threads:
                    thread.join(timeout=2.0)
            if self._on_decisions is not None and (decisions := sink.take()):
                self._on_decisions(decisions)
            return sink.finish(self._reports(fuse))

    def _report(self, progress: Progress) -> None:
        for gate in self._gates.values():
            gate.report(progress)

    def _start(self, origin_ns: int, writer: ThreadedLogWriter | None) -> None:
        edges = []
        for stream in self._lanes:
            edges += [EdgeSpec(name=f"{stream}>announce", capacity=ANNOUNCEMENTS, max_bytes=512)]
            edges += [EdgeSpec(name=f"{stream}>sample", capacity=SAMPLES, max_bytes=1)]
        inbox = self._inbox = InProcessInbox(edges)
        for stream, lane in self._lanes.items():
            ports = IngestPorts(
                announce=self._announcer(inbox.outlet(f"{stream}>announce")),
                sample=inbox.outlet(f"{stream}>sample").send if self._plan.decides else _ignore,
                record=writer.announcement if writer is not None else None,
            )
            ingest = lane.ingest(ports, self._gates.get(stream), self._clock, origin_ns)
            self._ingests[stream] = ingest
            self._threads.append(threading.Thread(target=ingest.run, args=(self._stop,), name=f"ingest {stream}", daemon=True))
        sharpen_timers()  # the ingest threads inherit it
        for thread in self._threads:
            thread.start()

    def _announcer(self, outlet: Outlet) -> Callable[[Announcement], None]:
        """A live sample follows its announcement into the same inbox, and wakes for both."""
        return outlet.send if self._plan.is_replay or not self._plan.decides else quiet_samples(outlet)

    def _loop(self, fuse: FuseStage | None, encoders: dict[str, EncodeStage], sink: SinkStage, origin_ns: int) -> None:
        assert self._inbox is not None
        end_ns = origin_ns + self._plan.for_ns if self._plan.for_ns is not None else None
        while True:
            now_ns = self._clock.now_ns()
            wakes = [w for w in (fuse.next_wake_ns() if fuse is not None else None, end_ns) if w is not None]
            timeout_ns = max(0, min(wakes) - now_ns) if wakes else None
            self._dispatch(self._inbox.receive(timeout_ns), fuse, encoders)
            if self._on_decisions is not None and (decisions := sink.take()):
                self._on_decisions(decisions)
            if end_ns is not None and self._clock.now_ns() >= end_ns:
                end_ns = None
                self.stop()
            finished = fuse.machine.finished if fuse is not None else self._over == set(self._lanes)
            if finished:
                return

    def _dispatch(
        self,
        batch: list[tuple[str, Message]],
        fuse: FuseStage | None,
        encoders: dict[str, EncodeStage],
    ) -> None:
        for _, message in batch:
            if isinstance(message, Announcement):
                if message.kind in (AnnouncementKind.END, AnnouncementKind.LOST):
                    self._over.add(message.header.stream)
                if fuse is not None:
                    fuse.handle(message)
        for edge, message in batch:
            if not isinstance(message, Announcement | Decision | Progress) and fuse is not None:
                encoders[edge.partition(">")[0]].handle(message)  # type: ignore[arg-type]
                fuse.poll()
        if fuse is not None:
            fuse.poll()

    def _reports(self, fuse: FuseStage | None) -> list[StageReport]:
        assert self._inbox is not None
        lost = {(edge.partition(">")[0], f"overwritten on {edge}"): n for edge, n in self._inbox.lost().items()}
        reports = [ingest_report(stream, ingest) for stream, ingest in self._ingests.items()]
        reports.append(StageReport(stage="links", drops=lost))
        if fuse is not None:
            notices = tuple(notice for notices in self._notices for notice in notices)
            reports.append(StageReport(stage="fusion", drops=dict(fuse.machine.counts), notices=notices))
        return reports


def _ignore(_message: object) -> None:
    """Ingest only: samples are recorded, not encoded."""


def run_inline(plan: RunPlan, on_decisions: Callable[[list[Decision]], None] | None = None) -> RunSummary:
    """Play a run in this process and return its summary: what `chiasm run --inline` does."""
    return InlineRun(plan, on_decisions=on_decisions).run()
