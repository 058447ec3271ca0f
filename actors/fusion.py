"""The fusion actor: announcements and tokens in, decisions out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from actors.engines import CalibratedFusion, fusion_engine
from actors.lane import unhurried
from actors.plan import RunPlan, contract_of, fuse_stage
from actors.serving import opening_of
from actors.stage import StageActor, Start, as_actor, sleep_ns
from actors.wiring import RunIdentity
from pipeline.messages import Announcement, Decision, Message, Progress
from pipeline.sources.base import StreamInfo
from pipeline.stages.decide import Identity
from pipeline.stages.fuse import FuseStage
from pipeline.stages.sink import StageReport


class Fusion(StageActor):
    """Admission, the fusion network and policy."""

    def __init__(self, plan: RunPlan, stage: str, identity: RunIdentity) -> None:
        super().__init__(plan, stage, identity)
        self._engine: tuple[CalibratedFusion, Identity] | None = None
        self._fuse: FuseStage | None = None
        self._injected: list[Announcement] = []

    def open_stage(self, resources: ExitStack) -> StreamInfo | None:
        """Activate and warm up the fusion network."""
        self._engine = resources.enter_context(fusion_engine(self.plan, opening_of(self.plan)))
        return None

    def loop(self, start: Start) -> None:
        """Decide until no reference time can come any more, or until stopped."""
        assert self._engine is not None
        contract = contract_of(self.plan, start.infos, start.origin_ns)
        progress = self._progress if self.plan.is_replay else None
        fuse = fuse_stage(self.plan, self._engine, contract, self.clock, self._publisher(), progress)
        self._fuse = fuse
        while not self.stopping.is_set() and not fuse.machine.finished:
            batch: list[Message] = [m for _, m in self.inbox.receive(sleep_ns(fuse.next_wake_ns(), self.clock.now_ns()))]
            batch += self._injected_now()
            batch.sort(key=_announcements_first)
            for message in batch:
                fuse.handle(message)
            fuse.poll()
            fuse.rehearse()

    def _publisher(self) -> Callable[[Decision], None]:
        """To the sink, which is woken at once where the decision goes on to the network or into a log, or gives credit."""
        plan, outlet = self.plan, self.outlets["fusion>sink"]
        return outlet.send if plan.is_replay or plan.sinks or plan.record is not None else unhurried(outlet, self.clock)

    def hear(self, announcement: Announcement) -> None:
        """The supervisor's word on a stream whose own actor or encoder cannot speak for itself."""
        self._injected.append(announcement)
        self.interrupt()

    def report(self) -> StageReport:
        """What was refused, late or lost on the way here."""
        counts = dict(self._fuse.machine.counts) if self._fuse is not None else {}
        sent = self._fuse.decisions if self._fuse is not None else 0
        notices = tuple(self._engine[0].notices) if self._engine is not None else ()
        return StageReport(stage=self.stage, drops={**self.link_drops(), **counts}, sent=sent, notices=notices)

    def _injected_now(self) -> list[Announcement]:
        taken, self._injected = self._injected, []
        return taken

    def _progress(self, progress: Progress) -> None:
        for stream in self.plan.sources:
            self.outlets[f"fusion>{stream}"].send(progress)


def _announcements_first(message: Message) -> int:
    return 0 if isinstance(message, Announcement) else 1


FusionActor = as_actor(Fusion)
