"""The other process of test_shared_memory.py: `python second_process.py ROLE RUN_ID ROOT`.

It says what it does on stdout, a line each, and goes on when it reads a line from stdin (or at its end).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from samples import announcement, every_kind, identical

from pipeline.links import EdgeSpec, shared_memory
from pipeline.links.shared_memory import SharedMemoryNode
from pipeline.messages import Announcement

FORTH = EdgeSpec(name="camera>encoder", capacity=4, max_bytes=200_000)
BACK = EdgeSpec(name="encoder>camera", capacity=32, max_bytes=1_000)


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def echo(node: SharedMemoryNode) -> None:
    """Send back all that comes, until the stop event."""
    inbox, outlet = node.inbox("encoder", [FORTH]), node.outlet(BACK, "camera")
    say("ready")
    while not inbox.stopped:
        for _, message in inbox.receive(None):
            outlet.send(message)
    say("stopped")


def check(node: SharedMemoryNode) -> None:
    """Compare what comes with every kind of message, in order."""
    inbox = node.inbox("encoder", [FORTH])
    say("ready")
    for expected in every_kind():
        received = inbox.receive(20_000_000_000)
        say("same" if len(received) == 1 and identical(received[0][1], expected) else f"{expected} != {received}")


def hold(node: SharedMemoryNode) -> None:
    """Receive one batch and hold it."""
    inbox = node.inbox("encoder", [FORTH])
    say("ready")
    batch = inbox.receive(20_000_000_000)
    first = batch[0][1]
    say(f"holding {first.header.seq}" if isinstance(first, Announcement) else "holding")
    sys.stdin.readline()


def send(node: SharedMemoryNode) -> None:
    """Send as many announcements as each line read says."""
    outlet = node.outlet(FORTH, "encoder")
    say("ready")
    seq = 0
    for line in sys.stdin:
        for _ in range(int(line)):
            outlet.send(announcement(seq))
            seq += 1
        say("sent")


def die_sending(node: SharedMemoryNode) -> None:
    """Send three messages; die with the fourth half written into its loan."""
    outlet = node.outlet(FORTH, "encoder")
    for seq in range(3):
        outlet.send(announcement(seq))
    genuine = shared_memory.ctypes.memmove

    def last_copy(*args: Any) -> None:
        genuine(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    shared_memory.ctypes.memmove = last_copy  # type: ignore[assignment]
    outlet.send(announcement(3))


if __name__ == "__main__":
    role, run_id, root = sys.argv[1:]
    with SharedMemoryNode(run_id, Path(root)) as the_node:
        globals()[role](the_node)
