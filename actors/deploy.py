"""Deploying a run on Ray: which actors, on which links, in which order they begin and end.

``deploy.run(plan)`` is what `chiasm run` and `chiasm replay` do without ``--inline``. Ray places, watches and stops; the
data goes over links (see `actors.wiring`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.camera import CameraActor
from actors.encoder import EncoderActor
from actors.fusion import FusionActor
from actors.host import wait_until_gone
from actors.hosts import GONE_S, Caretakers, HostClocks, placements
from actors.microphone import MicrophoneActor
from actors.plan import RunPlan
from actors.sink import SinkActor
from actors.stage import Opened, Start
from actors.supervisor import Supervisor
from actors.telemetry import TelemetryActor
from actors.text import TextActor
from actors.wiring import Edge, LinkKind, RunIdentity, edges_of, encoder_stages
from pipeline.clock import ClockOffset
from pipeline.links.shared_memory import SharedMemoryNode
from pipeline.links.sweeping import sweep, sweep_dead
from pipeline.logs.reader import LogReader
from pipeline.messages import Decision
from pipeline.sources.base import StreamInfo
from pipeline.stages.sink import RunSummary

INGEST_ACTORS = {"camera": CameraActor, "microphone": MicrophoneActor, "telemetry": TelemetryActor, "text": TextActor}
ORIGIN_DELAY_NS = 300_000_000
"""From the call that starts the actors to the run's origin: all loops run by then, also on a busy host."""
RUNS = Path(tempfile.gettempdir()) / f"chiasm-{os.getuid()}"
KNOCK_S = 3.0
OBJECT_STORE_BYTES = 80 * 2**20


class DeployError(Exception):
    """A run cannot be deployed: one line, with the fix."""


class RayRun:
    """One run on Ray. ``stop`` ends it in order; ``run`` returns its summary."""

    def __init__(
        self,
        plan: RunPlan,
        *,
        on_decisions: Callable[[list[Decision]], None] | None = None,
        on_start: Callable[[int, dict[str, StreamInfo]], None] | None = None,
    ) -> None:
        self._plan, self._on_decisions, self._on_start = plan, on_decisions, on_start
        self._stop = threading.Event()
        run_id = f"c{os.getpid()}x{uuid.uuid4().hex[:6]}"
        self._identity = RunIdentity(run_id=run_id, root=RUNS / run_id)
        self._actors: dict[str, Any] = {}
        self._shared_memory = plan.scenario.runtime.link != "ray" and importlib.util.find_spec("iceoryx2") is not None
        self._owner: SharedMemoryNode | None = None
        self.pids: dict[str, int] = {}
        """Stage to process id, once the run has started."""
        self._own_ray = False
        self._own_pids: list[int] = []
        self._clocks: HostClocks | None = None
        self._caretakers: Caretakers | None = None

    def stop(self) -> None:
        """End the run soon: sources end, what they announced is still decided, the log is closed. Signal-safe."""
        self._stop.set()

    def run(self) -> RunSummary:
        """Play the whole run."""
        RUNS.mkdir(mode=0o700, exist_ok=True)
        sweep_dead(RUNS)
        try:
            if self._shared_memory:
                self._owner = SharedMemoryNode(self._identity.run_id, self._identity.root, owner=True).__enter__()
            self._own_ray = start_ray(self._plan.scenario.runtime.ray_address)
            opened = self._open()
            self.pids = {stage: o.pid for stage, o in opened.items()}
            here = ray.get_runtime_context().get_node_id()
            self._own_pids = [o.pid for o in opened.values() if o.node_id == here]
            if self._shared_memory:
                self._caretakers = Caretakers(self._identity, opened)
            limit_ns = round(self._plan.scenario.runtime.clock_uncertainty_ms * 1e6)
            self._clocks = HostClocks(self._actors, opened, limit_ns)
            infos = _infos_of(opened, self._clocks.align())
            self._connect(opened)
            origin_ns = self._start(infos)
            self._clocks.start()
            if self._on_start is not None:
                self._on_start(origin_ns, infos)
            supervisor = Supervisor(self._plan, self._actors, self._stop, self._on_decisions)
            summary = supervisor.watch(origin_ns)
            return replace(summary, failures=(*summary.failures, *self._clocks.failures))
        finally:
            self._shut_down()

    def _open(self) -> dict[str, Opened]:
        plan = self._plan
        classes: dict[str, Any] = {s: INGEST_ACTORS[plan.scenario.streams[s].kind] for s in plan.sources}
        if plan.decides:
            classes |= {**dict.fromkeys(encoder_stages(plan), EncoderActor), "fusion": FusionActor}
        classes["sink"] = SinkActor
        options = placements(plan.scenario.runtime.place, set(classes))
        for stage, actor_class in classes.items():
            self._actors[stage] = actor_class.options(**options[stage]).remote(plan, stage, self._identity)
        opened: list[Opened] = _get([actor.open.remote() for actor in self._actors.values()])
        return {one.stage: one for one in opened}

    def _connect(self, opened: dict[str, Opened]) -> None:
        edges = edges_of(self._plan, {stage: o.info for stage, o in opened.items() if o.info is not None})
        links = {stage: self._link_into(stage, edges, opened) for stage in self._actors}
        _get(
            [
                actor.listen.remote(links[stage], [e.spec for e in edges if e.receiver == stage])
                for stage, actor in self._actors.items()
            ]
        )
        _get(
            [
                actor.connect.remote([(e, links[e.receiver], self._handle(e, links)) for e in edges if e.sender == stage])
                for stage, actor in self._actors.items()
            ]
        )

    def _handle(self, edge: Edge, links: dict[str, LinkKind]) -> Any:
        return self._actors[edge.receiver] if links[edge.receiver] == "ray" else None

    def _link_into(self, stage: str, edges: list[Edge], opened: dict[str, Opened]) -> LinkKind:
        """A stage sleeps on one inbox, so all that comes to it takes one link: shared memory if all senders are on its host."""
        forced = self._plan.scenario.runtime.link
        if forced == "shared_memory" and not self._shared_memory:
            raise DeployError("runtime.link=shared_memory needs iceoryx2, which has no wheel for this machine; leave it at auto")
        if forced != "auto" or not self._shared_memory:
            return "shared_memory" if forced == "shared_memory" else "ray"
        senders = {e.sender for e in edges if e.receiver == stage}
        here = opened[stage].node_id
        return "shared_memory" if all(opened[s].node_id == here for s in senders) else "ray"

    def _start(self, infos: dict[str, StreamInfo]) -> int:
        plan = self._plan
        log = LogReader(plan.replay_log) if plan.replay_log is not None else None
        origin_ns = log.origin_ns if log is not None else time.monotonic_ns() + ORIGIN_DELAY_NS
        start = Start(origin_ns=origin_ns, infos=infos)
        _get([actor.start.remote(start) for stage, actor in self._actors.items() if stage not in infos])
        _get([self._actors[stream].start.remote(start) for stream in infos])
        return origin_ns

    def _shut_down(self) -> None:
        if self._clocks is not None:
            self._clocks.stop()
        if self._own_ray:
            ray.shutdown()
        else:
            for actor in self._actors.values():
                ray.kill(actor)
            if self._caretakers is not None:
                self._caretakers.sweep()
            wait_until_gone(self._own_pids, GONE_S)
        if self._owner is not None:
            self._owner.__exit__(None, None, None)
        sweep(self._identity.run_id, self._identity.root)
        with contextlib.suppress(OSError):
            RUNS.rmdir()  # another run of this user may still be in it


