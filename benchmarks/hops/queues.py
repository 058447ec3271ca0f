"""A hop through a `multiprocessing.SimpleQueue`."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

from actors.host import settle_process, sharpen_timers
from benchmarks.hops.schedule import Arrivals, Schedule
from benchmarks.peers.rendezvous import meet


def send(spec: Path, out: Path, queue: Any, sender: int) -> None:
    """One sender."""
    settle_process()
    sharpen_timers()
    for _, _, payload in Schedule.load(spec).payloads(meet(out, f"sender{sender}"), sender):
        queue.put(payload)


def receive(spec: Path, out: Path, queue: Any) -> None:
    """The receiver."""
    arrivals = Arrivals(Schedule.load(spec), out)
    settle_process()
    sharpen_timers()
    arrivals.begin(meet(out, "receiver"))
    while True:
        arrivals.note(queue.get())


def main(spec: Path, out: Path) -> None:
    """Play the schedule."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    receiver = context.Process(target=receive, args=(spec, out, queue), daemon=True)
    receiver.start()
    for sender in range(Schedule.load(spec).senders):
        context.Process(target=send, args=(spec, out, queue, sender), daemon=True).start()
    receiver.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
