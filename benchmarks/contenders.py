"""Who is compared with whom: how each contender is started, and in which virtual environment."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environment import ROOT
from benchmarks.peers.environments import library_folders, python_of
from benchmarks.peers.rendezvous import all_ready, origin_of, set_origin
from benchmarks.processes import alive, family

READY_S, LEAD_NS = 60.0, 1_000_000_000
OVERTIME_S = 20.0
MARGIN_NS = 200_000_000
"""CPU time is counted up to so long before the end: some leave at once, and take their count with them."""
STREAMS = ("camera", "microphone", "telemetry", "text")
SEGMENTS = Path("/dev/shm")
LEFT_BEHIND = ("*.zenoh", "sem.obj*", "sem.hdr*")
"""What zenoh (which dora-rs uses too) and compiled graphs of Ray leave there when they are killed."""
STACK_BYTES = 64 * 2**20
"""Holoscan's threads want more than the usual 8 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One program that does the job, or the hop, in its own way."""

    name: str
    title: str
    module: str
    before: tuple[str, ...] = ()
    """Arguments ahead of the job and the folder for what it finds; ``after`` are those behind."""
    after: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    """Who says so before it can begin; empty: it sets its own origin."""
    environment: str | None = None
    """Which of ``requirements/`` it needs; None: what Chiasm itself needs."""
    root: Path = ROOT
    """The checkout whose code it runs."""

    def python(self, say: Callable[[str], None]) -> Path:
        """Its interpreter. Raises Skipped where its environment cannot be made."""
        return Path(sys.executable) if self.environment is None else python_of(self.environment, say)


JOBS = {
    c.name: c
    for c in (
        Contender(name="bare", title="bare loop", module="benchmarks.peers.bare_loop", ready=("loop",)),
        Contender(name="inline", title="Chiasm inline", module="benchmarks.peers.chiasm_run", before=("inline",)),
        Contender(name="chiasm", title="Chiasm on Ray", module="benchmarks.peers.chiasm_run", before=("ray",)),
        Contender(
            name="holoscan", title="Holoscan", module="benchmarks.peers.holoscan_app", ready=("app",), environment="holoscan"
        ),
        Contender(
            name="dora", title="dora-rs", module="benchmarks.peers.dora_nodes", ready=(*STREAMS, "encoder", "fusion"),
            environment="dora",
        ),
        Contender(
            name="zenoh", title="zenoh", module="benchmarks.peers.zenoh_nodes", ready=(*STREAMS, "encoder", "fusion"),
            environment="zenoh",
        ),
        Contender(
            name="queues", title="multiprocessing", module="benchmarks.peers.queues", ready=(*STREAMS, "encoder", "fusion")
        ),
        Contender(name="graph", title="Ray compiled graph", module="benchmarks.peers.ray_graph", ready=("driver",)),
        Contender(name="ray", title="plain Ray", module="benchmarks.peers.ray_actors", ready=(*STREAMS, "driver")),
    )
}  # fmt: skip
"""By name; the job."""


def hop_contenders(senders: int) -> dict[str, Contender]:
    """By name; one hop from so many senders."""
    own = tuple(f"sender{k}" for k in range(senders))
    both = (*own, "receiver")
    found = (
        Contender(name="chiasm", title="Chiasm", module="benchmarks.hops.shared_memory", before=("chiasm",), ready=both),
        Contender(
            name="iceoryx2", title="raw iceoryx2", module="benchmarks.hops.shared_memory", before=("iceoryx2",), ready=both
        ),
        Contender(name="dora", title="dora-rs", module="benchmarks.hops.dora_link", ready=both, environment="dora"),
        Contender(name="zenoh", title="zenoh", module="benchmarks.hops.zenoh_link", ready=both, environment="zenoh"),
        Contender(name="queues", title="multiprocessing", module="benchmarks.hops.queues", ready=both),
        Contender(
            name="graph", title="Ray compiled graph", module="benchmarks.hops.ray_calls", before=("graph",),
            ready=("driver", "receiver"),
        ),
        Contender(name="ray", title="plain Ray", module="benchmarks.hops.ray_calls", before=("actors",), ready=(*own, "driver")),
    )  # fmt: skip
    return {c.name: c for c in found}


class ContenderFailed(Exception):
    """A contender did not do its job; the text is what it said last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A contender that has done its job."""

    folder: Path
    cpu_s: float
    """CPU time of all its processes while it worked, settling left out."""


def run_contender(
    contender: Contender, given: Path, out: Path, end_ns: int, *, say: Callable[[str], None], settle_ns: int = 0
) -> Ran:
    """Start it, let it begin once all its processes are ready, wait for its end.

    ``end_ns``: when the last of its work is due. CPU time is counted from ``settle_ns`` to then. Raises ContenderFailed, and
    Skipped where its environment cannot be made.
    """
    out.mkdir(parents=True)
    python = contender.python(say)
    command = [python, "-m", contender.module, *contender.before, given, out, *contender.after]
    with _started(command, python, contender.root, out / "said.txt") as process:
        origin_ns = _begin(process, contender, out)
        start_s = _cpu_at(process, origin_ns + settle_ns)
        cpu_s = _cpu_at(process, origin_ns + end_ns - MARGIN_NS) - start_s
        try:
            code = process.wait(OVERTIME_S)
        except subprocess.TimeoutExpired:
            raise ContenderFailed(f"{contender.name} did not end: {_tail(out)}") from None
    if code:
        raise ContenderFailed(f"{contender.name} ended with {code}: {_tail(out)}")
    return Ran(folder=out, cpu_s=cpu_s)


def _begin(process: subprocess.Popen[bytes], contender: Contender, out: Path) -> int:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        if (origin_ns := origin_of(out)) is not None:
            return origin_ns
        if contender.ready and all_ready(out, contender.ready):
            set_origin(out, time.monotonic_ns() + LEAD_NS)
            continue
        time.sleep(0.02)
    raise ContenderFailed(f"{contender.name} did not begin: {_tail(out)}")


def _cpu_at(process: subprocess.Popen[bytes], at_ns: int) -> float:
    """CPU seconds of a process and all below it, at that time."""
    time.sleep(max(0, at_ns - time.monotonic_ns()) / 1e9)
    total = 0.0
    for one in alive(family(process.pid)):
        times = one.cpu_times()
        total += times.user + times.system
    return total


@contextmanager
def _started(command: list[str | Path], python: Path, root: Path, said: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    if folders := library_folders(python):
        environment["LD_LIBRARY_PATH"] = folders
    before = _left_behind()
    with open(said, "wb") as log:
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True, preexec_fn=_large_stack
        )
        try:
            yield process
        finally:
            left = family(process.pid)
            for one in alive(left):
                one.kill()
            process.wait()
            for segment in _left_behind() - before:
                segment.unlink(missing_ok=True)


def _left_behind() -> set[Path]:
    return {segment for pattern in LEFT_BEHIND for segment in SEGMENTS.glob(pattern)}


def _large_stack() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard), hard))


def _tail(out: Path) -> str:
    """The last of what it said, on one line."""
    try:
        return " ".join((out / "said.txt").read_text(encoding="utf-8", errors="replace").split())[-400:] or "it said nothing"
    except OSError:
        return "it said nothing"
