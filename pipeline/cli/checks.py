"""What `chiasm doctor` looks at, each a function that finds out one thing and never raises."""

from __future__ import annotations

import glob
import importlib
import importlib.util
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pipeline.cli.errors import one_line

GIB = 2**30
NEEDED_PACKAGES = {
    "numpy": "numpy", "ray": "ray", "iceoryx2": "iceoryx2", "onnxruntime": "onnxruntime", "av": "av",
    "cv2": "opencv-python-headless", "pyarrow": "pyarrow", "mcap": "mcap",
    "mcap_protobuf": "mcap-protobuf-support", "foxglove_schemas_protobuf": "foxglove-schemas-protobuf",
    "hdrh": "hdrhistogram", "pydantic": "pydantic", "yaml": "PyYAML", "typer": "typer", "rich": "rich", "psutil": "psutil",
}  # fmt: skip
"""Module to package, of what a run imports."""
RUN_MEMORY_BYTES = int(1.3 * GIB)
OBJECT_STORE_BYTES = 80 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found, and what to do where that is not fine. `chiasm run driving` does not work without what is ``needed``."""

    name: str
    fine: bool
    found: str
    fix: str = ""
    needed: bool = True


def all_checks(*, with_ray: bool) -> Iterator[tuple[str, Callable[[], Check]]]:
    """Every check with the name of what it looks at, in the order in which a machine is made ready."""
    yield "Python", python
    yield "cores", cores
    yield "memory", memory
    yield "packages", packages
    yield "engines", engines
    yield "inference", inference
    yield "/dev/shm", shared_memory
    yield "iceoryx2", iceoryx2_round_trip
    if with_ray:
        yield "Ray", ray_workers
    yield "open files", open_files
    yield "microphones", microphones
    yield "cameras", cameras
    yield "real-time priority", realtime_priority
    yield "simulator", lambda: _extra("simulator", ("panda3d", "scipy", "neurokit2"), "sim")
    yield "training", lambda: _extra("training", ("torch", "onnx", "sklearn", "matplotlib"), "train")
    yield "medical records", lambda: _extra("medical records", ("wfdb",), "medical")
    yield "viewer", lambda: _extra("viewer", ("rerun",), "view")
    yield "GPU", gpu


def looked_at(name: str, check: Callable[[], Check]) -> Check:
    """The check's result; one that fails by itself has found that."""
    try:
        return check()
    except Exception as error:
        return Check(name=name, fine=False, found=f"{type(error).__name__}: {one_line(error)[:200]}", fix="see the message")


def python() -> Check:
    """3.11 to 3.13."""
    found = f"{platform.python_version()}, {sys.executable}"
    is_fine = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check(name="Python", fine=is_fine, found=found, fix="make a virtual environment with Python 3.11, 3.12 or 3.13")


