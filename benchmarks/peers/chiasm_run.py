"""The job on Chiasm itself: ``ray`` or ``inline``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from actors.deploy import RayRun
from actors.inline import InlineRun
from benchmarks.peers.job import SCENARIO, Job, job_plan, save_decisions
from benchmarks.peers.rendezvous import set_origin
from pipeline.cli.planning import plan_live
from pipeline.messages import Decision
from pipeline.sources.base import StreamInfo


def main(kind: str, job_folder: Path, out: Path, *options: str) -> None:
    """Play the job; ``options`` are overrides of the scenario, and ``record`` to write a log beside."""
    job = Job(job_folder)
    record = out / "recorded.mcap" if "record" in options else None
    sources = [f"{stream}=log:{job_folder / 'job.mcap'}" for stream in job.streams]
    planned = plan_live(SCENARIO, sources, [o for o in options if o != "record"], record=record)
    decisions: list[Decision] = []
    origin: list[int] = []

    def began(origin_ns: int, _infos: dict[str, StreamInfo]) -> None:
        origin.append(origin_ns)
        set_origin(out, origin_ns)

    run = (RayRun if kind == "ray" else InlineRun)(planned.plan, on_decisions=decisions.extend, on_start=began)
    summary = run.run()
    for line in summary.failures:
        print(line, file=sys.stderr)
    save_chiasm(job, out, origin[0], decisions)


def save_chiasm(job: Job, out: Path, origin_ns: int, decisions: list[Decision]) -> None:
    """Its decisions in the form of all contenders: a sample is due when the job says, not when it was noticed."""
    due = {(job.streams[row["stream"]], int(row["capture_ns"])): int(row["due_ns"]) for row in job.index}
    scenario = job_plan().scenario
    actions = scenario.heads[scenario.policy.action_head].labels
    rows, outputs = [], []
    for decision in decisions:
        stamps = decision.receipt.stamps if decision.receipt is not None else None
        if decision.status == "skipped" or stamps is None:
            continue
        reference_ns = decision.reference_ns - origin_ns
        last = max(stamps.streams, key=lambda s: s.arrived_ns)
        if not last.arrived_ns:  # an overrun: it went without what it waited for, the frame at least
            last = replace(last, stream="camera", capture_ns=decision.reference_ns)
        rows.append({
            "reference_ns": reference_ns,
            "publish_ns": decision.publish_ns - origin_ns,
            "due_ns": due.get((last.stream, last.capture_ns - origin_ns), reference_ns),
            "encode_ns": last.encoded_ns - last.encode_start_ns,
            "fuse_ns": stamps.fused_ns - stamps.fuse_start_ns,
            "action": actions.index(decision.action),
        })  # fmt: skip
        outputs.append(np.concatenate([decision.outputs[head] for head in sorted(decision.outputs)]))
    save_decisions(out, rows, outputs)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
