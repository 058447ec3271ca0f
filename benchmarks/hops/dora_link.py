"""A hop between two dora-rs nodes."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pyarrow as pa
from dora import Node

from actors.host import settle_process, sharpen_timers
from benchmarks.hops.schedule import Arrivals, Schedule
from benchmarks.peers.dora_nodes import node_of, run_dataflow, wait_for_stop
from benchmarks.peers.rendezvous import meet

QUEUED = 64


def send(spec: Path, out: Path, sender: int) -> None:
    """One sender."""
    node = Node()
    settle_process()
    sharpen_timers()
    for _, _, payload in Schedule.load(spec).payloads(meet(out, f"sender{sender}"), sender):
        node.send_output("hop", pa.array(payload))
    wait_for_stop(node)


def receive(spec: Path, out: Path) -> None:
    """The receiver reads in place."""
    node = Node()
    arrivals = Arrivals(Schedule.load(spec), out)
    settle_process()
    sharpen_timers()
    arrivals.begin(meet(out, "receiver"))
    for event in node:
        if event["type"] == "INPUT":
            arrivals.note(event["value"].to_numpy())


def main(spec: Path, out: Path) -> None:
    """Play the schedule."""
    names = [f"sender{k}" for k in range(Schedule.load(spec).senders)]
    node = partial(node_of, "benchmarks.hops.dora_link", given=spec, out=out, queued=QUEUED)
    senders = [node(name, inputs={}, outputs=["hop"]) for name in names]
    receiver = node("receiver", inputs={name: f"{name}/hop" for name in names}, outputs=[])
    run_dataflow([*senders, receiver], out, "received.npy")


if __name__ == "__main__":
    if sys.argv[1] == "receiver":
        receive(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1].startswith("sender"):
        send(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[1].removeprefix("sender")))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
