"""One stream's way in: its source (or its part of a log), its decoder, the ingest stage over both. Used inline and by actors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from actors.plan import RunPlan
from pipeline.clock import Clock
from pipeline.credit import CreditGate
from pipeline.formats.decode import decoder_for
from pipeline.links.base import Outlet
from pipeline.logs.reader import LogReader
from pipeline.messages import Announcement, AnnouncementKind, Decision, Message, Recording, Sample
from pipeline.sources.base import Source, StreamInfo
from pipeline.sources.opening import open_source
from pipeline.stages.ingest import IngestPorts, LiveIngest, ReplayIngest, SampleReader
from pipeline.stages.sink import StageReport

MOST_UNHEARD, LONGEST_UNHEARD_NS = 8, 100_000_000
"""Messages that may wait for the sink to wake, and for how long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """An open source or an open log, ready to be played."""

    plan: RunPlan
    info: StreamInfo
    reader: SampleReader
    source: Source | None
    log: LogReader | None

    def ingest(
        self, ports: IngestPorts, gate: CreditGate | None, clock: Clock, origin_ns: int, epoch: int = 0
    ) -> LiveIngest | ReplayIngest:
        """The stage that plays this lane from ``origin_ns`` on."""
        stream = self.info.stream
        if self.source is not None:
            config = self.plan.scenario.streams[stream]
            return LiveIngest(
                source=self.source,
                reader=self.reader,
                ports=ports,
                clock=clock,
                origin_ns=origin_ns,
                heartbeat_ns=config.heartbeat_ms * 1_000_000 if config.sparse else 0,
                epoch=epoch,
            )
        assert self.log is not None and gate is not None
        return ReplayIngest(
            stream=stream,
            recordings=self.log.recordings(stream),
            reader=self.reader,
            ports=ports,
            gate=gate,
            clock=clock,
            origin_ns=origin_ns,
            start_ns=clock.now_ns(),
            speed=self.plan.speed,
        )

    def stop(self) -> None:
        """Let a source that blocks return."""
        if self.source is not None:
            self.source.stop()


@contextmanager
def open_lane(plan: RunPlan, stream: str, clock: Clock) -> Iterator[Lane]:
    """Open one stream's source, or the log. Raises SourceError or LogError."""
    with ExitStack() as stack:
        if plan.replay_log is not None:
            log = LogReader(plan.replay_log)
            info, source = log.streams[stream], None
        else:
            source = stack.enter_context(open_source(plan.sources[stream]))
            log, info = None, source.info
        reader = SampleReader(info, decoder_for(info), clock)
        yield Lane(plan=plan, info=info, reader=reader, source=source, log=log)


def quiet_samples(outlet: Outlet) -> Callable[[Announcement], None]:
    """Announce over an outlet without waking its receiver for samples: what follows them will."""

    def announce(announcement: Announcement) -> None:
        outlet.send(announcement, wake=announcement.kind is not AnnouncementKind.SAMPLE)

    return announce


def heard_after(fusion: Outlet, encoder: Outlet) -> tuple[Callable[[Announcement], None], Callable[[Sample], None]]:
    """Announce to fusion, and send to the encoder: for a sample's announcement fusion is woken when the sample is on its way.

    Woken before, it would take the processor from the source, or from the encoder, for which there is more to do.
    """

    def send(sample: Sample) -> None:
        encoder.send(sample)
        fusion.wake()

    return quiet_samples(fusion), send


def unhurried(outlet: Outlet, clock: Clock) -> Callable[[Message], None]:
    """Send over an outlet, mostly without waking the sink: for recordings the next decision will, and before it others need the
    processor; for decisions that go nowhere but to the console, nobody waits.

    It is woken all the same once `LONGEST_UNHEARD_NS` have passed or `MOST_UNHEARD` wait, and by all that tells of more than a
    sample.
    """
    woken_ns, unheard = clock.now_ns(), 0

    def send(message: Message) -> None:
        nonlocal woken_ns, unheard
        now_ns, unheard = clock.now_ns(), unheard + 1
        wake = not _may_wait(message) or unheard >= MOST_UNHEARD or now_ns - woken_ns >= LONGEST_UNHEARD_NS
        if wake:
            woken_ns, unheard = now_ns, 0
        outlet.send(message, wake=wake)

    return send


def _may_wait(message: Message) -> bool:
    if isinstance(message, Recording):
        return message.announcement.kind is AnnouncementKind.SAMPLE
    return isinstance(message, Decision)


def credit_gate(plan: RunPlan, stream: str, origin_ns: int) -> CreditGate | None:
    """A replay's credit; a live source runs free."""
    if plan.replay_log is None:
        return None
    scenario, runtime = plan.scenario, plan.scenario.runtime
    reference = LogReader(plan.replay_log).streams.get(scenario.reference.stream or "")
    period_ns = max(round(1e9 / scenario.reference.rate_hz), reference.period_ns if reference is not None else 0)
    # Fusion decides one reference time only when it has heard of the next: less than that and it would wait for ever.
    least_ns = 3 * period_ns + scenario.deadline_ms * 1_000_000
    in_flight = runtime.frames_in_flight if plan.scenario.streams[stream].kind == "camera" else 64
    return CreditGate(
        origin_ns=origin_ns,
        horizon_ns=max(runtime.horizon_ms * 1_000_000, least_ns),
        in_flight=in_flight,
        stages=("fusion", "recorder"),
        encoder=stream,
    )


def ingest_report(stream: str, ingest: LiveIngest | ReplayIngest) -> StageReport:
    """What the ingest stage dropped, and why it failed if it did."""
    failures = (f"{stream}: {ingest.failure}",) if ingest.failure else ()
    drops = {(stream, reason): n for reason, n in ingest.counts.items()}
    return StageReport(stage=stream, drops=drops, failures=failures, sent=ingest.recorded)


def stop_when_set(lane: Lane, gate: CreditGate | None, stop: threading.Event) -> None:
    """Make the ingest of this lane end soon."""
    stop.set()
    lane.stop()
    if gate is not None:
        gate.wake()
