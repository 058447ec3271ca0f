"""The shared-memory link, against a real second process that may be killed at any moment."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("iceoryx2")
sys.path.insert(0, str(Path(__file__).parent))

from samples import announcement, every_kind, sleeps_through_a_quiet_message
from second_process import BACK, FORTH

from pipeline.links import EdgeSpec, LinkError, shared_memory
from pipeline.links.shared_memory import SharedMemoryNode
from pipeline.links.sweeping import MEMORY_FOLDER, sweep, sweep_dead
from pipeline.links.wire import MAGIC
from pipeline.messages import Announcement, Frame, Header, Message

REPOSITORY = Path(__file__).resolve().parents[3]
LONG_NS = 20_000_000_000


class Run:
    """One run of its own name, and the second processes that take part in it."""

    def __init__(self, root_parent: Path) -> None:
        self.id = f"t{secrets.token_hex(4)}"
        self.root = root_parent / self.id
        self.children: list[subprocess.Popen[str]] = []

    def node(self, **options: Any) -> SharedMemoryNode:
        return SharedMemoryNode(self.id, self.root, **options)

    def start(self, role: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("second_process.py")), role, self.id, str(self.root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        self.children.append(child)
        return child

    def files(self) -> list[str]:
        return sorted(path.name for path in MEMORY_FOLDER.glob(f"chiasm_{self.id}_*"))


def hear(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def tell(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    assert child.wait(20) == -signal.SIGKILL


@pytest.fixture
def root_parent() -> Iterator[Path]:
    """A folder with a short path: the sockets in it have little room for theirs."""
    folder = Path(tempfile.mkdtemp(prefix="chiasm-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def run(root_parent: Path) -> Iterator[Run]:
    the_run = Run(root_parent)
    yield the_run
    for child in the_run.children:
        child.kill()
        child.wait(20)
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
    sweep(the_run.id, the_run.root)


def seqs(batch: list[tuple[str, Message]]) -> list[int]:
    return [message.header.seq for _, message in batch if isinstance(message, Announcement)]


def test_every_kind_of_message_arrives_bit_for_bit_in_a_second_process(run: Run) -> None:
    with run.node() as node:
        outlet = node.outlet(FORTH, "encoder")
        child = run.start("check")
        assert hear(child) == "ready"
        for message in every_kind():
            outlet.send(message)
            assert hear(child) == "same"
        assert child.wait(20) == 0


def test_a_subscriber_killed_while_holding_samples_six_times_blocks_nobody_and_leaks_no_slot(run: Run) -> None:
    seq = 0
    with run.node() as node:
        outlet = node.outlet(FORTH, "encoder")
        for _ in range(6):
            child = run.start("hold")
            assert hear(child) == "ready"
            first = seq
            for _ in range(FORTH.capacity):
                outlet.send(announcement(seq))
                seq += 1
            assert hear(child) == f"holding {first}"
            for _ in range(5 * FORTH.capacity):
                outlet.send(announcement(seq))
                seq += 1
            kill(child)
            for _ in range(5 * FORTH.capacity):
                outlet.send(announcement(seq))
                seq += 1


def test_a_publisher_killed_mid_message_leaves_the_receiver_ready_for_the_next_one(run: Run) -> None:
    with run.node() as node:
        inbox = node.inbox("encoder", [FORTH])
        for _ in range(4):
            dying = run.start("die_sending")
            assert dying.wait(20) == -signal.SIGKILL
            # What it had sent in full may come or go with it; what it had half written must not come.
            assert set(seqs(inbox.receive(0))) <= {0, 1, 2}
            successor = run.start("send")
            assert hear(successor) == "ready"
            tell(successor, "2")
            received: list[int] = []
            while len(received) < 2:
                batch = inbox.receive(LONG_NS)
                assert batch
                received += seqs(batch)
            assert received == [0, 1]
            kill(successor)
        assert inbox.lost() == {FORTH.name: 0}


def test_a_full_queue_overwrites_the_oldest_and_the_receiver_counts_them(run: Run) -> None:
    with run.node() as node:
        inbox = node.inbox("encoder", [FORTH])
        child = run.start("send")
        assert hear(child) == "ready"
        tell(child, "11")
        assert hear(child) == "sent"
        assert seqs(inbox.receive(LONG_NS)) == [7, 8, 9, 10]
        assert inbox.lost() == {FORTH.name: 7}
        tell(child, "3")
        assert hear(child) == "sent"
        assert seqs(inbox.receive(LONG_NS)) == [11, 12, 13]
        assert inbox.lost() == {FORTH.name: 7}


def test_a_receiver_restarted_beside_a_running_sender_counts_only_its_own_losses(run: Run) -> None:
    with run.node() as node:
        first, outlet = node.inbox("encoder", [FORTH]), node.outlet(FORTH, "encoder")
        for seq in range(10):
            outlet.send(announcement(seq))
        first.close()
        second = node.inbox("encoder", [FORTH])
        outlet.send(announcement(10))
        assert seqs(second.receive(LONG_NS)) == [10]
        assert second.lost() == {FORTH.name: 0}


def test_receive_bounds_its_batch_and_returns_the_rest_without_a_new_event(run: Run) -> None:
    edge = EdgeSpec(name="camera>encoder", capacity=10, max_bytes=100_000)
    with run.node() as node:
        inbox, outlet = node.inbox("encoder", [edge]), node.outlet(edge, "encoder")
        for seq in range(10):
            outlet.send(announcement(seq))
        assert [seqs(inbox.receive(None)) for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert inbox.receive(0) == []


def test_one_stage_sleeps_on_all_its_edges(run: Run) -> None:
    edges = [EdgeSpec(name=f"{stream}>fusion", capacity=4, max_bytes=64) for stream in ("camera", "text", "microphone")]
    with run.node() as node:
        inbox = node.inbox("fusion", edges)
        outlets = [node.outlet(edge, "fusion") for edge in edges]
        for edge, outlet in zip(edges, outlets, strict=True):
            timer = threading.Timer(0.01, outlet.send, [announcement(1)])
            timer.start()
            assert inbox.receive(None) == [(edge.name, announcement(1))]
            timer.join()


def test_a_quiet_message_lets_the_receiver_sleep_and_is_there_when_it_wakes(run: Run) -> None:
    edges = [EdgeSpec(name=f"{stream}>fusion", capacity=4, max_bytes=64) for stream in ("camera", "text")]
    with run.node() as node:
        inbox = node.inbox("fusion", edges)
        camera, text = (node.outlet(edge, "fusion") for edge in edges)
        sleeps_through_a_quiet_message(inbox, camera, text)


def test_a_message_larger_than_declared_makes_the_memory_grow(run: Run) -> None:
    edge = EdgeSpec(name="camera>encoder", capacity=2, max_bytes=1000)
    image = np.arange(300 * 200 * 3, dtype=np.uint32).astype(np.uint8).reshape(300, 200, 3)
    with run.node() as node:
        inbox, outlet = node.inbox("encoder", [edge]), node.outlet(edge, "encoder")
        outlet.send(announcement(0))
        outlet.send(Frame(header=Header(stream="camera", seq=1, capture_ns=1, receive_ns=1), image_hwc=image))
        (_, small), (_, large) = inbox.receive(None)
        assert small == announcement(0)
        assert isinstance(large, Frame)
        assert np.array_equal(large.image_hwc, image)
        assert not large.image_hwc.flags.writeable


def test_a_timed_wait_ends_when_it_should(run: Run) -> None:
    with run.node(owner=True) as node:
        inbox = node.inbox("encoder", [FORTH])
        over_ns = []
        for _ in range(15):
            start_ns = time.monotonic_ns()
            assert inbox.receive(2_000_000) == []
            over_ns.append(time.monotonic_ns() - start_ns - 2_000_000)
        assert min(over_ns) >= 0
        assert min(over_ns) < 1_500_000, "rounded to ticks of 4 ms, none could"


def test_wake_ends_a_wait_without_limit_and_is_kept_for_the_next_one(run: Run) -> None:
    with run.node() as node:
        inbox = node.inbox("encoder", [FORTH])
        timer = threading.Timer(0.01, inbox.wake)
        timer.start()
        assert inbox.receive(None) == []
        timer.join()
        inbox.wake()
        assert inbox.receive(None) == []
        assert not inbox.stopped


def test_an_empty_wait_burns_no_processor_time(run: Run) -> None:
    with run.node() as node:
        inbox = node.inbox("encoder", [FORTH])
        wall_ns, processor_ns = time.monotonic_ns(), time.thread_time_ns()
        assert inbox.receive(200_000_000) == []
        assert time.monotonic_ns() - wall_ns >= 195_000_000
        assert time.thread_time_ns() - processor_ns < 20_000_000


def test_the_stop_event_reaches_a_stage_in_another_process(run: Run) -> None:
    with run.node() as node:
        inbox, outlet = node.inbox("camera", [BACK]), node.outlet(FORTH, "encoder")
        child = run.start("echo")
        assert hear(child) == "ready"
        outlet.send(announcement(1))
        assert seqs(inbox.receive(LONG_NS)) == [1]
        node.stop_stage("encoder")
        assert hear(child) == "stopped"
        assert child.wait(20) == 0


def test_bytes_that_are_no_message_raise_once_and_cost_no_sound_message(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = shared_memory.encode_sized
    with run.node() as node:
        inbox, outlet = node.inbox("encoder", [FORTH]), node.outlet(FORTH, "encoder")
        outlet.send(announcement(0))
        monkeypatch.setattr(shared_memory, "encode_sized", lambda *args: (b"\0" * shared_memory.HEADER_BYTES, [], 0))
        outlet.send(announcement(1))
        monkeypatch.setattr(shared_memory, "encode_sized", genuine)
        outlet.send(announcement(2))
        assert seqs(inbox.receive(LONG_NS)) == [0, 2]
        with pytest.raises(LinkError, match=rf"edge camera>encoder: wire magic 0x00000000 is not 0x{MAGIC:x}"):
            inbox.receive(LONG_NS)
        assert inbox.receive(0) == []


def test_an_orderly_end_and_a_sweep_leave_nothing_of_the_run(run: Run) -> None:
    with run.node(owner=True) as node:
        inbox, outlet = node.inbox("encoder", [FORTH]), node.outlet(FORTH, "encoder")
        outlet.send(announcement(1))
        assert inbox.receive(None)
        assert run.files()
    sweep(run.id, run.root)
    assert not run.files()
    assert not run.root.exists()


def test_sweep_removes_what_a_killed_process_left(run: Run, root_parent: Path) -> None:
    child = run.start("hold")
    assert hear(child) == "ready"
    kill(child)
    assert run.files()
    bystander = root_parent / "bystander"
    bystander.write_text("stays")
    assert sweep(run.id, run.root) > 0
    assert not run.files()
    assert not run.root.exists()
    assert bystander.exists()


def test_sweep_dead_takes_runs_of_dead_owners_only(run: Run, root_parent: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from pipeline.links.shared_memory import SharedMemoryNode\n"
        "SharedMemoryNode(sys.argv[1], Path(sys.argv[2]), owner=True).__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    dead = f"{run.id}-d"
    command = [sys.executable, "-c", code, dead, str(root_parent / dead)]
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=False).returncode == -9
    (root_parent / "not ours").mkdir()
    (root_parent / "unowned").mkdir()
    with run.node(owner=True) as node:
        inbox, outlet = node.inbox("encoder", [FORTH]), node.outlet(FORTH, "encoder")
        assert sweep_dead(root_parent) == [dead]
        assert not (root_parent / dead).exists()
        assert not list(MEMORY_FOLDER.glob(f"chiasm_{dead}_*"))
        outlet.send(announcement(1))
        assert seqs(inbox.receive(LONG_NS)) == [1]
    assert sweep_dead(root_parent / "absent") == []
    assert (root_parent / "not ours").exists()
    assert (root_parent / "unowned").exists()


def test_too_little_shared_memory_is_refused_with_size_and_fix(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory.os, "statvfs", lambda path: SimpleNamespace(f_bavail=1000, f_frsize=1000))
    edge = EdgeSpec(name="camera>encoder", capacity=4, max_bytes=900_000)
    small = EdgeSpec(name="text>encoder", capacity=4, max_bytes=64)
    with run.node() as node:
        with pytest.raises(
            LinkError, match=r"too small: stage encoder \(1 edges\) needs 15\.3 MB, 1\.0 MB are free; run with --inline"
        ):
            node.inbox("encoder", [edge])
        with pytest.raises(LinkError, match=r"edge camera>encoder needs 15\.3 MB"):
            node.outlet(edge, "encoder")
        outlet = node.outlet(small, "encoder")
        frame = Frame(
            header=Header(stream="camera", seq=1, capture_ns=1, receive_ns=1), image_hwc=np.zeros((300, 200, 3), np.uint8)
        )
        with pytest.raises(LinkError, match="for a message of 180000 bytes"):
            outlet.send(frame)
        outlet.send(announcement(1))


def test_names_and_sizes_out_of_bounds_are_refused(run: Run) -> None:
    with pytest.raises(LinkError, match="run id"):
        SharedMemoryNode("../x", run.root)
    with pytest.raises(LinkError, match="too long for sockets"), SharedMemoryNode(run.id, run.root / ("x" * 60)):
        pass
    with pytest.raises(LinkError, match="capacity 0"):
        EdgeSpec(name="a>b", capacity=0, max_bytes=1)
    with pytest.raises(LinkError, match="edge 'a b'"):
        EdgeSpec(name="a b", capacity=1, max_bytes=1)
    with pytest.raises(LinkError, match="max_bytes"):
        EdgeSpec(name="a>b", capacity=1, max_bytes=2**40)
    edge = EdgeSpec(name="a>b", capacity=1, max_bytes=1)
    with run.node() as node:
        with pytest.raises(LinkError, match="share a name"):
            node.inbox("b", [edge, edge])
        with pytest.raises(LinkError, match="stage"):
            node.inbox("b c", [edge])


def test_two_runs_at_once_do_not_hear_each_other(run: Run, root_parent: Path) -> None:
    other = Run(root_parent)
    with run.node() as one, other.node() as two:
        inbox_one, inbox_two = one.inbox("encoder", [FORTH]), two.inbox("encoder", [FORTH])
        outlet = two.outlet(FORTH, "encoder")
        outlet.send(announcement(1))
        assert seqs(inbox_two.receive(LONG_NS)) == [1]
        assert inbox_one.receive(0) == []
    sweep(other.id, other.root)
    assert not other.files()


def test_closed_ends_refuse_to_work_and_close_twice(run: Run) -> None:
    with run.node() as node:
        inbox, outlet = node.inbox("encoder", [FORTH]), node.outlet(FORTH, "encoder")
        for _ in range(2):
            inbox.close()
            outlet.close()
        with pytest.raises(LinkError, match="closed"):
            outlet.send(announcement(1))
        with pytest.raises(LinkError, match="closed"):
            inbox.receive(0)
