"""dora-rs: a node a source, one for the encoders, one for fusion. dora itself moves what is large through shared memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from dora import Node

from actors.host import settle_process, sharpen_timers
from benchmarks.peers.job import Encoded, Encoders, Job, Joiner, Ticket
from benchmarks.peers.rendezvous import meet

QUEUED = 1024


def source(job: Job, out: Path, stream: str) -> None:
    """One sensor."""
    node = Node()
    settle_process()
    sharpen_timers()
    for ticket, payload in job.paced(meet(out, stream), stream):
        node.send_output("sample", pa.array(np.asarray(payload)), ticket._asdict())
    wait_for_stop(node)


def encoder(job: Job, out: Path) -> None:
    """All encoders."""
    node = Node()
    with Encoders(job, *job.streams) as encoders:
        settle_process()
        meet(out, "encoder")
        for event in node:
            if event["type"] == "STOP":
                return
            if event["type"] == "INPUT":
                ticket = Ticket(*(event["metadata"][name] for name in Ticket._fields))
                for encoded, values in encoders.encode(ticket, event["value"].to_numpy()):
                    node.send_output("tokens", pa.array(values.reshape(-1)), {**encoded._asdict(), "rows": len(values)})


def fusion(job: Job, out: Path) -> None:
    """Joins, fuses, decides; its end ends the run."""
    node = Node()
    with Joiner(job) as joiner:
        settle_process()
        joiner.origin_ns = meet(out, "fusion")
        for event in node:
            if event["type"] == "INPUT":
                about = event["metadata"]
                values = event["value"].to_numpy().reshape(about["rows"], -1)
                joiner.take(Encoded(*(about[name] for name in Encoded._fields)), values)
            if joiner.done:
                break
        joiner.save(out)
    (out / "done").touch()


def wait_for_stop(node: Any) -> None:
    """A node that leaves takes with it what it still shares."""
    for event in node:
        if event["type"] == "STOP":
            return


def node_of(
    module: str, name: str, *, given: Path, out: Path, inputs: dict[str, str], outputs: list[str], queued: int = QUEUED
) -> dict[str, Any]:
    """A node in dora's terms: a Python module that is told its name, and where what it needs lies."""
    return {
        "id": name,
        "path": sys.executable,
        "args": f"-m {module} {name} {given} {out}",
        "inputs": {key: {"source": source, "queue_size": queued} for key, source in inputs.items()},
        "outputs": outputs,
    }


def run_dataflow(nodes: list[dict[str, Any]], out: Path, until: str) -> None:
    """Run the nodes until one of them has left this file in ``out``."""
    path = out / "dataflow.yml"
    path.write_text(json.dumps({"nodes": nodes}), encoding="utf-8")  # JSON is YAML
    process = subprocess.Popen([Path(sys.executable).with_name("dora"), "run", path, "--log-level", "error"], cwd=out)
    while process.poll() is None and not (out / until).exists():
        time.sleep(0.1)
    process.terminate()
    process.wait(10)


def main(job_folder: Path, out: Path) -> None:
    """Play the job."""
    streams = Job(job_folder).streams
    node = partial(node_of, "benchmarks.peers.dora_nodes", given=job_folder, out=out)
    sources = [node(stream, inputs={}, outputs=["sample"]) for stream in streams]
    encoder = node("encoder", inputs={stream: f"{stream}/sample" for stream in streams}, outputs=["tokens"])
    run_dataflow([*sources, encoder, node("fusion", inputs={"tokens": "encoder/tokens"}, outputs=[])], out, "done")


if __name__ == "__main__":
    if sys.argv[1] in ("encoder", "fusion"):
        {"encoder": encoder, "fusion": fusion}[sys.argv[1]](Job(Path(sys.argv[2])), Path(sys.argv[3]))
    elif len(sys.argv) > 3:
        source(Job(Path(sys.argv[2])), Path(sys.argv[3]), sys.argv[1])
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
