"""What every actor has in common: an inbox, outlets, a loop in a thread of its own, and control calls beside it.

An actor that blocks in a method answers no other call. So the loop is a thread, ``deliver`` (the Ray link) and the control
calls have concurrency groups of their own.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import ray

from actors.dozing import Dozing
from actors.host import settle_process, sharpen_timers
from actors.plan import RunPlan
from actors.ray_link import RayOutlet
from actors.wiring import Edge, LinkKind, RunIdentity
from pipeline.clock import MappedClock, clock_domain
from pipeline.links.base import Inbox, Outlet
from pipeline.links.in_process import InProcessInbox
from pipeline.links.shared_memory import SharedMemoryNode
from pipeline.links.unpacking import from_bytes
from pipeline.messages import Message
from pipeline.recorded_admission import NotReproducible
from pipeline.sources.base import StreamInfo
from pipeline.stages.sink import StageReport

CONCURRENCY_GROUPS = {"control": 1, "clock": 1, "link": 1, "wait": 1, "console": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What an actor says when its source or engine is open."""

    stage: str
    node_id: str
    pid: int
    clock_domain: str
    niceness: int
    info: StreamInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What an actor must know to begin."""

    origin_ns: int
    infos: dict[str, StreamInfo]
    epoch: int = 0
    """Which incarnation of its source an ingest stage plays: one more after each restart."""
    dozes: bool = False
    """Whether calls to this actor are rare and announced by a knock, so that its main thread may sleep."""


class StageActor:
    """Base of all actors; a subclass opens its resources in `open_stage` and runs them in `loop`."""

    def __init__(self, plan: RunPlan, stage: str, identity: RunIdentity) -> None:
        self.plan, self.stage, self.identity = plan, stage, identity
        self.clock = MappedClock()
        self.stopping = threading.Event()
        self.inboxes: dict[str, Inbox] = {}
        self.outlets: dict[str, Outlet] = {}
        self._inbox_of: dict[str, Inbox] = {}
        self._resources = ExitStack()
        self._node: SharedMemoryNode | None = None
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._dozing = Dozing()

    # -- to be filled in ----------------------------------------------------------------------------------------

    def open_stage(self, resources: ExitStack) -> StreamInfo | None:
        """Open what the stage needs; an ingest stage gives its stream's description."""
        raise TypeError(f"{type(self).__name__} opens nothing")

    def loop(self, start: Start) -> None:
        """Run until the end of the run or until ``stopping``."""
        raise TypeError(f"{type(self).__name__} runs nothing")

    def interrupt(self) -> None:
        """Make `loop` look at ``stopping``."""
        for inbox in self.inboxes.values():
            inbox.wake()

    def report(self) -> StageReport:
        """What this stage lost."""
        return StageReport(stage=self.stage, drops=self.link_drops())

    # -- control calls ------------------------------------------------------------------------------------------

    def open(self) -> Opened:
        """Open source or engine. Errors of sources and engines reach the driver as they are."""
        info = self.open_stage(self._resources)
        return Opened(
            stage=self.stage,
            node_id=ray.get_runtime_context().get_node_id(),
            pid=os.getpid(),
            clock_domain=clock_domain(),
            niceness=os.nice(0),
            info=info,
        )

    def read_clock(self) -> int:
        """The monotonic clock of this host, unmapped, in ns."""
        return time.monotonic_ns()

    def steer_clock(self, offset_ns: int, at_once: bool) -> None:
        """Stamp on the axis of the host that started the run."""
        self.clock.steer(offset_ns, at_once=at_once)

    def listen(self, link: LinkKind, edges: Sequence[Edge]) -> None:
        """Make the inboxes, before anybody sends."""
        for name in dict.fromkeys(edge.inbox for edge in edges):
            specs = [edge.spec for edge in edges if edge.inbox == name]
            shared = link == "shared_memory"
            self.inboxes[name] = self._shared_memory().inbox(name, specs) if shared else InProcessInbox(specs)
        self._inbox_of = {edge.spec.name: self.inboxes[edge.inbox] for edge in edges}

    def connect(self, edges: Sequence[tuple[Edge, LinkKind, Any]]) -> None:
        """Make the outlets, once all inboxes are there."""
        for edge, link, receiver in edges:
            self.outlets[edge.spec.name] = (
                self._shared_memory().outlet(edge.spec, edge.inbox) if link == "shared_memory" else RayOutlet(receiver, edge.spec)
            )
        settle_process()

    def start(self, start: Start) -> None:
        """Begin the loop."""
        self._thread = threading.Thread(target=self._run, args=(start,), name=f"{self.stage} loop", daemon=True)
        self._thread.start()
        if start.dozes:
            self._dozing.begin(self.identity, self.stage)

    def deliver(self, edge: str, data: bytes) -> None:
        """The Ray link's receiving end."""
        inbox = self._inbox_of[edge]
        assert isinstance(inbox, InProcessInbox)
        inbox.outlet(edge).send(from_bytes(data))

    def stop(self) -> None:
        """End the loop soon."""
        self.stopping.set()
        self.interrupt()

    def wait(self) -> StageReport:
        """Block until the loop has ended; what it lost. Raises what a user can mend as it is, else RuntimeError."""
        assert self._thread is not None
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.report()

    def close(self) -> None:
        """Free everything: links, engines, devices."""
        self.outlets.clear()
        self._resources.close()
        for inbox in self.inboxes.values():
            inbox.close()
        if self._node is not None:
            self._node.__exit__(None, None, None)

    # -- inside -------------------------------------------------------------------------------------------------

    @property
    def inbox(self) -> Inbox:
        """Its only one."""
        (inbox,) = self.inboxes.values()
        return inbox

    def send_to(self, edge: str) -> Callable[[Message], None]:
        """The sending function of one of this stage's edges."""
        return self.outlets[edge].send

    def link_drops(self) -> dict[tuple[str, str], int]:
        """What was overwritten before this stage read it, or dropped before it was sent."""
        drops: dict[tuple[str, str], int] = {}
        for inbox in self.inboxes.values():
            for edge, count in inbox.lost().items():
                drops[_stream_of(edge), f"overwritten on {edge}"] = count
        for edge, outlet in self.outlets.items():
            if isinstance(outlet, RayOutlet) and outlet.dropped:
                drops[_stream_of(edge), f"link full on {edge}"] = outlet.dropped
        return drops

    def _shared_memory(self) -> SharedMemoryNode:
        if self._node is None:
            self._node = SharedMemoryNode(self.identity.run_id, self.identity.root).__enter__()
        return self._node

    def _run(self, start: Start) -> None:
        sharpen_timers()
        try:
            self.loop(start)
            for outlet in self.outlets.values():
                if isinstance(outlet, RayOutlet):
                    outlet.settle(0.5)
        except NotReproducible as error:
            self._failure = error
        except Exception:  # an actor's edge: the driver gets it from `wait`
            self._failure = RuntimeError(f"stage {self.stage} failed: {traceback.format_exc().strip()}")