def cores() -> Check:
    """At least two, of those this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fix = "run with --inline, or give the container two cores"
    return Check(name="cores", fine=usable >= 2, found=f"{usable} usable of {os.cpu_count()}", fix=fix, needed=False)


def memory() -> Check:
    """What a run on Ray takes, free."""
    import psutil

    memory = psutil.virtual_memory()
    free = memory.available
    limit = _first_integer(Path("/sys/fs/cgroup/memory.max"))
    used = _first_integer(Path("/sys/fs/cgroup/memory.current"))
    if limit is not None and used is not None:
        free = min(free, limit - used)
    found = f"{free / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    fix = f"free {RUN_MEMORY_BYTES / GIB:.1f} GiB, or run with --inline, which takes about 0.4"
    return Check(name="memory", fine=free >= RUN_MEMORY_BYTES, found=found, fix=fix)


def _first_integer(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def packages() -> Check:
    """Every package that a run imports, imported."""
    versions, broken = [], []
    for module, package in NEEDED_PACKAGES.items():
        try:
            importlib.import_module(module)
            versions.append(f"{package} {metadata.version(package)}")
        except (ImportError, OSError, metadata.PackageNotFoundError) as error:
            broken.append(f"{package} ({one_line(error)[:120]})")
    if broken:
        names = " ".join(b.split(" (")[0] for b in broken)
        return Check(name="packages", fine=False, found="; ".join(broken), fix=f"pip install {names}")
    return Check(name="packages", fine=True, found=", ".join(versions))


def engines() -> Check:
    """The shipped engines are there, and each has the hash that its manifest names."""
    from actors.plan import engines_folder, load_manifests
    from pipeline.config import load_scenario, scenario_folder

    folder = scenario_folder("driving")
    scenario = load_scenario(folder)
    fix = "restore the files (git checkout, or install again), or run chiasm train driving"
    try:
        manifests = load_manifests(scenario, folder)
    except Exception as error:
        return Check(name="engines", fine=False, found=one_line(error), fix=fix)
    hashes = ", ".join(f"{role} {m.sha256[:8]}" for role, (_, m) in manifests.items())
    return Check(name="engines", fine=True, found=f"{engines_folder(scenario, folder)}: {hashes}; hashes match")


def inference() -> Check:
    """Time of one inference of each shipped engine on the CPU."""
    import numpy as np

    from engines.registry import WEIGHTS, manifest_paths, open_engine

    times_ms = {}
    for role, path in manifest_paths(WEIGHTS / "driving").items():
        with open_engine(path) as runner:
            zeros = {t.name: np.zeros([192 if d is None else d for d in t.shape], dtype=t.dtype) for t in runner.manifest.inputs}
            took_ns = []
            for _ in range(20):
                before_ns = time.perf_counter_ns()
                runner.infer(zeros)
                took_ns.append(time.perf_counter_ns() - before_ns)
            times_ms[role] = sorted(took_ns)[len(took_ns) // 2] / 1e6
    found = ", ".join(f"{role} {ms:.2f} ms" for role, ms in times_ms.items())
    is_fine = sum(times_ms.values()) < 25
    return Check(name="inference", fine=is_fine, found=found, fix="free the processor, or take a faster one")


def shared_memory() -> Check:
    """What the links of a run on Ray take, and Ray's own store, is free."""
    from actors.wiring import edges_of
    from pipeline.cli.planning import plan_live
    from pipeline.links.shared_memory import bytes_needed
    from pipeline.links.sweeping import MEMORY_FOLDER

    if not MEMORY_FOLDER.is_dir():
        return Check(name="/dev/shm", fine=False, found="not there", fix="run with --inline; links use Linux's shared memory")
    planned = plan_live("driving", [], [])
    needed = OBJECT_STORE_BYTES + sum(bytes_needed(edge.spec) for edge in edges_of(planned.plan, planned.infos))
    usage = shutil.disk_usage(MEMORY_FOLDER)
    found = f"{usage.free / 1e6:.0f} of {usage.total / 1e6:.0f} MB free; chiasm run driving takes {needed / 1e6:.0f} MB"
    fix = f"run with --inline, or mount -o remount,size=1G {MEMORY_FOLDER}; in a container docker run --shm-size=1g"
    return Check(name="/dev/shm", fine=usage.free >= needed, found=found, fix=fix)


def iceoryx2_round_trip() -> Check:
    """A message through shared memory and its event, sent and received."""
    from pipeline.links.base import EdgeSpec
    from pipeline.links.shared_memory import SharedMemoryNode
    from pipeline.links.sweeping import sweep
    from pipeline.messages import Progress

    edge = EdgeSpec(name="doctor>doctor", capacity=8, max_bytes=64)
    run_id, took_ns = f"doctor-{os.getpid()}", []
    root = Path(tempfile.mkdtemp(prefix="chiasm-doctor-"))
    try:
        with SharedMemoryNode(run_id, root, owner=True) as node:
            inbox = node.inbox("doctor", [edge])
            outlet = node.outlet(edge, "doctor")
            for count in range(200):
                before_ns = time.perf_counter_ns()
                outlet.send(Progress(stage="doctor", event_ns=count))
                if not inbox.receive(1_000_000_000):
                    return Check(name="iceoryx2", fine=False, found="a message did not arrive", fix="run with --inline")
                took_ns.append(time.perf_counter_ns() - before_ns)
    finally:
        sweep(run_id, root)
    return Check(name="iceoryx2", fine=True, found=f"send and receive in {sorted(took_ns)[100] / 1e3:.0f} µs")