def start_ray(address: str | None, object_store_bytes: int = OBJECT_STORE_BYTES) -> bool:
    """Connect to a cluster, or start Ray on this machine; True when it was started here and must be stopped.

    Ray runs its workers at nice 15 unless told otherwise before it starts: beside busy processes that turned 7 ms into 2.4 s.
    """
    if ray.is_initialized():
        return False
    if address is not None:
        with _own_sigterm_handler():
            _join(address)
        return False
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray spells it so
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray secures its local cluster with a token of its own and says so on stderr at each start; that it does is enough.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    with _own_sigterm_handler():
        _init_ray(object_store_bytes)
    return True


def _join(address: str) -> None:
    """Connect to a cluster. Ray alone would knock for minutes at a door that is not there."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it reports each of its attempts; the last word is ours
    host, _, port = address.rpartition(":")
    try:
        if address not in ("auto", "local"):
            socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise DeployError(
            f"runtime.ray_address={address}: no cluster there takes this run ({' '.join(str(error).split())[:120]}); give the "
            "HOST:PORT of ray start --head, and where it asks for a token the same RAY_AUTH_MODE and RAY_AUTH_TOKEN to all"
        ) from error


@contextlib.contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """`ray.init` puts a handler of its own over ours, one that exits at once: ours ends the run in order."""
    earlier = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and earlier is not None:
            signal.signal(signal.SIGTERM, earlier)


def _init_ray(object_store_bytes: int) -> None:
    ray.init(
        address="local",  # left out, it means whatever cluster happens to run here
        num_cpus=max(2, os.cpu_count() or 2),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=object_store_bytes,
    )


def _get(references: list[Any]) -> Any:
    """`ray.get`, with a stage's own error instead of Ray's wrapping of it."""
    try:
        return ray.get(references)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if cause is not None else DeployError(str(error))) from None
    except RayActorError as error:
        raise DeployError(f"an actor died while the run was starting ({error}); see the Ray logs, or try --inline") from error


def _infos_of(opened: dict[str, Opened], offsets: dict[str, ClockOffset]) -> dict[str, StreamInfo]:
    """The streams, each with how uncertain its host's clock makes its stamps."""
    return {
        stage: replace(one.info, clock_uncertainty_ns=offsets[stage].uncertainty_ns if stage in offsets else 0)
        for stage, one in opened.items()
        if one.info is not None
    }


def run(plan: RunPlan, on_decisions: Callable[[list[Decision]], None] | None = None) -> RunSummary:
    """Play a run on Ray and return its summary."""
    return RayRun(plan, on_decisions=on_decisions).run()