def _stream_of(edge: str) -> str:
    sender, _, receiver = edge.partition(">")
    receiver, _, stream = receiver.partition("/")
    return stream or (receiver if sender in ("encoder", "fusion", "sink") else sender)


def as_actor(cls: type) -> Any:
    """The Ray actor class of a stage: no CPU reserved (the host is shared by design), control calls beside the loop."""
    groups = {
        "stop": "control",
        "read_clock": "clock",
        "steer_clock": "clock",
        "deliver": "link",
        "wait": "wait",
        "take": "console",
    }
    for method, group in groups.items():
        if hasattr(cls, method):
            setattr(cls, method, ray.method(concurrency_group=group)(_own(cls, method)))
    return ray.remote(num_cpus=0, max_restarts=0, concurrency_groups=CONCURRENCY_GROUPS)(cls)


def _own(cls: type, method: str) -> Callable[..., Any]:
    """A subclass's own copy of an inherited method, so that marking it leaves the base alone."""
    inherited = getattr(cls, method)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return inherited(self, *args, **kwargs)

    call.__name__, call.__doc__ = method, inherited.__doc__
    return call


def sleep_ns(until_ns: int | None, now_ns: int) -> int | None:
    """From a wake-up time to an inbox's timeout."""
    return None if until_ns is None else max(0, until_ns - now_ns)