def ray_workers() -> Check:
    """Ray starts here, and its workers run at nice 0: at Ray's usual 15, any busy process delays decisions by seconds."""
    import ray

    from actors.deploy import start_ray

    before = time.monotonic()
    own = start_ray(None)
    try:
        started_s = time.monotonic() - before
        niceness = ray.get(ray.remote(num_cpus=0)(lambda: os.nice(0)).remote(), timeout=60)
    finally:
        if own:
            ray.shutdown()
    found = f"starts in {started_s:.1f} s, workers at nice {niceness}"
    fix = "start chiasm without nice, or export RAY_worker_niceness=0 where the cluster starts"
    return Check(name="Ray", fine=niceness <= 0, found=found, fix=fix)


def open_files() -> Check:
    """Ray and a run's links hold some hundred each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Check(name="open files", fine=soft >= 1024, found=f"limit {soft} (hard {hard})", fix="ulimit -n 4096")


def microphones() -> Check:
    """PortAudio and the devices that it can record from."""
    fix = "for microphone=device:NAME install PortAudio (apt install libportaudio2) and plug in a microphone"
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        return Check(name="microphones", fine=False, found=one_line(error)[:120], fix=fix, needed=False)
    with _QuietStderr():  # ALSA tells of every card that is not there
        devices = [d["name"] for d in sounddevice.query_devices() if d["max_input_channels"] > 0]
    found = ", ".join(devices[:8]) or f"{sounddevice.get_portaudio_version()[1]}, no input device"
    return Check(name="microphones", fine=bool(devices), found=found, fix=fix, needed=False)


class _QuietStderr:
    """C libraries' stderr to nowhere, for as long as it is entered."""

    def __enter__(self) -> None:
        self._kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)

    def __exit__(self, *exc: object) -> None:
        os.dup2(self._kept, 2)
        os.close(self._kept)


def cameras() -> Check:
    """V4L2 devices, and whether this user may read them."""
    devices = sorted(glob.glob("/dev/video*"))
    closed = [d for d in devices if not os.access(d, os.R_OK | os.W_OK)]
    if closed:
        fix = "for camera=device:N: sudo usermod -aG video $USER, then log in again"
        return Check(name="cameras", fine=False, found=f"no permission for {', '.join(closed)}", fix=fix, needed=False)
    fix = "for camera=device:N plug in a camera; in a container docker run --device /dev/video0"
    return Check(name="cameras", fine=bool(devices), found=", ".join(devices) or "none", fix=fix, needed=False)


def realtime_priority() -> Check:
    """Whether this user may ask for SCHED_FIFO. Tried on a thread that ends at once."""
    allowed = []

    def attempt() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            allowed.append(True)
        except (OSError, AttributeError):
            pass

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    fix = "not used yet; allow it with 'USER - rtprio 10' in /etc/security/limits.conf or docker run --cap-add sys_nice"
    found = "allowed (SCHED_FIFO)" if allowed else "not allowed"
    return Check(name="real-time priority", fine=bool(allowed), found=found, fix=fix, needed=False)


def gpu() -> Check:
    """An NVIDIA device and what drives it. The libraries are looked for, not loaded: a broken driver can end the process."""
    devices = glob.glob("/dev/nvidia[0-9]*")
    if not devices:
        fix = "none is needed: engines run on the CPU; for a GPU install its driver and pip install 'chiasm[gpu]'"
        return Check(name="GPU", fine=False, found="no NVIDIA device", fix=fix, needed=False)
    lacking = [name for name in ("tensorrt", "pycuda") if importlib.util.find_spec(name) is None]
    found = _nvidia_smi() or f"{len(devices)} NVIDIA devices"
    if lacking:
        found = f"{found}; {', '.join(lacking)} missing"
        return Check(name="GPU", fine=False, found=found, fix="pip install 'chiasm[gpu]'", needed=False)
    return Check(name="GPU", fine=True, found=found, needed=False)


def _nvidia_smi() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(done.stdout.splitlines())


def _extra(name: str, modules: tuple[str, ...], extra: str) -> Check:
    lacking = [module for module in modules if importlib.util.find_spec(module) is None]
    versions = []
    for module in modules:
        try:
            versions.append(f"{module} {metadata.version('rerun-sdk' if module == 'rerun' else module)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{module} missing" if module in lacking else module)
    return Check(name=name, fine=not lacking, found=", ".join(versions), fix=f"pip install 'chiasm[{extra}]'", needed=False)
