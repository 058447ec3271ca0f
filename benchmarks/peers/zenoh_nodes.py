"""zenoh: a process a source, one for the encoders, one for fusion; frames through its shared memory, the rest in messages.

A flat network on one host: the encoder and fusion listen on a socket of their own, nobody scouts.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import zenoh

from actors.host import settle_process, sharpen_timers
from benchmarks.peers.job import Encoders, Job, Joiner
from benchmarks.peers.rendezvous import meet

SHARED_BYTES = 64 * 2**20
SMALL_BYTES = 16 * 1024
"""Below this a message is copied anyway: shared memory would cost more."""
QUEUED = 1024


def session(out: Path, *, listen: str | None = None, connect: tuple[str, ...] = ()) -> Any:
    """A session among peers, over unix sockets in the run's folder."""
    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("transport/shared_memory/enabled", "true")
    config.insert_json5("listen/endpoints", json.dumps([f"unixsock-stream/{out}/{listen}"] if listen else []))
    config.insert_json5("connect/endpoints", json.dumps([f"unixsock-stream/{out}/{name}" for name in connect]))
    config.insert_json5("connect/timeout_ms", "30000")
    return zenoh.open(config)


class Sender:
    """A publisher that puts what is large into shared memory."""

    def __init__(self, opened: Any, key: str) -> None:
        self._publisher = opened.declare_publisher(
            key,
            congestion_control=zenoh.CongestionControl.BLOCK,
            reliability=zenoh.Reliability.RELIABLE,
            priority=zenoh.Priority.REAL_TIME,
            express=True,
        )
        self._provider: Any = None

    def send(self, about: Any, payload: np.ndarray[Any, Any]) -> None:
        """One message: ``about`` travels beside the payload."""
        raw = payload.reshape(-1).view(np.uint8)
        if raw.size < SMALL_BYTES:
            self._publisher.put(raw.tobytes(), attachment=pickle.dumps(about))
            return
        if self._provider is None:
            self._provider = zenoh.shm.ShmProvider.default_backend(SHARED_BYTES)
        buffer = self._provider.alloc(raw.size, policy=zenoh.shm.BlockOn(zenoh.shm.GarbageCollect()))
        buffer[0 : raw.size] = raw.tobytes()
        self._publisher.put(buffer, attachment=pickle.dumps(about))


def received(sample: Any) -> tuple[Any, np.ndarray[Any, Any]]:
    """What was sent with it, and its bytes."""
    return pickle.loads(sample.attachment.to_bytes()), np.frombuffer(sample.payload.to_bytes(), np.uint8)


def source(job_folder: Path, out: Path, stream: str) -> None:
    """One sensor."""
    job = Job(job_folder)
    with session(out, connect=("encoder",)) as opened:
        sender = Sender(opened, f"sample/{stream}")
        settle_process()
        sharpen_timers()
        for ticket, payload in job.paced(meet(out, stream), stream):
            sender.send(ticket, np.asarray(payload))
        threading.Event().wait()  # a source that leaves takes with it what it still shares


def encoder(job_folder: Path, out: Path) -> None:
    """All encoders."""
    job = Job(job_folder)
    with session(out, listen="encoder", connect=("fusion",)) as opened, Encoders(job, *job.streams) as encoders:
        samples = opened.declare_subscriber("sample/*", zenoh.handlers.FifoChannel(QUEUED))
        sender = Sender(opened, "tokens")
        settle_process()
        meet(out, "encoder")
        while True:
            for encoded, values in encoders.encode(*received(samples.recv())):
                sender.send((encoded, values.shape), values)


def fusion(job_folder: Path, out: Path) -> None:
    """Joins, fuses, decides; ends the run."""
    job = Job(job_folder)
    with session(out, listen="fusion") as opened, Joiner(job) as joiner:
        tokens = opened.declare_subscriber("tokens", zenoh.handlers.FifoChannel(QUEUED))
        settle_process()
        joiner.origin_ns = meet(out, "fusion")
        while not joiner.done:
            (encoded, shape), raw = received(tokens.recv())
            joiner.take(encoded, raw.view(np.float32).reshape(shape))
        joiner.save(out)


def main(job_folder: Path, out: Path) -> None:
    """Play the job."""
    context = multiprocessing.get_context("spawn")
    last = context.Process(target=fusion, args=(job_folder, out), daemon=True)
    others = [context.Process(target=encoder, args=(job_folder, out), daemon=True)]
    others += [context.Process(target=source, args=(job_folder, out, s), daemon=True) for s in Job(job_folder).streams]
    for process in (last, *others):
        process.start()
    last.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
