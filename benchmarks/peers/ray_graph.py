"""A Ray compiled graph: the driver reads the sensors and ticks, one actor encodes, one fuses; channels of shared memory between.

A compiled graph moves in lockstep, so each frame is one tick, with whatever the other sensors brought until it was complete.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.dag import InputNode

from actors.deploy import start_ray
from actors.host import settle_process, sharpen_timers
from benchmarks.peers.job import Encoded, Encoders, Job, Joiner, Ticket
from benchmarks.peers.rendezvous import meet

CHANNEL_BYTES = 2**20
STORE_BYTES = 2**29
Samples = list[tuple[Ticket, NDArray[np.uint8]]]


@ray.remote(num_cpus=0)
class Encoder:
    """All encoders."""

    def __init__(self, job_folder: Path) -> None:
        job = Job(job_folder)
        self._encoders = Encoders(job, *job.streams).__enter__()
        settle_process()

    def encode(self, samples: Samples) -> list[tuple[Encoded, NDArray[np.float32]]]:
        """One tick's."""
        made = (self._encoders.encode(ticket, payload) for ticket, payload in samples)
        return [(encoded, values.copy()) for windows in made for encoded, values in windows]


@ray.remote(num_cpus=0)
class Fusion:
    """Joins, fuses, decides."""

    def __init__(self, job_folder: Path) -> None:
        self._joiner = Joiner(Job(job_folder)).__enter__()
        settle_process()

    def fuse(self, tokens: list[tuple[Encoded, NDArray[np.float32]]]) -> int:
        """One tick's; how many decisions there are now."""
        for encoded, values in tokens:
            self._joiner.take(encoded, values)
        return len(self._joiner.rows)

    def save(self, out: Path, origin_ns: int) -> None:
        """Write what was decided."""
        self._joiner.origin_ns = origin_ns
        self._joiner.save(out)


def ticks(job: Job) -> Iterator[tuple[int, Samples]]:
    """When each tick is due, and its samples: all that were captured by its reference time and not sent yet."""
    samples = sorted(job.samples(*job.streams), key=lambda s: s[0].capture_ns)
    place = 0
    for reference_ns in job.references_ns:
        first = place
        while place < len(samples) and samples[place][0].capture_ns <= reference_ns:
            place += 1
        taken = sorted(samples[first:place], key=lambda s: s[0].due_ns)
        yield max(t.due_ns for t, _ in taken), [(t, np.asarray(p)) for t, p in taken]


def main(job_folder: Path, out: Path) -> None:
    """Play the job."""
    start_ray(None, STORE_BYTES)
    job = Job(job_folder)
    encoder: Any = Encoder.remote(job_folder)
    fusion: Any = Fusion.remote(job_folder)
    with InputNode() as samples:
        dag = fusion.fuse.bind(encoder.encode.bind(samples))
    graph = dag.experimental_compile(_buffer_size_bytes=CHANNEL_BYTES)
    prepared = list(ticks(job))
    settle_process()
    sharpen_timers()
    origin_ns = meet(out, "driver")
    for due_ns, batch in prepared:
        time.sleep(max(0, origin_ns + due_ns - time.monotonic_ns()) / 1e9)
        ray.get(graph.execute(batch))
    graph.teardown()
    ray.get(fusion.save.remote(out, origin_ns))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
