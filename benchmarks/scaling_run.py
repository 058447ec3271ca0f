"""One of several runs that share a machine: ``python -m benchmarks.scaling_run SCENARIO SOURCES SECONDS FOLDER NAME``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from actors.inline import InlineRun
from benchmarks.peers.rendezvous import meet
from pipeline.cli.planning import plan_live
from pipeline.messages import Decision

SETTLE_S = 2.5


def phase(number: int) -> float:
    """How much later than the first a run begins, in s, below 1: sensors of different patients do not tick together.

    Multiples of the golden ratio lie evenly, however many there are.
    """
    return number * 0.6180339887 % 1.0


def main(scenario: str, sources: list[str], seconds: float, folder: Path, name: str) -> None:
    """Play it inline; what it cost and how late its decisions were, after settling."""
    planned = plan_live(scenario, sources, [], duration=f"{seconds}s")
    decisions: list[Decision] = []
    began: list[tuple[int, float]] = []

    def took(batch: list[Decision]) -> None:
        decisions.extend(batch)
        if not began and batch[-1].reference_ns >= origin[0] + SETTLE_S * 1e9:
            began.append((batch[-1].reference_ns, time.process_time()))

    origin: list[int] = []
    run = InlineRun(planned.plan, on_decisions=took, on_start=lambda origin_ns, _: origin.append(origin_ns))
    meet(folder, name)
    time.sleep(phase(int(name.removeprefix("run"))))
    run.run()
    from_ns, cpu_s = began[0]
    counted = [d for d in decisions if d.reference_ns > from_ns]
    result = {
        "cpu_s": time.process_time() - cpu_s,
        "latency_ns": [d.latency_ns for d in counted],
        "missed": sum(d.status in ("late", "skipped") for d in counted),
    }
    (folder / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], [s for s in sys.argv[2].split(",") if s], float(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
