"""The actors of one run on Ray: made, joined by links, started; and one of them made again when it has died."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.camera import CameraActor
from actors.console import CONSOLE, CONSOLE_EDGE, CallingConsole, Console, LinkedConsole
from actors.dozing import knock
from actors.encoder import EncoderActor
from actors.fusion import FusionActor
from actors.hosts import placements
from actors.microphone import MicrophoneActor
from actors.plan import RunPlan
from actors.restarting import Reopened
from actors.sink import SinkActor
from actors.stage import Opened, Start
from actors.telemetry import TelemetryActor
from actors.text import TextActor
from actors.wiring import Edge, LinkKind, RunIdentity, edges_of, encoder_stages
from pipeline.links.base import Inbox
from pipeline.links.shared_memory import SharedMemoryNode
from pipeline.logs.reader import LogReader
from pipeline.sources.base import StreamInfo

INGEST_ACTORS = {"camera": CameraActor, "microphone": MicrophoneActor, "telemetry": TelemetryActor, "text": TextActor}
ORIGIN_DELAY_NS = 300_000_000
"""From the call that starts the actors to the run's origin: all loops run by then, also on a busy host."""


class DeployError(Exception):
    """A run cannot be deployed: one line, with the fix."""


class StageActors:
    """Stage to actor, in the order of the flow: `open`, `connect`, `start`, and `reopen` for one that died."""

    def __init__(self, plan: RunPlan, identity: RunIdentity, node: SharedMemoryNode | None) -> None:
        """``node``: this process's part in the run's shared memory, where there is such memory."""
        self._plan, self._identity, self._node = plan, identity, node
        self.actors: dict[str, Any] = {}
        self.opened: dict[str, Opened] = {}
        self.own_pids: list[int] = []
        """Processes on the driver's host, also those that died."""
        self._options: dict[str, dict[str, Any]] = {}
        self._edges: list[Edge] = []
        self._links: dict[str, LinkKind] = {}
        self._start: Start | None = None
        self._console_inbox: Inbox | None = None
        self._epochs: dict[str, int] = {}

    def open(self) -> dict[str, Opened]:
        """Make every actor and open its source or engine."""
        stages = [*self._plan.sources, *encoder_stages(self._plan), *(["fusion"] if self._plan.decides else []), "sink"]
        self._options = placements(self._plan.scenario.runtime.place, set(stages))
        for stage in stages:
            self.actors[stage] = self._made(stage)
        for one in _get([actor.open.remote() for actor in self.actors.values()]):
            self._note_opened(one)
        return self.opened

    def connect(self) -> None:
        """All inboxes, then all outlets: so no first message is lost."""
        self._edges = edges_of(self._plan, {stage: o.info for stage, o in self.opened.items() if o.info is not None})
        self._links = {stage: self._link_into(stage) for stage in self.actors}
        if self._node is not None and self._dozes("sink"):
            self._console_inbox = self._node.inbox(CONSOLE, [CONSOLE_EDGE])
            self._edges.append(Edge(sender="sink", receiver=CONSOLE, inbox=CONSOLE, spec=CONSOLE_EDGE))
            self._links[CONSOLE] = "shared_memory"
        _get([self._listen(stage, actor) for stage, actor in self.actors.items()])
        _get([self._connect(stage, actor) for stage, actor in self.actors.items()])

    def start(self, infos: dict[str, StreamInfo]) -> int:
        """Start all loops, those of the sources last; the run's origin."""
        plan = self._plan
        log = LogReader(plan.replay_log) if plan.replay_log is not None else None
        origin_ns = log.origin_ns if log is not None else time.monotonic_ns() + ORIGIN_DELAY_NS
        start = self._start = Start(origin_ns=origin_ns, infos=infos)
        _get([self._started(stage, actor, start) for stage, actor in self.actors.items() if stage not in infos])
        _get([self._started(stream, self.actors[stream], start) for stream in infos])
        return origin_ns

    def awake(self, stage: str) -> Any:
        """A stage's actor, about to be called: it may doze (`actors.dozing`)."""
        knock(self._identity, stage)
        return self.actors[stage]

    def console(self) -> Console:
        """Where this process gets the decisions, once the run has started."""
        if self._console_inbox is not None:
            return LinkedConsole(self._console_inbox)
        return CallingConsole(self.actors["sink"])

    def can_reopen(self, stage: str) -> bool:
        """Whether a dead stage can be made again without harm: an encoder, or the ingest of a device or socket, of a live run,
        on the driver's host, reached through shared memory. A recording cannot be taken up where it was, nor a replay.
        """
        if self._plan.is_replay or not self._is_here(stage):
            return False
        if stage in self._plan.sources:
            return self._plan.sources[stage].is_live
        return stage in encoder_stages(self._plan) and self._links[stage] == "shared_memory"

    def reopen(self, stage: str) -> Reopened:
        """Make a stage's actor again, in its predecessor's place."""
        assert self._start is not None
        ray.kill(self.actors[stage])  # it may have failed and not died
        actor = self._made(stage)
        (opened,) = _get([actor.open.remote()])
        if opened.info != self.opened[stage].info:
            ray.kill(actor)
            raise DeployError(f"stage {stage}: its source now gives {opened.info}; start the run again")
        self._note_opened(opened)
        _get([self._listen(stage, actor)])
        _get([self._connect(stage, actor)])
        recorded = ray.get(self.awake("sink").recorded.remote(stage))
        epoch = self._epochs[stage] = self._epochs.get(stage, 0) + 1
        _get([self._started(stage, actor, replace(self._start, epoch=epoch))])
        self.actors[stage] = actor
        return Reopened(recorded=recorded)

    def _made(self, stage: str) -> Any:
        actor_class: Any
        if stage in self._plan.sources:
            actor_class = INGEST_ACTORS[self._plan.scenario.streams[stage].kind]
        else:
            actor_class = {"fusion": FusionActor, "sink": SinkActor}.get(stage, EncoderActor)
        return actor_class.options(**self._options[stage]).remote(self._plan, stage, self._identity)

    def _started(self, stage: str, actor: Any, start: Start) -> Any:
        return actor.start.remote(replace(start, dozes=self._dozes(stage)))

    def _dozes(self, stage: str) -> bool:
        """Of a live run, what is on this host and gets its messages through shared memory is seldom called."""
        return self._is_here(stage) and not self._plan.is_replay and self._links[stage] == "shared_memory"

    def _is_here(self, stage: str) -> bool:
        return bool(self.opened[stage].node_id == ray.get_runtime_context().get_node_id())

    def _note_opened(self, one: Opened) -> None:
        self.opened[one.stage] = one
        if self._is_here(one.stage):
            self.own_pids.append(one.pid)

    def _listen(self, stage: str, actor: Any) -> Any:
        return actor.listen.remote(self._links[stage], [e for e in self._edges if e.receiver == stage])

    def _connect(self, stage: str, actor: Any) -> Any:
        links = self._links
        handles = {r: self.actors[r] if links[r] == "ray" else None for r in links}
        return actor.connect.remote([(e, links[e.receiver], handles[e.receiver]) for e in self._edges if e.sender == stage])

    def _link_into(self, stage: str) -> LinkKind:
        """All that comes to a stage takes one link: shared memory if all senders are on its host."""
        forced = self._plan.scenario.runtime.link
        if forced == "shared_memory" and self._node is None:
            raise DeployError("runtime.link=shared_memory needs iceoryx2, which has no wheel for this machine; leave it at auto")
        if forced != "auto" or self._node is None:
            return "shared_memory" if forced == "shared_memory" else "ray"
        senders = {e.sender for e in self._edges if e.receiver == stage}
        here = self.opened[stage].node_id
        return "shared_memory" if all(self.opened[s].node_id == here for s in senders) else "ray"


def _get(references: list[Any]) -> Any:
    """`ray.get`, with a stage's own error instead of Ray's wrapping of it."""
    try:
        return ray.get(references)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if cause is not None else DeployError(str(error))) from None
    except RayActorError as error:
        raise DeployError(f"an actor died while the run was starting ({error}); see the Ray logs, or try --inline") from error
