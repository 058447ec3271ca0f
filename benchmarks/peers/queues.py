"""Python's own multiprocessing: a process a source, one for the encoders, one for fusion, and queues between them.

`SimpleQueue` writes into its pipe at once; `Queue` would hand each message to a thread first.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from actors.host import settle_process, sharpen_timers
from benchmarks.peers.job import Encoders, Job, Joiner
from benchmarks.peers.rendezvous import meet


def source(job_folder: Path, out: Path, stream: str, samples: Any) -> None:
    """One sensor."""
    job = Job(job_folder)
    settle_process()
    sharpen_timers()
    for ticket, payload in job.paced(meet(out, stream), stream):
        samples.put((ticket, np.asarray(payload)))
    threading.Event().wait()  # until it is ended with the rest, so that what it cost can still be read


def encoder(job_folder: Path, out: Path, samples: Any, tokens: Any) -> None:
    """All encoders."""
    job = Job(job_folder)
    with Encoders(job, *job.streams) as encoders:
        settle_process()
        meet(out, "encoder")
        while True:
            ticket, payload = samples.get()
            for encoded, values in encoders.encode(ticket, payload):
                tokens.put((encoded, values))


def fusion(job_folder: Path, out: Path, tokens: Any) -> None:
    """Joins, fuses, decides; ends the run."""
    job = Job(job_folder)
    with Joiner(job) as joiner:
        settle_process()
        joiner.origin_ns = meet(out, "fusion")
        while not joiner.done:
            joiner.take(*tokens.get())
        joiner.save(out)


def main(job_folder: Path, out: Path) -> None:
    """Play the job."""
    context = multiprocessing.get_context("spawn")
    samples, tokens = context.SimpleQueue(), context.SimpleQueue()
    sources = [context.Process(target=source, args=(job_folder, out, s, samples), daemon=True) for s in Job(job_folder).streams]
    others = [
        context.Process(target=encoder, args=(job_folder, out, samples, tokens), daemon=True),
        context.Process(target=fusion, args=(job_folder, out, tokens), daemon=True),
    ]
    for process in (*sources, *others):
        process.start()
    others[-1].join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
