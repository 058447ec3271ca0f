"""NVIDIA Holoscan, all in one process on the CPU: operators for the sensors, the encoders and fusion, arrays passed by reference.

One operator waits for whatever sensor is due next, under the greedy scheduler. An operator a sensor under the event-based
scheduler, the other natural way, was tried: it took 45 ms a decision here, since an operator that waits is looked at again only
at the next event.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from holoscan.conditions import CountCondition
from holoscan.core import Application, Operator, OperatorSpec
from holoscan.schedulers import GreedyScheduler

from actors.host import settle_process, sharpen_timers
from benchmarks.peers.job import Encoders, Job, Joiner
from benchmarks.peers.rendezvous import meet


class Sensors(Operator):
    """All sensors: emits each sample when it is due."""

    def __init__(self, fragment: Any, job: Job, origin_ns: int) -> None:
        self._samples = job.paced(origin_ns, *job.streams)
        super().__init__(fragment, CountCondition(fragment, len(job.index)), name="sensors")

    def setup(self, spec: OperatorSpec) -> None:
        """One output."""
        spec.output("sample")

    def compute(self, _inputs: Any, outputs: Any, _context: Any) -> None:
        """The next sample, once it is due."""
        ticket, payload = next(self._samples)
        outputs.emit((ticket, np.asarray(payload)), "sample")


class Encoder(Operator):
    """All encoders."""

    def __init__(self, fragment: Any, encoders: Encoders) -> None:
        self._encoders = encoders
        super().__init__(fragment, name="encoder")

    def setup(self, spec: OperatorSpec) -> None:
        """Samples in, tokens out."""
        spec.input("sample")
        spec.output("tokens")

    def compute(self, inputs: Any, outputs: Any, _context: Any) -> None:
        """One sample."""
        if made := self._encoders.encode(*inputs.receive("sample")):
            outputs.emit(made, "tokens")


class Fusion(Operator):
    """Joins, fuses, decides."""

    def __init__(self, fragment: Any, joiner: Joiner) -> None:
        self._joiner = joiner
        super().__init__(fragment, name="fusion")

    def setup(self, spec: OperatorSpec) -> None:
        """Tokens in."""
        spec.input("tokens")

    def compute(self, inputs: Any, _outputs: Any, _context: Any) -> None:
        """One sample's windows."""
        for encoded, values in inputs.receive("tokens"):
            self._joiner.take(encoded, values)


class Play(Application):
    """The graph."""

    def __init__(self, job: Job, encoders: Encoders, joiner: Joiner) -> None:
        super().__init__()
        self._job, self._encoders, self._joiner = job, encoders, joiner

    def compose(self) -> None:
        """Sensors to encoders to fusion."""
        encoder = Encoder(self, self._encoders)
        self.add_flow(Sensors(self, self._job, self._joiner.origin_ns), encoder)
        self.add_flow(encoder, Fusion(self, self._joiner))


def main(job_folder: Path, out: Path) -> None:
    """Play the job."""
    job = Job(job_folder)
    with Encoders(job, *job.streams) as encoders, Joiner(job) as joiner:
        settle_process()
        sharpen_timers()
        joiner.origin_ns = meet(out, "app")
        app = Play(job, encoders, joiner)
        app.scheduler(GreedyScheduler(app))
        app.run()
        joiner.save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
