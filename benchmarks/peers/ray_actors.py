"""Plain Ray: an actor a source, one for the encoders, one for fusion, and calls between them; nobody waits for a result."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from actors.deploy import start_ray
from actors.host import settle_process, sharpen_timers
from benchmarks.peers.job import Encoded, Encoders, Job, Joiner, Ticket
from benchmarks.peers.rendezvous import meet

STORE_BYTES = 2**29


@ray.remote(num_cpus=0)
class Source:
    """One sensor."""

    def __init__(self, job_folder: Path) -> None:
        self._job = Job(job_folder)

    def play(self, out: Path, stream: str, encoder: Any) -> None:
        """To its end."""
        settle_process()
        sharpen_timers()
        for ticket, payload in self._job.paced(meet(out, stream), stream):
            encoder.take.remote(ticket, np.asarray(payload))


@ray.remote(num_cpus=0)
class Encoder:
    """All encoders."""

    def __init__(self, job_folder: Path, fusion: Any) -> None:
        job = Job(job_folder)
        self._encoders, self._fusion = Encoders(job, *job.streams).__enter__(), fusion

    def ready(self) -> None:
        """Called once it is."""
        settle_process()

    def take(self, ticket: Ticket, payload: NDArray[np.uint8]) -> None:
        """One sample."""
        for encoded, values in self._encoders.encode(ticket, payload):
            self._fusion.take.remote(encoded, values)


@ray.remote(num_cpus=0)
class Fusion:
    """Joins, fuses, decides."""

    def __init__(self, job_folder: Path) -> None:
        self._joiner = Joiner(Job(job_folder)).__enter__()

    def begin(self, origin_ns: int) -> None:
        """Called once the origin is known."""
        settle_process()
        self._joiner.origin_ns = origin_ns

    def take(self, encoded: Encoded, values: NDArray[np.float32]) -> None:
        """One window's tokens."""
        self._joiner.take(encoded, values)

    def save(self, out: Path) -> bool:
        """Write what was decided, once all is."""
        if self._joiner.done:
            self._joiner.save(out)
        return self._joiner.done


def main(job_folder: Path, out: Path) -> None:
    """Play the job."""
    start_ray(None, STORE_BYTES)  # workers at niceness 0, as Chiasm's own
    job = Job(job_folder)
    fusion = Fusion.remote(job_folder)
    encoder = Encoder.remote(job_folder, fusion)
    sources = {stream: Source.remote(job_folder) for stream in job.streams}
    ray.get(encoder.ready.remote())
    played = [source.play.remote(out, stream, encoder) for stream, source in sources.items()]
    ray.get(fusion.begin.remote(meet(out, "driver")))
    ray.get(played)
    until = time.monotonic() + 5
    while time.monotonic() < until and not ray.get(fusion.save.remote(out)):
        time.sleep(0.1)
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
