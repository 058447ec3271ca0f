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
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import ray

from actors.host import wait_until_gone
from actors.hosts import GONE_S, Caretakers, HostClocks
from actors.plan import RunPlan
from actors.stage import Opened
from actors.staging import DeployError, StageActors
from actors.supervisor import Supervisor
from actors.wiring import RunIdentity
from pipeline.clock import ClockOffset
from pipeline.links.shared_memory import SharedMemoryNode
from pipeline.links.sweeping import sweep, sweep_dead
from pipeline.messages import Decision
from pipeline.sources.base import StreamInfo
from pipeline.stages.sink import RunSummary

RUNS = Path(tempfile.gettempdir()) / f"chiasm-{os.getuid()}"
KNOCK_S = 3.0
OBJECT_STORE_BYTES = 80 * 2**20
RAY_SETTINGS = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_event_stats": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_memory_monitor_refresh_ms": "1000",
}
"""Of a Ray that is started here, where the user's environment says nothing else.

Left alone, its workers run at nice 15, which beside busy processes turned 7 ms into 2.4 s; it reports to its vendor; and its
statistics, which nobody reads, take a third of the time that an idle process takes. Memory is looked at once a second, not four
times.
"""
IDLE_HELPERS = ("ray/_private/log_monitor.py", "ray/autoscaler/_private/monitor.py", "ray/dashboard/dashboard.py")
"""Processes that Ray starts beside a local run whether or not they serve anybody: here nobody reads what they gather, scales a
cluster or looks at a dashboard. Together they hold 165 MB and take 8 ms of processor time a second.
"""


class RayRun:
    """One run on Ray. ``stop`` ends it in order; ``run`` returns its summary. ``on_notice`` is told of stages that die or
    serve again.
    """

    def __init__(
        self,
        plan: RunPlan,
        *,
        on_decisions: Callable[[list[Decision]], None] | None = None,
        on_start: Callable[[int, dict[str, StreamInfo]], None] | None = None,
        on_notice: Callable[[str], None] = lambda notice: None,
    ) -> None:
        self._plan, self._on_decisions, self._on_start, self._on_notice = plan, on_decisions, on_start, on_notice
        self._stop = threading.Event()
        run_id = f"c{os.getpid()}x{uuid.uuid4().hex[:6]}"
        self._identity = RunIdentity(run_id=run_id, root=RUNS / run_id)
        shared_memory = plan.scenario.runtime.link != "ray" and importlib.util.find_spec("iceoryx2") is not None
        self._owner = SharedMemoryNode(run_id, self._identity.root, owner=True) if shared_memory else None
        self._stages = StageActors(plan, self._identity, self._owner)
        self._own_ray = False
        self._clocks: HostClocks | None = None
        self._caretakers: Caretakers | None = None

    @property
    def pids(self) -> dict[str, int]:
        """Stage to process id, once the run has started."""
        return {stage: one.pid for stage, one in self._stages.opened.items()}

    def stop(self) -> None:
        """End the run soon: sources end, what they announced is still decided, the log is closed. Signal-safe."""
        self._stop.set()

    def run(self) -> RunSummary:
        """Play the whole run."""
        RUNS.mkdir(mode=0o700, exist_ok=True)
        sweep_dead(RUNS)
        try:
            if self._owner is not None:
                self._owner.__enter__()
            self._own_ray = start_ray(self._plan.scenario.runtime.ray_address)
            opened = self._stages.open()
            if self._owner is not None:
                self._caretakers = Caretakers(self._identity, opened)
            limit_ns = round(self._plan.scenario.runtime.clock_uncertainty_ms * 1e6)
            self._clocks = HostClocks(self._stages.actors, opened, limit_ns)
            infos = _infos_of(opened, self._clocks.align())
            self._stages.connect()
            origin_ns = self._stages.start(infos)
            self._clocks.start()
            if self._on_start is not None:
                self._on_start(origin_ns, infos)
            supervisor = Supervisor(self._plan, self._stages, self._stop, self._on_decisions, self._on_notice)
            summary = supervisor.watch(origin_ns)
            return replace(summary, failures=(*summary.failures, *self._clocks.failures))
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        if self._clocks is not None:
            self._clocks.stop()
        if self._own_ray:
            ray.shutdown()
        else:
            for actor in self._stages.actors.values():
                ray.kill(actor)
            if self._caretakers is not None:
                self._caretakers.sweep()
            wait_until_gone(self._stages.own_pids, GONE_S)
        if self._owner is not None:
            self._owner.__exit__(None, None, None)
        sweep(self._identity.run_id, self._identity.root)
        with contextlib.suppress(OSError):
            RUNS.rmdir()  # another run of this user may still be in it


def start_ray(address: str | None, object_store_bytes: int = OBJECT_STORE_BYTES) -> bool:
    """Connect to a cluster, or start Ray on this machine; True when it was started here and must be stopped."""
    if ray.is_initialized():
        return False
    if address is not None:
        with _own_sigterm_handler():
            _join(address)
        return False
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray secures its local cluster with a token of its own and says so on stderr at each start; that it does is enough.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    with _own_sigterm_handler():
        _init_ray(object_store_bytes)
    _dismiss_idle_helpers()
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


def _dismiss_idle_helpers() -> None:
    """End the `IDLE_HELPERS` of the Ray that this process has started. One that Ray no longer starts is not missed."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(argument.endswith(IDLE_HELPERS) for argument in process.cmdline()):
                process.kill()
                process.wait(1)  # or it stays as a zombie


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
