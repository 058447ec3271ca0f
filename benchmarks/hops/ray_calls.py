"""A hop between two Ray actors: ``actors``, by calling each other; ``graph``, over a channel of a compiled graph."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.dag import InputNode, MultiOutputNode

from actors.deploy import start_ray
from actors.host import settle_process, sharpen_timers
from benchmarks.hops.schedule import Arrivals, Schedule
from benchmarks.peers.rendezvous import meet

STORE_BYTES = 2**30
IN_FLIGHT = 16
"""Calls that a sender leaves unanswered: more would pile up in the object store."""
AHEAD = 2
"""Ticks of a graph that are started before they are due."""


@ray.remote(num_cpus=0)
class Receiver:
    """Notes what comes."""

    def __init__(self, spec: Path, out: Path) -> None:
        self._arrivals = Arrivals(Schedule.load(spec), out)

    def begin(self, origin_ns: int) -> None:
        """Once the origin is known."""
        settle_process()
        self._arrivals.begin(origin_ns)

    def begin_when_met(self, out: Path) -> None:
        """The same for a graph, which lets no other call through once it runs."""
        threading.Thread(target=lambda: self.begin(meet(out, "receiver")), daemon=True).start()

    def end(self) -> None:
        """Does not return: the process ends when the schedule does."""
        time.sleep(60)

    def take(self, *payloads: NDArray[np.uint8]) -> None:
        """One message of each sender that calls."""
        for payload in payloads:
            self._arrivals.note(payload)


@ray.remote(num_cpus=0)
class Sender:
    """Calls the receiver on schedule."""

    def __init__(self, spec: Path) -> None:
        self._schedule = Schedule.load(spec)
        self._payloads: Any = None
        settle_process()

    def play(self, out: Path, sender: int, receiver: Any) -> None:
        """The whole schedule."""
        sharpen_timers()
        in_flight: list[Any] = []
        for _, _, payload in self._schedule.payloads(meet(out, f"sender{sender}"), sender):
            in_flight.append(receiver.take.remote(payload))
            if len(in_flight) >= IN_FLIGHT:
                _, in_flight = ray.wait(in_flight, num_returns=len(in_flight) // 2)

    def next_payload(self, begin: tuple[int, int]) -> NDArray[np.uint8]:
        """For a graph, given the origin and which sender this is: the next payload, once it is due."""
        if self._payloads is None:
            self._payloads = self._schedule.payloads(*begin)
        return next(self._payloads)[2]


def by_calls(schedule: Schedule, spec: Path, out: Path, receiver: Any) -> None:
    """Each sender an actor that calls the receiver."""
    senders = [Sender.remote(spec) for _ in range(schedule.senders)]
    played = [sender.play.remote(out, k, receiver) for k, sender in enumerate(senders)]
    ray.get(receiver.begin.remote(meet(out, "driver")))
    ray.get(played)
    ray.get(receiver.end.remote())


def by_graph(schedule: Schedule, spec: Path, out: Path, receiver: Any) -> None:
    """Each tick of the graph is one message of each sender; the driver only starts ticks, and is ahead by as many as are in
    flight.
    """
    senders = [Sender.remote(spec) for _ in range(schedule.senders)]
    with InputNode() as begin:
        dag = MultiOutputNode([receiver.take.bind(*(sender.next_payload.bind(begin[k]) for k, sender in enumerate(senders)))])
    largest = max(p.size for p in schedule.phases)
    ray.get(receiver.begin_when_met.remote(out))
    graph = dag.experimental_compile(_buffer_size_bytes=2 * largest, _max_inflight_executions=IN_FLIGHT)
    origin_ns = meet(out, "driver")
    waiting: list[Any] = []
    for _ in range(sum(p.count for p in schedule.phases)):
        waiting.append(graph.execute(*((origin_ns, k) for k in range(schedule.senders))))
        if len(waiting) > AHEAD:
            ray.get(waiting.pop(0))
    while not (out / "received.npy").exists():
        time.sleep(0.1)


def main(kind: str, spec: Path, out: Path) -> None:
    """Play the schedule."""
    start_ray(None, STORE_BYTES)
    schedule = Schedule.load(spec)
    receiver = Receiver.remote(spec, out)
    try:
        {"actors": by_calls, "graph": by_graph}[kind](schedule, spec, out, receiver)
    except ray.exceptions.RayError:
        if not (out / "received.npy").exists():  # else the receiver has ended itself
            raise
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
