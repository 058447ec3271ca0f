"""A second host, for real but for the cable: a Ray node whose monotonic clock is 5000 s ahead (a Linux time namespace).

Between it and this one everything goes through Ray, on it through shared memory; its stamps are mapped.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.logs.reader import LogReader

pytestmark = pytest.mark.ray

AHEAD_S = 5000
UNSHARE = ["unshare", "--time", "--monotonic", str(AHEAD_S), "--boottime", str(AHEAD_S), "--fork"]


def can_shift_clocks() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


class Cluster:
    """Two Ray nodes; the second offers the resource ``edge``."""

    def __init__(self) -> None:
        token = secrets.token_hex(32)
        self.environment = {**os.environ, "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._nodes: list[subprocess.Popen[bytes]] = []
        self.folder = tempfile.mkdtemp(prefix="ray-")  # sockets lie in it, so its path must be short

    def start(self, *arguments: str, before: list[str] | None = None) -> None:
        common = ["--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
        command = [*(before or []), str(Path(sys.executable).parent / "ray"), "start", *arguments, *common]
        node = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._nodes.append(node)

    def wait_for(self, nodes: int) -> None:
        program = (
            f"import ray, sys; ray.init(address={self.address!r}, log_to_driver=False); "
            f"sys.exit(sum(n['Alive'] for n in ray.nodes()) < {nodes})"
        )
        until = time.monotonic() + 60
        while subprocess.run([sys.executable, "-c", program], env=self.environment, capture_output=True, check=False).returncode:
            assert time.monotonic() < until, "the Ray nodes did not come up"

    def stop(self) -> None:
        for node in reversed(self._nodes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGTERM)
            try:
                node.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def chiasm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "chiasm"), *arguments, "--set", f"runtime.ray_address={self.address}"]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if not can_shift_clocks():
        pytest.skip("shifting a process's monotonic clock needs util-linux's unshare and the right to make a time namespace")
    nodes = Cluster()
    try:
        nodes.start(
            "--head", f"--port={nodes.address.partition(':')[2]}", "--include-dashboard=false", f"--temp-dir={nodes.folder}"
        )
        nodes.wait_for(1)
        nodes.start(f"--address={nodes.address}", '--resources={"edge": 1}', before=UNSHARE)
        nodes.wait_for(2)
        yield nodes
    finally:
        nodes.stop()


def test_a_camera_and_its_encoder_on_another_host_are_fused_on_one_time_axis(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "two.mcap"
    before = set(os.listdir("/dev/shm"))
    placed = [f"--set=runtime.place.{stage}=edge" for stage in ("camera", "encoder")]
    ran = cluster.chiasm("run", "driving", "--for", "6s", "--record", str(log), "--json", *placed)
    assert ran.returncode == 0, ran.stderr
    decisions = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert len(decisions) >= 110  # of 121 frames
    last = decisions[len(decisions) // 2 :]
    for decision in last:
        assert 0 < decision["latency_ns"] < 1e9, "a clock that is not mapped is 5,000,000 ms off"
        ages = [s["age_ns"] for s in decision["receipt"]["admitted"] if s["availability"] == "present"]
        assert all(0 <= age < 5e9 for age in ages)
    seen = sum(s["availability"] == "present" for d in last for s in d["receipt"]["admitted"] if s["stream"] == "camera")
    assert seen >= 0.9 * len(last)
    streams = LogReader(log).streams
    assert 0 < streams["camera"].clock_uncertainty_ns <= 2_000_000
    assert streams["microphone"].clock_uncertainty_ns == 0
    left = {name for name in set(os.listdir("/dev/shm")) - before if name.startswith("chiasm_")}
    assert not left


def test_a_replay_across_two_hosts_decides_bit_for_bit_what_it_does_inline(cluster: Cluster, short_log: Path) -> None:
    elsewhere = cluster.chiasm(
        "replay", str(short_log), "--set", "runtime.place.microphone=edge", "--set=runtime.place.fusion=edge"
    )
    inline = subprocess.run(
        [str(Path(sys.executable).parent / "chiasm"), "replay", str(short_log), "--inline"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert elsewhere.stdout.splitlines()[-1] == inline.stdout.splitlines()[-1]


def test_a_clock_that_is_known_too_loosely_is_refused(cluster: Cluster) -> None:
    ran = cluster.chiasm("run", "driving", "--set=runtime.place.camera=edge", "--set=runtime.clock_uncertainty_ms=0.0001")
    assert ran.returncode == 2
    assert "runtime.clock_uncertainty_ms" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("override", "named"),
    [("runtime.place.camera=nowhere", "no host offers 'nowhere'"), ("runtime.place.wheel=edge", "has no such stage")],
)
def test_a_place_that_is_not_there_is_one_line(cluster: Cluster, override: str, named: str) -> None:
    ran = cluster.chiasm("run", "driving", f"--set={override}")
    assert ran.returncode == 2
    assert named in ran.stderr and "Traceback" not in ran.stderr


def test_without_an_address_a_cluster_that_happens_to_run_here_is_left_alone() -> None:
    command = [str(Path(sys.executable).parent / "chiasm"), "run", "driving", "--for", "1s"]
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_a_cluster_that_is_not_there_is_one_line_and_soon(address: str) -> None:
    command = [str(Path(sys.executable).parent / "chiasm"), "run", "driving", f"--set=runtime.ray_address={address}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 2
    assert f"runtime.ray_address={address}" in ran.stderr and "Traceback" not in ran.stderr
