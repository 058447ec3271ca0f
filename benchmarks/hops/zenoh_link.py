"""A hop through zenoh, on its shared memory where the message is large."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

import zenoh

from actors.host import settle_process, sharpen_timers
from benchmarks.hops.schedule import Arrivals, Schedule
from benchmarks.peers.rendezvous import meet
from benchmarks.peers.zenoh_nodes import QUEUED, Sender, session

STAY_S = 5


def send(spec: Path, out: Path, sender: int) -> None:
    """One sender."""
    schedule = Schedule.load(spec)
    with session(out, connect=("receiver",)) as opened:
        publisher = Sender(opened, f"hop/{sender}")
        settle_process()
        sharpen_timers()
        for _, _, payload in schedule.payloads(meet(out, f"sender{sender}"), sender):
            publisher.send(None, payload)
        time.sleep(STAY_S)


def receive(spec: Path, out: Path) -> None:
    """The receiver; what is large it reads in place."""
    arrivals = Arrivals(Schedule.load(spec), out)
    with session(out, listen="receiver") as opened:
        messages = opened.declare_subscriber("hop/*", zenoh.handlers.FifoChannel(QUEUED))
        settle_process()
        sharpen_timers()
        arrivals.begin(meet(out, "receiver"))
        while True:
            arrivals.note(messages.recv().payload.to_bytes())


def main(spec: Path, out: Path) -> None:
    """Play the schedule."""
    context = multiprocessing.get_context("spawn")
    receiver = context.Process(target=receive, args=(spec, out), daemon=True)
    receiver.start()
    for sender in range(Schedule.load(spec).senders):
        context.Process(target=send, args=(spec, out, sender), daemon=True).start()
    receiver.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
