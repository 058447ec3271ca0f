"""No runtime at all: one loop sleeps until a sample is due, encodes it, fuses. The floor of what the job takes."""

from __future__ import annotations

import sys
from pathlib import Path

from actors.host import settle_process, sharpen_timers
from benchmarks.peers.job import Encoders, Job, Joiner
from benchmarks.peers.rendezvous import meet


def main(job_folder: Path, out: Path) -> None:
    """Play the job."""
    job = Job(job_folder)
    with Encoders(job, *job.streams) as encoders, Joiner(job) as joiner:
        settle_process()
        sharpen_timers()
        joiner.origin_ns = meet(out, "loop")
        for ticket, payload in job.paced(joiner.origin_ns, *job.streams):
            for encoded, values in encoders.encode(ticket, payload):
                joiner.take(encoded, values)
        joiner.save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
